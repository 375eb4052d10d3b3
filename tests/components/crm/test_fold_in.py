"""A user's taste from a rated history: numbers by hand, and from scikit-learn's ridge regression."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from components.crm.fold_in import FoldIn, ridge_regression
from components.errors import ConfigError

CONFIG = FoldIn.Config(size=1, gain=2.0, ridge=1.0, mean_ridge=3.0)


def one_wide() -> FoldIn:
    """Items 1, 2, 3 with the vectors 1, -1, 2; the target 3 has the offset 0.25."""
    model = FoldIn(CONFIG, rows=4)
    with torch.no_grad():
        model.vectors.weight.copy_(torch.tensor([[0.0], [1.0], [-1.0], [2.0]]))
        model.offset.weight[3] = 0.25
    return model


def test_the_answer_is_the_gain_times_the_ridge_prediction_plus_the_items_offset() -> None:
    # V = [[1, 1], [1, -1]], r = (0.5, -0.3): V'V = diag(2, 2), + diag(3, 1) = diag(5, 3), V'r = (0.2, 0.8).
    # w = (0.04, 0.8 / 3); 2 * (0.04 + 2 * 0.8 / 3) + 4 * 0.25 = 0.08 + 3.2 / 3 + 1
    answer = one_wide()(torch.tensor([3]), torch.tensor([[0, 1, 2]]), torch.tensor([[0.0, 0.5, -0.3]]))
    assert answer.item() == pytest.approx(1.08 + 3.2 / 3)


def test_items_without_a_rating_tell_nothing() -> None:
    model = one_wide()
    rated = model(torch.tensor([3]), torch.tensor([[1, 2]]), torch.tensor([[0.5, -0.3]]))
    with_unrated = model(torch.tensor([3]), torch.tensor([[1, 3, 2]]), torch.tensor([[0.5, 0.0, -0.3]]))
    assert with_unrated.item() == pytest.approx(rated.item())


def test_a_user_without_ratings_gets_the_items_offset() -> None:
    assert one_wide()(torch.tensor([3, 0]), torch.tensor([[0, 0], [0, 0]]), torch.zeros(2, 2)).tolist() == [1.0, 0.0]


def test_the_order_of_a_history_does_not_matter() -> None:
    torch.manual_seed(0)
    model, target = FoldIn(FoldIn.Config(size=3), rows=9), torch.tensor([8])
    ids, ratings = torch.tensor([[2, 5, 7, 3]]), torch.tensor([[0.1, -0.4, 0.2, 0.3]])
    order = torch.tensor([3, 0, 2, 1])
    assert model(target, ids[:, order], ratings[:, order]).item() == pytest.approx(model(target, ids, ratings).item())


def test_it_is_the_ridge_regression_of_scikit_learn() -> None:
    torch.manual_seed(0)
    model = FoldIn(FoldIn.Config(size=3, gain=1.0, ridge=0.7, mean_ridge=0.7), rows=9)
    ids, ratings = torch.tensor([[2, 5, 7, 3]]), torch.tensor([[0.1, -0.4, 0.2, 0.3]])
    (vectors,) = model.vectors(ids[0])
    with_one = np.c_[np.ones(4), vectors.detach().numpy()]
    ridge = Ridge(alpha=0.7, fit_intercept=False).fit(with_one, ratings[0].numpy())
    expected = ridge.predict(np.r_[1.0, model.vectors.weight[8].detach().numpy()][None])
    assert model(torch.tensor([8]), ids, ratings).detach().numpy() == pytest.approx(expected, abs=1e-6)


def test_item_vectors_are_learned_through_the_solution() -> None:
    model = one_wide()
    model(torch.tensor([3]), torch.tensor([[0, 1, 2]]), torch.tensor([[0.0, 0.5, -0.3]])).sum().backward()
    gradient = model.vectors.weight.grad
    assert gradient is not None
    assert gradient[0].item() == 0
    assert gradient[1:].abs().min() > 0


def test_the_solutions_gradient_is_that_of_a_plain_solver() -> None:
    torch.manual_seed(0)
    known, rating, ridge = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True), torch.randn(2, 4).double(), torch.rand(3).double()
    factor = torch.randn(2, 3).double()
    plain = torch.linalg.solve(known.mT @ known + torch.diag(ridge), (known.mT @ rating.unsqueeze(2)).squeeze(2))
    found = ridge_regression(known, rating, ridge)
    torch.testing.assert_close(found, plain)
    (expected,), (gradient,) = (torch.autograd.grad((each * factor).sum(), known) for each in (plain, found))
    torch.testing.assert_close(gradient, expected)


def test_half_precision_weights_are_solved_in_full_precision() -> None:
    model = one_wide().bfloat16()
    answer = model(torch.tensor([3]), torch.tensor([[0, 1, 2]]), torch.tensor([[0.0, 0.5, -0.3]]))
    assert answer.dtype == torch.bfloat16
    assert answer.item() == pytest.approx(1.08 + 3.2 / 3, rel=2**-7)


@pytest.mark.parametrize("wrong", [{"size": -1}, {"gain": 0.0}, {"ridge": 0.0}, {"mean_ridge": -1.0}])
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"crm\.fold_in: expected"):
        FoldIn.Config(**wrong)  # pyright: ignore[reportArgumentType]
