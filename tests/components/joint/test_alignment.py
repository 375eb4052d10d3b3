"""The alignment loss by hand: two samples, an LLM of 3 blocks of width 2, CRM layers of widths 1 and 2, a common space of width 2."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from components.errors import ConfigError
from components.joint.alignment import Alignment, Config, spread_pairs

LLM = tuple(torch.tensor(block) for block in ([[9.0, 9.0], [9.0, 9.0]], [[3.0, 4.0], [1.0, 1.0]], [[2.0, 0.0], [0.0, 5.0]]))
CRM = tuple(torch.tensor(layer) for layer in ([[1.0], [2.0]], [[2.0, 2.0], [0.0, 1.0]]))


def made(exponent: float, pairs: tuple[tuple[int, int], ...] = ((1, 0), (2, 1))) -> Alignment:
    """g_llm is the identity, g_crm repeats its one number or swaps its two, plus (0, 1)."""
    alignment = Alignment(Config(pairs, width=2, exponent=exponent), llm_width=2, llm_blocks=3, crm_widths=(1, 2))
    crm_weight = {0: torch.tensor([[1.0], [1.0]]), 1: torch.tensor([[0.0, 1.0], [1.0, 0.0]])}
    with torch.no_grad():
        for (_, layer), from_llm, from_crm in zip(alignment.pairs, alignment.from_llm, alignment.from_crm, strict=True):
            from_llm.weight.copy_(torch.eye(2))
            from_llm.bias.zero_()
            from_crm.weight.copy_(crm_weight[layer])
            from_crm.bias.copy_(torch.tensor([0.0, 1.0]))
    return alignment


# Gaps of pair (1, 0): (3, 4) - (1, 2) = (2, 2) and (1, 1) - (2, 3) = (-1, -2): squared lengths 8 and 5.
# Gaps of pair (2, 1): (2, 0) - (2, 3) = (0, -3) and (0, 5) - (1, 1) = (-1, 4): squared lengths 9 and 17.
def test_with_exponent_2_it_is_the_mean_over_samples_of_squared_distances() -> None:
    assert made(2.0)(LLM, CRM).item() == pytest.approx((8 + 9 + 5 + 17) / 2)


def test_with_exponent_1_it_is_the_mean_over_samples_of_distances() -> None:
    assert made(1.0)(LLM, CRM).item() == pytest.approx((8**0.5 + 3 + 5**0.5 + 17**0.5) / 2)


def test_its_gradient_is_twice_the_gap_over_the_samples() -> None:
    llm = tuple(state.clone().requires_grad_() for state in LLM)
    made(2.0, ((1, 0),))(llm, CRM).backward()
    assert llm[1].grad is not None
    assert llm[1].grad.tolist() == [[2.0, 2.0], [-1.0, -2.0]]
    assert llm[0].grad is None


@pytest.mark.parametrize("exponent", [1.0, 2.0])
def test_states_that_agree_already_have_a_finite_gradient(exponent: float) -> None:
    llm = (torch.zeros(2, 2), torch.tensor([[1.0, 2.0], [2.0, 3.0]], requires_grad=True), torch.zeros(2, 2))
    loss = made(exponent, ((1, 0),))(llm, CRM)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-5)
    grad: Tensor | None = llm[1].grad
    assert grad is not None
    assert grad.isfinite().all()


@pytest.mark.parametrize(
    ("blocks", "layers", "pairs"),
    [
        (3, 3, ((0, 0), (1, 1), (2, 2))),
        (32, 3, ((10, 0), (21, 1), (31, 2))),
        (2, 3, ((0, 0), (1, 1), (1, 2))),  # a block may serve two layers
        (4, 1, ((3, 0),)),
    ],
)
def test_by_default_every_crm_layer_gets_a_block_and_the_last_gets_the_last(blocks: int, layers: int, pairs: tuple) -> None:
    assert spread_pairs(blocks, layers) == pairs
    assert Alignment(Config(), 2, blocks, (1,) * layers).pairs == pairs


@pytest.mark.parametrize("pair", [(3, 0), (0, 2), (-1, 0), (0, -1)])
def test_a_pair_that_does_not_exist_is_refused_with_what_does(pair: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=r"blocks 0 to 2 and CRM layers 0 to 1, got \(" + f"{pair[0]}, {pair[1]}"):
        made(2.0, (pair,))


@pytest.mark.parametrize("keys", [{"width": 0}, {"exponent": 0.0}, {"exponent": -1.0}])
def test_an_impossible_shape_is_refused(keys: dict) -> None:
    with pytest.raises(ConfigError, match=r"^train\.alignment\.(width: expected 1 or more|exponent: expected more than 0), got"):
        Config(**keys)
