"""The joint loss by hand: two samples, models that answer what they are told."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from components.errors import ConfigError
from components.joint.alignment import Alignment, Config
from components.joint.model import JointBatch, JointModel, LossWeights
from components.types import CrmBatch, CrmOutput, LlmOutput, TokenBatch

NO_ROWS = torch.zeros(2, 0)
CRM_BATCH = CrmBatch(NO_ROWS.long(), NO_ROWS, NO_ROWS.long(), NO_ROWS)
TOKENS = TokenBatch(NO_ROWS.long(), NO_ROWS.long(), torch.zeros(2).long())
LABEL = torch.tensor([1.0, 0.0])
# Cross-entropies: CRM -log(1/2) twice; LLM logits ln 3 and ln 3, so p = 3/4: -log(3/4) and -log(1/4).
CRM_LOSS, LLM_LOSS = math.log(2), (math.log(4 / 3) + math.log(4)) / 2


class Told(nn.Module):
    """Answers the same, and remembers how it was asked."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output, self.asked = output, {}

    def forward(self, batch: Any, **asked: Any) -> Any:
        self.asked = asked
        return self.output


def crm() -> Told:
    return Told(CrmOutput(torch.zeros(2), (torch.tensor([[1.0], [2.0]]),)))


def llm() -> Told:
    return Told(LlmOutput(torch.tensor([[1.0, 1.0 + math.log(3)], [0.0, math.log(3)]]), (torch.tensor([[2.0], [4.0]]),)))


def identity() -> Alignment:
    """Distance of the plain numbers: gaps 1 and 2, mean of squares 2.5."""
    alignment = Alignment(Config(width=1), 1, 1, (1,))
    with torch.no_grad():
        for layer in (*alignment.from_llm, *alignment.from_crm):
            layer.weight.fill_(1.0)
            layer.bias.zero_()
    return alignment


def test_the_loss_is_the_weighted_sum_of_its_parts() -> None:
    model = JointModel(crm(), llm(), identity(), LossWeights(llm=2.0, crm=0.5, alignment=0.1))
    output = model(JointBatch(LABEL, CRM_BATCH, TOKENS))
    assert {name: part.item() for name, part in output.parts.items()} == pytest.approx({"crm": CRM_LOSS, "llm": LLM_LOSS, "alignment": 2.5})
    assert output.loss.item() == pytest.approx(2.0 * LLM_LOSS + 0.5 * CRM_LOSS + 0.25)
    assert output.crm_logits_B.tolist() == [0.0, 0.0]
    assert output.llm_logits_B.tolist() == pytest.approx([math.log(3), math.log(3)])


def test_a_model_that_is_absent_has_no_part() -> None:
    alone = JointModel(None, llm(), None, LossWeights(llm=1.0))(JointBatch(LABEL, None, TOKENS))
    assert set(alone.parts) == {"llm"}
    assert alone.loss.item() == pytest.approx(LLM_LOSS)
    assert alone.crm_logits_B is None
    warm = JointModel(crm(), None, None, LossWeights(crm=3.0))(JointBatch(LABEL, CRM_BATCH))
    assert set(warm.parts) == {"crm"}
    assert warm.loss.item() == pytest.approx(3 * CRM_LOSS)
    assert warm.llm_logits_B is None


def test_without_input_a_model_is_not_asked_and_nothing_is_aligned() -> None:
    model = JointModel(crm(), llm(), identity(), LossWeights(1.0, 1.0, 1.0))
    assert set(model(JointBatch(LABEL, CRM_BATCH)).parts) == {"crm"}
    assert set(model(JointBatch(LABEL, None, TOKENS)).parts) == {"llm"}


def test_hidden_states_are_asked_for_only_where_they_are_aligned() -> None:
    model = JointModel(crm(), llm(), identity(), LossWeights(1.0, 1.0, 1.0))
    model(JointBatch(LABEL, CRM_BATCH, TOKENS))
    assert model.llm.asked == {"with_hidden": True}
    model(JointBatch(LABEL, None, TOKENS))
    assert model.llm.asked == {"with_hidden": False}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({}, "^llm: expected a weight above 0 for llm or crm"),
        ({"alignment": 1.0}, "^llm: expected a weight above 0 for llm or crm"),
        ({"llm": 1.0, "crm": -1.0}, "^crm: expected 0 or more, got -1"),
        ({"llm": 1.0, "alignment": -0.1}, "^alignment: expected 0 or more, got -0.1"),
        ({"llm": 1.0, "alignment": 0.1}, r"^alignment: expected 0 where only one model is trained \(llm 1, crm 0\), got 0.1"),
        ({"crm": 1.0, "alignment": 0.1}, r"^alignment: expected 0 where only one model is trained \(llm 0, crm 1\), got 0.1"),
    ],
)
def test_weights_that_train_nothing_or_away_from_the_goal_are_refused(weights: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LossWeights(**weights)
