"""Dice and the tower, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from components.crm.layers import Dice, Tower


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
