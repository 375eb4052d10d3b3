import pytest
import torch

from components.llm import shared_attention
from components.llm.shared_attention import attention


def drawn(tokens: int, heads: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(3, tokens, heads, 8, generator=torch.Generator().manual_seed(tokens * heads)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
def test_other_devices_find_what_the_processor_finds(monkeypatch: pytest.MonkeyPatch, causal: bool, dtype: torch.dtype) -> None:
    inputs = drawn(7, 4, dtype), drawn(7, 2, dtype), drawn(7, 2, dtype) + 1
    beyond = None if causal else torch.arange(7) >= torch.tensor([[7], [3], [1]])
    found, sums = attention(*inputs, 0.3, causal, beyond)
    monkeypatch.setattr(shared_attention, "_flash", shared_attention._by_products)
    expected, expected_sums = attention(*inputs, 0.3, causal, beyond)
    assert (found.dtype, sums.dtype) == (expected.dtype, expected_sums.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(found, expected, atol=2e-2 if dtype == torch.bfloat16 else 1e-6, rtol=0)
    torch.testing.assert_close(sums, expected_sums, atol=1e-2 if dtype == torch.bfloat16 else 1e-6, rtol=0)


def test_two_keys_share_the_softmax() -> None:
    key = torch.tensor([[0.0], [2.0], [5.0]]).log().clamp(min=-9).view(1, 3, 1, 1).repeat(1, 1, 1, 8) / 8
    value = torch.tensor([1.0, 10.0, 100.0]).view(1, 3, 1, 1).repeat(1, 1, 1, 8)
    beyond = torch.tensor([[True, False, False]])
    found, sums = attention(torch.ones(1, 1, 1, 8), key, value, 1.0, beyond_BM=beyond)
    torch.testing.assert_close(found.flatten(), torch.full((8,), (2 * 10 + 5 * 100) / 7))
    assert sums.item() == pytest.approx(1.9459101)  # ln 7
