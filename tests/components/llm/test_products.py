import peft
import pytest
import torch
from torch import nn
from torch.nn import functional

from components.llm import products
from components.llm.products import linear


@pytest.fixture(params=["fused", "one after the other"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "fused":
        monkeypatch.setattr(products, "_packs", lambda device, dtype: False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
def test_what_follows_a_layer_is_computed_with_it(bias: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    layer, x, other = nn.Linear(48, 32, bias=bias).to(dtype), torch.randn(5, 48).to(dtype), torch.randn(5, 32).to(dtype)
    close = {"atol": 0.05, "rtol": 0} if dtype == torch.bfloat16 else {"atol": 1e-6, "rtol": 1e-5}
    with torch.inference_mode():
        plain = layer(x)
        torch.testing.assert_close(linear(layer, x), plain, **close)
        torch.testing.assert_close(linear(layer, x, "silu"), functional.silu(plain), **close)
        torch.testing.assert_close(linear(layer, x, "times", other), plain * other, **close)
        torch.testing.assert_close(linear(layer, x, "plus", other), plain + other, **close)


def test_a_layer_that_is_more_than_its_weight_is_called() -> None:
    torch.manual_seed(1)
    model = peft.get_peft_model(nn.Sequential(nn.Linear(8, 8)), peft.LoraConfig(target_modules=["0"], init_lora_weights=False)).eval()
    adapted, x = model.base_model.model[0], torch.randn(3, 8)
    with torch.inference_mode():
        torch.testing.assert_close(linear(adapted, x, "silu"), functional.silu(adapted(x)))
        assert not torch.allclose(adapted(x), adapted.base_layer(x))
