from __future__ import annotations

import numpy as np
import pytest
import torch

from components import metrics
from components.losses import click_loss


def test_the_click_loss_of_logits_is_the_logloss_of_their_probabilities() -> None:
    logits_B, label_B = torch.tensor([0.3, -2.0, 4.0, 0.0]), torch.tensor([1, 0, 0, 1])
    expected = metrics.logloss(label_B.numpy(), torch.sigmoid(logits_B).double().numpy())
    assert click_loss(logits_B, label_B).item() == pytest.approx(expected, rel=1e-5)


def test_the_click_loss_of_bf16_logits_is_computed_in_float32() -> None:
    loss = click_loss(torch.zeros(2, dtype=torch.bfloat16), torch.tensor([0.0, 1.0]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(np.log(2))
