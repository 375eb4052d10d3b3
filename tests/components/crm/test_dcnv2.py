"""DCNv2: cross layers by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from components.crm.dcnv2 import CrossLayer, Dcnv2
from components.crm.registry import CrmConfig, build
from components.errors import ConfigError
from tests.components.crm.samples import INPUTS, batch


def set_weights(layer: nn.Module, weight: list[list[float]], bias: list[float] | None) -> None:
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))


def test_a_cross_layer_multiplies_the_first_input_by_a_linear_map_of_the_last() -> None:
    layer = CrossLayer(2, rank=0)
    set_weights(layer.weight, [[1.0, 2.0], [0.0, -1.0]], [0.5, 1.0])
    # W x + b = (3 + 8 + .5, -4 + 1) = (11.5, -3); x_0 * that + x with x_0 = (2, 5): (23 + 3, -15 + 4)
    assert layer(torch.tensor([[2.0, 5.0]]), torch.tensor([[3.0, 4.0]])).tolist() == [[26.0, -11.0]]


def test_a_cross_layer_of_low_rank_uses_the_product_of_two_thin_matrices() -> None:
    layer = CrossLayer(2, rank=1)
    assert isinstance(layer.weight, nn.Sequential)
    set_weights(layer.weight[0], [[1.0, 2.0]], None)  # V'
    set_weights(layer.weight[1], [[3.0], [-1.0]], [0.5, 0.0])  # U and b
    # V'x = 3 + 8 = 11, U V'x + b = (33.5, -11); x_0 * that + x with x_0 = (2, 5): (67 + 3, -55 + 4)
    assert layer(torch.tensor([[2.0, 5.0]]), torch.tensor([[3.0, 4.0]])).tolist() == [[70.0, -51.0]]


def test_low_rank_has_fewer_parameters() -> None:
    def count(rank: int) -> int:
        return sum(parameter.numel() for parameter in CrossLayer(10, rank).parameters())

    assert (count(0), count(2)) == (10 * 10 + 10, 2 * 10 * 2 + 10)


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
def test_the_tower_stands_beside_the_cross_layers_or_on_top_of_them(structure: str) -> None:
    config = CrmConfig(embedding_size=4, history="mean", dcnv2=Dcnv2.Config(cross_layers=2, hidden_sizes=(6, 5), structure=structure))  # pyright: ignore[reportArgumentType]
    model = build(config, INPUTS).eval()
    assert isinstance(model, Dcnv2)
    width = 3 * 4 + 2 + 2 * 4  # fields, numbers, pooled history
    assert model.head.in_features == (width + 5 if structure == "parallel" else 5)
    before = model(batch()).logits_B
    with torch.no_grad():
        model.cross[1].weight.bias += 1.0  # pyright: ignore[reportOperatorIssue, reportAttributeAccessIssue]
    assert not torch.equal(model(batch()).logits_B, before), "the cross layers reach the logit"
    assert model.hidden_widths == (width, width)


def test_logits_add_the_fold_in_to_the_networks_own() -> None:
    torch.manual_seed(0)
    model = build(CrmConfig(), INPUTS).eval()
    assert isinstance(model, Dcnv2)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.fill_(0.5)
    torch.testing.assert_close(model(batch()).logits_B, model.inputs(batch()).prior_B + 0.5)


@pytest.mark.parametrize("wrong", [{"cross_layers": 0}, {"rank": -1}, {"hidden_sizes": ()}, {"hidden_sizes": (8, 0)}])
def test_impossible_shapes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"dcnv2.*expected"):
        Dcnv2.Config(**wrong)  # pyright: ignore[reportArgumentType]
