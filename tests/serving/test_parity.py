"""Requests routed online, one by one, against the whole table routed offline by the same policy."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from components.features.tables import read_samples
from components.features.visit import Candidate, Visit
from components.joint.arms import CrmArm, LlmArm
from components.joint.ensemble import Ensemble
from components.routing.calibration import Identity, Platt, Temperature
from components.routing.policy import Policy, crm_only
from components.routing.router import EntropyRouter, GainRouter, MarginRouter
from serving.router import Limits, Scored, route
from tests.serving import ensembles

pytestmark = pytest.mark.usefixtures("one_thread")
GAIN = GainRouter(-0.35, (0.6, -0.05, 0.01, 0.1, 0.02, 0.1))
POLICIES = {
    "entropy, replace": Policy(EntropyRouter(), 0.6, "replace", 1.0, Identity(), Identity(), "candidate", 1.0, 0.5),
    "entropy, mix": ensembles.POLICY,
    "margin, mix": Policy(MarginRouter(), -0.2, "mix", 0.4, Platt(1.3, -0.2), Temperature(1.5), "candidate", 1.0, 0.5),
    "gain, replace": Policy(GAIN, 0.02, "replace", 1.0, Temperature(0.8), Platt(0.7, 0.1), "candidate", 1.0, 0.5),
    "gain, mix": Policy(GAIN, 0.02, "mix", 0.6, Platt(1.3, -0.2), Identity(), "candidate", 1.0, 0.5),
    "whole requests": Policy(EntropyRouter(), 0.55, "mix", 0.5, Identity(), Identity(), "request", 1.0, 0.5),
    "never": crm_only(),
    "always": Policy(EntropyRouter(), -np.inf, "replace", 1.0, Identity(), Identity(), "candidate", 1.0, 1.0),
}


@dataclass(frozen=True)
class Both:
    """The ensemble as it is asked offline and online, and the rows to ask about."""

    ensemble: Ensemble
    crm: CrmArm
    llm: LlmArm
    frame: pd.DataFrame  # as Ensemble.predict takes it; each user's rows are one request


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = ensembles.make(tmp_path_factory.mktemp("parity"))
    ensemble = Ensemble.load(str(folder))
    last = read_samples(str(folder.parent / "data" / "tables" / "valid")).to_pandas().drop_duplicates("user_row", keep="last")
    items = ensemble.store.items["item_id"].to_numpy(object)
    rows = [
        {
            "user_id": row.user_id,
            "item_id": f"i{(11 * number + row.user_row) % 24}",
            "timestamp_s": 1_000 + row.user_row,
            "history_items": items[row.history_rows].tolist(),
            "history_ratings": row.history_ratings.tolist(),
            "earlier_count": row.earlier_count,
        }
        for row in last.itertuples()
        for number in range(6)
    ]
    return Both(ensemble, CrmArm.load(str(folder)), LlmArm.load(str(folder), 4096), pd.DataFrame(rows))


def online(both: Both, policy: Policy) -> list[Scored]:
    async def ask(visit: Visit, timeout_s: float) -> np.ndarray:
        return both.llm.score([visit])[0]

    answers = []
    for _, rows in both.frame.groupby("user_id", sort=False):
        first: Any = rows.iloc[0]
        history = tuple(zip(first["history_items"], first["history_ratings"], strict=True))
        visit = Visit(first["user_id"], {}, history, int(first["earlier_count"]), tuple(map(Candidate, rows["item_id"])))
        scores = both.crm.score(both.crm.resolver.resolve(visit))
        answers.append(asyncio.run(route(policy, visit, scores, ask, Limits(deadline_s=1e9), lambda: 0.0)))
    return answers


@pytest.mark.parametrize("name", POLICIES)
def test_requests_online_get_what_the_table_gets_offline(both: Both, name: str) -> None:
    policy = POLICIES[name]
    ensemble = Ensemble(both.ensemble.store, both.ensemble.crm, both.ensemble.llm, both.ensemble.prompts, policy)
    expected, found = ensemble.predict(both.frame), online(both, policy)
    assert_array_equal(np.concatenate([one.arm for one in found]), expected["arm"])
    for column, values in (("p_routed", "score"), ("p_crm", "p_crm"), ("p_llm", "p_llm")):
        assert_allclose(np.concatenate([getattr(one, values) for one in found]), expected[column], rtol=0, atol=1e-6, err_msg=column)
    assert {one.degraded_cause for one in found} == {None}
    share = float((expected["arm"] == "llm").mean())
    assert share == {"never": 0.0, "always": 1.0}.get(name, share)
    assert name in ("never", "always") or 0.05 < share < 0.95, "both arms have something to say"
