from __future__ import annotations

import json
from typing import get_args

import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar
from sklearn.isotonic import IsotonicRegression

from components import metrics
from components.errors import ArtifactError, DataError
from components.routing import calibration
from components.routing.calibration import CalibrationName, Isotonic, Platt, Temperature
from components.routing.signals import logit, sigmoid

NAMES: tuple[CalibrationName, ...] = get_args(CalibrationName)


def _overconfident(rows: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    truth = random.normal(size=rows)
    label = (random.random(rows) < sigmoid(truth)).astype(np.int8)
    return sigmoid(2.5 * truth + 1.0), label


def test_temperature_is_the_one_that_scipy_finds_best() -> None:
    p, label = _overconfident()
    fitted = calibration.fit("temperature", p, label)
    best = minimize_scalar(lambda t: metrics.logloss(label, sigmoid(logit(p) / t)), bounds=(0.1, 20), method="bounded")
    assert isinstance(fitted, Temperature)
    assert fitted.temperature == pytest.approx(best.x, rel=1e-3)


def test_platt_is_the_line_that_scipy_finds_best() -> None:
    p, label = _overconfident()
    fitted = calibration.fit("platt", p, label)
    best = minimize(lambda line: metrics.logloss(label, sigmoid(line[0] * logit(p) + line[1])), [1.0, 0.0], method="Nelder-Mead")
    assert isinstance(fitted, Platt)
    # The truth: logit = (x - 1) / 2.5.
    assert (fitted.slope, fitted.offset) == pytest.approx((0.4, -0.4), abs=0.03)
    assert (fitted.slope, fitted.offset) == pytest.approx(tuple(best.x), abs=2e-3)


def test_isotonic_by_its_knots_is_what_sklearn_predicts() -> None:
    p, label = _overconfident(2_000)
    fitted = calibration.fit("isotonic", p, label)
    reference = IsotonicRegression(y_min=0.001, y_max=0.999, out_of_bounds="clip").fit(p, label)
    seen = np.r_[np.linspace(0, 1, 301), p]
    assert fitted.apply(seen) == pytest.approx(reference.predict(seen), abs=1e-6)


def test_isotonic_pools_the_rows_that_are_out_of_order() -> None:
    # .2 (click) stands before .3 (none): both become 1/2; .1 and .9 stay, held off certainty.
    fitted = calibration.fit("isotonic", np.array([0.1, 0.2, 0.3, 0.9]), np.array([0, 1, 0, 1]))
    assert fitted.apply(np.array([0.1, 0.2, 0.25, 0.3, 0.9])) == pytest.approx([0.001, 0.5, 0.5, 0.5, 0.999], abs=1e-6)


@pytest.mark.parametrize("name", NAMES[1:])
def test_calibration_lowers_the_ece_of_an_overconfident_model(name: CalibrationName) -> None:
    p, label = _overconfident()
    before, after = metrics.ece(label, p), metrics.ece(label, calibration.fit(name, p, label).apply(p))
    assert before > 0.1
    # A temperature alone can't mend a shift.
    assert after < (0.1 if name == "temperature" else 0.02)


@pytest.mark.parametrize("name", NAMES)
def test_calibration_never_turns_the_order_of_two_scores_round(name: CalibrationName) -> None:
    p, label = _overconfident(3_000)
    for labels in (label, 1 - label):
        ordered = calibration.fit(name, p, labels).apply(np.sort(p))
        assert (np.diff(ordered) >= 0).all()
        assert ((ordered >= 0) & (ordered <= 1)).all()


@pytest.mark.parametrize("name", NAMES)
def test_calibration_keeps_the_auc(name: CalibrationName) -> None:
    p, label = _overconfident(3_000)
    assert metrics.auc(label, calibration.fit(name, p, label).apply(p)) == pytest.approx(metrics.auc(label, p), abs=1e-12)


def test_a_model_that_points_the_wrong_way_becomes_nearly_constant() -> None:
    p, label = _overconfident()
    flat = calibration.fit("platt", 1 - p, label).apply(p)
    assert flat.max() - flat.min() < 0.05
    assert flat.mean() == pytest.approx(label.mean(), abs=0.02)


def test_rows_without_a_probability_are_left_out_of_the_fit() -> None:
    p, label = _overconfident(1_000)
    holes = np.where(np.arange(1_000) % 3 == 0, np.nan, p)
    known = np.isfinite(holes)
    assert calibration.fit("platt", holes, label) == calibration.fit("platt", p[known], label[known])


def test_labels_of_one_kind_are_refused() -> None:
    with pytest.raises(DataError, match="both labels"):
        calibration.fit("platt", np.array([0.2, 0.8]), np.array([1, 1]))


@pytest.mark.parametrize("name", NAMES)
def test_a_calibration_read_back_from_json_is_the_same(name: CalibrationName) -> None:
    p, label = _overconfident(500)
    fitted = calibration.fit(name, p, label)
    again = calibration.from_json(json.loads(json.dumps(fitted.to_json())))
    assert again == fitted
    assert (again.apply(p) == fitted.apply(p)).all()


@pytest.mark.parametrize(
    "value",
    [
        *({"name": "beta"}, {}, {"name": "platt", "slope": 1}, {"name": "platt", "slope": "x", "offset": 0}),
        *({"name": "platt", "slope": slope, "offset": 0.0} for slope in (0.0, -1.0, np.nan, np.inf)),
        {"name": "platt", "slope": 1.0, "offset": np.nan},
        *({"name": "temperature", "temperature": temperature} for temperature in (0.0, -1.0, np.nan, np.inf)),
        *({"name": "isotonic", "knots": knots, "values": [0.2, 0.4]} for knots in ([], [0.1], [0.2, 0.1], [0.1, np.nan], 5)),
        *({"name": "isotonic", "knots": [0.1, 0.2], "values": values} for values in ([0.4, 0.2], [-0.1, 0.5], [0.5, 1.1], [0.5, np.inf])),
        {"name": "isotonic", "knots": [], "values": []},
    ],
    ids=str,
)
def test_json_that_is_no_calibration_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(ArtifactError):
        calibration.from_json(value)


def test_isotonic_is_nearly_flat_beyond_its_knots_and_keeps_the_order_there() -> None:
    calibrated = Isotonic((0.2, 0.4), (0.3, 0.5)).apply(np.array([0.0, 0.2, 0.3, 0.4, 1.0]))
    # a millionth of each is the model's own probability: .999999 * .3 + .000001 * 0 and so on
    assert calibrated == pytest.approx([0.2999997, 0.2999999, 0.3999999, 0.4999999, 0.5000005], abs=1e-12)
