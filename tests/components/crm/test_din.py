"""DIN: attention over a rated history, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from components.crm.din import Attention, Din
from components.crm.inputs import Embedded
from components.errors import ConfigError


def tiny(softmax: bool) -> Attention:
    """Vectors of width 1; the activation unit answers the product of key and query."""
    attention = Attention(1, (1,), softmax)
    with torch.no_grad():
        attention.rating_D.fill_(2.0)
        unit, score = attention.unit.layers[0], attention.score
        assert isinstance(unit, nn.Linear)
        unit.weight.copy_(torch.tensor([[0.0, 0.0, 0.0, 1.0]]))
        unit.bias.zero_()
        score.weight.fill_(1.0)
        score.bias.zero_()
    return attention


def embedded(history: list[float], rating: list[float], seen: list[bool], target: float = 3.0) -> Embedded:
    def row(values: list[float] | list[bool]) -> Tensor:
        return torch.tensor([values])

    return Embedded(torch.zeros(1, 0), torch.tensor([[target]]), row(history).unsqueeze(2), row(rating), row(seen), torch.zeros(1))


def test_attention_weighs_each_key_by_the_activation_unit() -> None:
    # keys 0.5 + 2 * 0.25 = 1 and 3 - 2 * 0.5 = 2, times the query 3: scores 3 and 6; 3 * 1 + 6 * 2 = 15
    history = embedded([0.0, 0.5, 3.0], [0.0, 0.25, -0.5], [False, True, True])
    assert tiny(softmax=False)(history).tolist() == [[15.0]]


def test_attention_with_softmax_sums_to_one_over_the_history() -> None:
    history = embedded([0.0, 0.5, 3.0], [0.0, 0.25, -0.5], [False, True, True])
    share = 1 / (1 + math.exp(-3))  # of the second key: scores 3 and 6
    assert tiny(softmax=True)(history).item() == pytest.approx((1 - share) * 1 + share * 2)


@pytest.mark.parametrize("softmax", [False, True])
def test_an_empty_history_is_no_interest(softmax: bool) -> None:
    interest = tiny(softmax)(embedded([0.0, 0.0], [0.0, 0.0], [False, False]))
    assert interest.tolist() == [[0.0]]


@pytest.mark.parametrize("softmax", [False, True])
def test_an_empty_history_gives_finite_gradients(softmax: bool) -> None:
    attention = tiny(softmax)
    attention(embedded([0.0, 0.0], [0.0, 0.0], [False, False])).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in attention.parameters() if parameter.grad is not None)


def test_the_negative_side_of_the_activation_unit_is_learned() -> None:
    # A negative score passes PReLU with its first slope, 0.25: key 1, query -4, score -4 * 0.25 = -1.
    assert tiny(softmax=False)(embedded([1.0], [0.0], [True], target=-4.0)).tolist() == [[-1.0]]


@pytest.mark.parametrize("wrong", [{"attention_sizes": ()}, {"hidden_sizes": (0,)}])
def test_impossible_shapes_are_refused(wrong: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ConfigError, match=r"din\.\w+_sizes: expected"):
        Din.Config(**wrong)  # pyright: ignore[reportArgumentType]
