"""The loss of a click model. Axis: B batch."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def click_loss(logits_B: Tensor, label_B: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of click logits and labels (0 or 1), computed in float32 whatever the model's precision."""
    return binary_cross_entropy_with_logits(logits_B.float(), label_B.float())
