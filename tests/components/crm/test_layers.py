"""Dice and the tower, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from components.crm.layers import Dice, Head, Linear, Tower


def test_dice_gates_by_the_standardised_value() -> None:
    dice = Dice(1)
    with torch.no_grad():
        dice.alpha_W.fill_(0.5)
    # mean 2, deviation 1: standardised -1 and 1; p = sigmoid(-1), sigmoid(1); p x + (1 - p) x / 2 = x (1 + p) / 2
    low, high = dice.train()(torch.tensor([[1.0], [3.0]])).flatten().tolist()
    p = 1 / (1 + math.exp(-1))
    assert (low, high) == (pytest.approx(1 * (1 + 1 - p) / 2), pytest.approx(3 * (1 + p) / 2))


def test_dice_takes_a_batch_of_one() -> None:
    # One row is judged by the running figures, here mean 0 and variance 1.
    assert Dice(1).train()(torch.tensor([[2.0]])).item() == pytest.approx(2 / (1 + math.exp(-2)), rel=1e-6)


def test_a_tower_keeps_what_each_layer_answered() -> None:
    tower = Tower(2, (2, 1), "relu", dropout=0.0)
    with torch.no_grad():
        for layer in tower.layers:
            layer.weight.fill_(1.0)  # pyright: ignore[reportCallIssue, reportArgumentType]
            layer.bias.zero_()  # pyright: ignore[reportCallIssue]
        tower.layers[0].weight[1] = -1.0  # pyright: ignore[reportIndexIssue]
    # (1, 2) -> (3, -3) -> relu (3, 0) -> 3
    assert [output.tolist() for output in tower(torch.tensor([[1.0, 2.0]]))] == [[[3.0, 0.0]], [[3.0]]]


def test_a_head_answers_as_if_its_parts_were_one_vector() -> None:
    head = Head(3)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, -2.0, 3.0]]))
        head.bias.fill_(0.5)
    # 1 * 4 - 2 * 5 + 3 * 6 + .5
    assert head(torch.tensor([[4.0, 5.0]]), torch.tensor([[6.0]])).tolist() == [12.5]
    assert head(torch.tensor([[4.0, 5.0, 6.0]])).tolist() == [12.5]
    assert head(torch.ones(2, 3, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_computes_in_the_precision_of_what_it_reads_and_learns_in_its_own(dtype: torch.dtype) -> None:
    layer = Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0**-12]]))
        layer.bias.zero_()
    found = layer(torch.tensor([[1.0, 1.0]], dtype=dtype))
    assert found.dtype == dtype
    assert found.item() == (1.0 + 2.0**-12 if dtype == torch.float32 else 1.0)  # bf16 keeps 8 bits
    found.sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
