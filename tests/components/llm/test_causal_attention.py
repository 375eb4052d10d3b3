import pytest
import torch
from torch import Tensor

from components.llm import causal_attention
from components.llm.causal_attention import attend, attend_last

LENGTHS = (3, 1, 6)


def test_a_token_sees_its_own_prompt_up_to_itself() -> None:
    # Keys of zeros: all that is seen weighs the same. Prompts of two tokens and of one.
    nothing_SHE, value_SKE = torch.zeros(3, 1, 1), torch.tensor([1.0, 3.0, 5.0])[:, None, None]
    for dtype in (torch.float32, torch.bfloat16):
        inputs = [each.to(dtype) for each in (nothing_SHE, nothing_SHE, value_SKE)]
        assert attend(*inputs, (2, 1), 1.0).flatten().tolist() == [1.0, 2.0, 5.0]
    assert attend_last(nothing_SHE[:2], nothing_SHE, value_SKE, (2, 1), 1.0).flatten().tolist() == [2.0, 5.0]


def drawn(heads: int) -> list[Tensor]:
    """Queries of 4 heads, keys, values, and a gradient, in numbers that bfloat16 holds."""
    torch.manual_seed(0)
    return [torch.randn(sum(LENGTHS), count, 8).bfloat16().float() for count in (4, heads, heads, 4)]


def by_hand(query_SHE: Tensor, key_SKE: Tensor, value_SKE: Tensor) -> Tensor:
    """Attention as it is written in the paper, prompt by prompt, in float64."""
    found: list[Tensor] = []
    start = 0
    for length in LENGTHS:
        query, key, value = (each[start : start + length].double() for each in (query_SHE, key_SKE, value_SKE))
        groups = query.shape[1] // key.shape[1]
        scores = torch.einsum("ihe,jhe->hij", query, key.repeat_interleave(groups, 1)) * 0.3
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(later, -torch.inf).softmax(-1)
        found.append(torch.einsum("hij,jhe->ihe", weights, value.repeat_interleave(groups, 1)))
        start += length
    return torch.cat(found)


@pytest.mark.parametrize("longest", [512, 5])
@pytest.mark.parametrize("heads", [4, 2, 1])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_values_and_gradients_are_those_of_the_formula(
    monkeypatch: pytest.MonkeyPatch, longest: int, heads: int, dtype: torch.dtype, tolerance: float
) -> None:
    monkeypatch.setattr(causal_attention, "LONGEST", longest)
    *inputs, gradient = drawn(heads)
    found, expected = ([each.to(kind).requires_grad_() for each in inputs] for kind in (dtype, torch.float32))
    one, other = attend(*found, LENGTHS, 0.3), by_hand(*expected)
    one.backward(gradient.to(dtype))
    other.backward(gradient.double())
    torch.testing.assert_close(one.double(), other, atol=tolerance, rtol=tolerance)
    for each, by in zip(found, expected, strict=True):
        torch.testing.assert_close(each.grad.float(), by.grad, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("heads", [4, 2, 1])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_the_last_token_alone_finds_what_it_finds_among_all(heads: int, dtype: torch.dtype, tolerance: float) -> None:
    *inputs, gradient = drawn(heads)
    last = torch.tensor(LENGTHS).cumsum(0) - 1
    found, expected = ([each.to(kind).requires_grad_() for each in inputs] for kind in (dtype, torch.float32))
    one, other = attend_last(found[0][last], *found[1:], LENGTHS, 0.3), by_hand(*expected)[last]
    one.backward(gradient[last].to(dtype))
    other.backward(gradient[last].double())
    torch.testing.assert_close(one.double(), other, atol=tolerance, rtol=tolerance)
    for each, by in zip(found, expected, strict=True):
        torch.testing.assert_close(each.grad.float(), by.grad, atol=tolerance, rtol=tolerance)
