from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from scipy.special import logit as scipy_logit
from scipy.stats import entropy as scipy_entropy

from components.routing import signals


def test_entropy_is_ln_2_at_a_half_and_0_when_sure() -> None:
    # At .25: .25 ln 4 + .75 ln(4/3) = .346574 + .215762.
    assert signals.entropy(np.array([0.5, 0.0, 1.0, 0.25])) == pytest.approx([0.693147, 0, 0, 0.562335], abs=1e-6)


def test_entropy_agrees_with_scipy() -> None:
    p = np.linspace(0.001, 0.999, 50)
    assert signals.entropy(p) == pytest.approx(scipy_entropy(np.stack([p, 1 - p])))


def test_margin_orders_rows_as_entropy_does_backwards() -> None:
    p = np.random.default_rng(0).random(200)
    assert signals.margin(np.array([0.5, 0.2, 1.0])) == pytest.approx([0, 0.3, 0.5])
    assert (np.argsort(signals.entropy(p)) == np.argsort(-signals.margin(p))).all()


def test_logit_and_sigmoid_agree_with_scipy_and_undo_each_other() -> None:
    p = np.linspace(0.001, 0.999, 50)
    assert signals.logit(p) == pytest.approx(scipy_logit(p))
    assert signals.sigmoid(signals.logit(p)) == pytest.approx(p)
    assert signals.sigmoid(np.array([-800.0, 0.0, 800.0])) == pytest.approx(expit([-800.0, 0.0, 800.0]))


def test_the_logit_of_certainty_is_finite() -> None:
    assert signals.logit(np.array([0.0, 1.0])) == pytest.approx([-16.118, 16.118], abs=1e-3)
