"""The arms of a small ensemble against the offline way to the same answers: samples, prompts and scorers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from components.crm import Crm, CrmConfig
from components.crm import build as build_crm
from components.features.store import FeatureStore, fit_store
from components.features.tables import read_samples
from components.features.visit import Candidate, Visit
from components.joint import arms
from components.joint.arms import CrmArm, LlmArm
from components.joint.data import token_arrays
from components.joint.ensemble import Ensemble, score_crm
from components.llm import backbone, scorer
from components.llm.prompt_rows import PromptRows
from components.routing.signals import logit
from tests.components.features import test_store as contexts
from tests.serving import ensembles

pytestmark = pytest.mark.usefixtures("one_thread")
MAX_BATCH_TOKENS = 4096


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensembles.make(tmp_path_factory.mktemp("arms"))


@pytest.fixture(scope="module")
def ensemble(folder: Path) -> Ensemble:
    return Ensemble.load(str(folder))


@pytest.fixture(scope="module")
def crm(folder: Path) -> CrmArm:
    return CrmArm.load(str(folder))


@pytest.fixture(scope="module", params=[0, 1 << 20], ids=["nothing kept", "histories kept"])
def llm(folder: Path, request: pytest.FixtureRequest) -> LlmArm:
    return LlmArm.load(str(folder), MAX_BATCH_TOKENS, cache_bytes=request.param)


@pytest.fixture(scope="module")
def samples(folder: Path, ensemble: Ensemble) -> pa.Table:
    """Samples of five users, each as a request of several candidates: the items of the first three, with one history."""
    valid = read_samples(str(folder.parent / "data" / "tables" / "valid")).to_pandas()
    rows = []
    for _, own in valid.groupby("user_row", sort=True):
        shared = own.iloc[0]
        rows += [shared.to_dict() | {"item_row": item, "item_id": f"i{item}"} for item in (0, 7, int(shared["item_row"]), 20, 3)]
        if len(rows) == 25:
            break
    return pa.Table.from_pandas(pd.DataFrame(rows), schema=read_samples(str(folder.parent / "data" / "tables" / "valid")).schema)


def visits(samples: pa.Table, store: FeatureStore) -> list[Visit]:
    """Turn runs of samples of one user into visits."""
    found = []
    for _, rows in samples.to_pandas().groupby("user_row", sort=False):
        first = rows.iloc[0]
        items = store.items["item_id"].to_numpy(object)
        history = tuple(zip(items[first["history_rows"]].tolist(), first["history_ratings"].tolist(), strict=True))
        candidates = tuple(Candidate(item) for item in rows["item_id"])
        found.append(Visit(first["user_id"], {}, history, int(first["earlier_count"]), candidates))
    return found


def test_the_crm_answers_as_it_does_offline(crm: CrmArm, ensemble: Ensemble, samples: pa.Table) -> None:
    asked = visits(samples, crm.store)
    assert len(asked) == 5
    for number, visit in enumerate(asked):
        own = samples.slice(5 * number, 5)
        found, expected = crm.score(crm.resolver.resolve(visit)), score_crm(ensemble.crm, ensemble.store, own)
        for name, values in expected.items():
            assert_array_equal(found[name], values, err_msg=name)
        assert_array_equal(found["earlier_count"], own["earlier_count"].to_numpy())


def test_a_catalogue_in_parts_is_the_catalogue_at_once(crm: CrmArm, samples: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    first = visits(samples, crm.store)[0]
    everything = crm.resolver.resolve(
        Visit(first.user_id, {"mood": "mood 1"}, first.history, 3, tuple(Candidate(item) for item in crm.store.items["item_id"]))
    )
    whole = crm.score(everything)
    monkeypatch.setattr(arms, "CRM_ROWS", 7)
    parts = crm.score(everything)
    assert_allclose(parts["p_crm"], whole["p_crm"], rtol=0, atol=1e-7)
    assert len(parts["p_crm"]) == 24
    assert_array_equal(parts["item_popularity"], crm.store.items["train_count"])


def test_routers_read_what_training_counted(crm: CrmArm) -> None:
    store = crm.store
    asked = Visit("u3", {"mood": "mood 0"}, (), 9, (Candidate("i5"), Candidate("new", {"title": "New"}), Candidate("i6", {"genre": "x"})))
    found = crm.score(crm.resolver.resolve(asked))
    assert found["item_popularity"].tolist() == [store.items["train_count"][5], 0, store.items["train_count"][6]]
    assert found["user_popularity"].tolist() == [store.users["train_count"][3]] * 3
    assert found["earlier_count"].tolist() == [9, 9, 9]
    stranger = crm.score(crm.resolver.resolve(Visit(None, {}, (), 0, (Candidate("i5"),))))
    assert (stranger["user_popularity"].tolist(), stranger["earlier_count"].tolist()) == ([0], [0])


def test_the_llm_answers_as_it_does_offline(llm: LlmArm, ensemble: Ensemble, samples: pa.Table) -> None:
    expected = scorer.score(ensemble.llm, token_arrays(ensemble.prompts.encode(samples)))
    found = llm.score(visits(samples, ensemble.store))
    assert [len(p) for p in found] == [5] * 5
    assert_allclose(np.concatenate(found), expected, rtol=0, atol=1e-5)


def test_a_visit_is_answered_alike_alone_and_among_others(llm: LlmArm, ensemble: Ensemble, samples: pa.Table) -> None:
    asked = [*visits(samples, ensemble.store), Visit(None, {}, (), 0, (Candidate("i1"),))]
    for visit, p in zip(asked, llm.score(asked), strict=True):
        (alone,) = llm.score([visit])
        assert_allclose(alone, p, rtol=0, atol=1e-6)


def test_a_candidate_is_answered_alike_alone_and_among_others(llm: LlmArm, ensemble: Ensemble, samples: pa.Table) -> None:
    (visit, *_) = visits(samples, ensemble.store)
    (together,) = llm.score([visit])
    alone = [llm.score([Visit(visit.user_id, {}, visit.history, 1, (candidate,))])[0][0] for candidate in visit.candidates]
    assert_allclose(alone, together, rtol=0, atol=1e-6)


def test_descriptions_and_profiles_reach_both_arms(crm: CrmArm, llm: LlmArm) -> None:
    plain = Visit("u1", {}, (("i2", 5.0),), 1, (Candidate("i4"),))
    same = Visit("u1", {"mood": "mood 1"}, (("i2", 5.0),), 1, (Candidate("i4", {"title": "Story 4", "genre": "genre 1"}),))
    item = Visit("u1", {}, (("i2", 5.0),), 1, (Candidate("i4", {"genre": "genre 2"}),))
    user = Visit("u1", {"mood": "mood 2"}, (("i2", 5.0),), 1, (Candidate("i4"),))
    by_crm = [crm.score(crm.resolver.resolve(visit))["p_crm"][0] for visit in (plain, same, item, user)]
    by_llm = [p[0] for p in llm.score([plain, same, item, user])]
    for p in (by_crm, by_llm):
        assert p[1] == pytest.approx(p[0], abs=1e-6)
        plain_logit, _, item_logit, user_logit = logit(np.array(p))
        assert abs(item_logit - plain_logit) > 1e-4
        assert abs(user_logit - plain_logit) > 1e-4


@pytest.mark.parametrize("history", [(), (("i2", 5.0),)])
def test_no_candidates_get_no_answers(crm: CrmArm, llm: LlmArm, history: tuple[tuple[str, float], ...]) -> None:
    nothing, something = Visit("u1", {}, history, 1, ()), Visit("u1", {}, history, 1, (Candidate("i4"),))
    assert {name: len(values) for name, values in crm.score(crm.resolver.resolve(nothing)).items()} == {
        "p_crm": 0,
        "item_popularity": 0,
        "user_popularity": 0,
        "earlier_count": 0,
    }
    assert [len(p) for p in llm.score([nothing, something, nothing])] == [0, 1, 0]


def test_the_first_item_can_be_asked_about_without_knowing_the_data_set(llm: LlmArm) -> None:
    (p,) = llm.score([Visit(None, {}, (), 0, (Candidate(llm.first_item),))])
    assert 0 < p[0] < 1


@pytest.fixture(scope="module")
def with_context(folder: Path) -> tuple[FeatureStore, Crm, PromptRows, backbone.Config]:
    """Untrained models of a data set with fields of every kind."""
    store = fit_store(contexts.SCHEMA, contexts.USERS, contexts.ITEMS, contexts.CONTEXT, history_length=3, tag_width=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        crm = build_crm(CrmConfig(), store.inputs)
        for weight in crm.parameters():
            torch.nn.init.normal_(weight, std=0.2)
    config = backbone.Config(path=str(folder / "llm"), dtype="auto")
    return store, crm.eval(), PromptRows(store, backbone.load_encoder(config, 256), 3), config


def test_what_is_known_of_an_interaction_reaches_both_arms(
    with_context: tuple[FeatureStore, Crm, PromptRows, backbone.Config],
) -> None:
    store, crm, prompts, config = with_context
    model = backbone.load(config)[0]
    samples = contexts.SAMPLES
    asked = [
        Visit("ann", {}, (), 0, (Candidate("i1"),), {"device": "phone", "wait": 10, "moods": ["calm"]}),
        Visit("carl", {}, (("i1", 5.0), ("i4", 4.0)), 2, (Candidate("i4"),), {"device": "tablet", "moods": ["sad", "calm"]}),
        Visit("bob", {}, (("i1", 1.0), ("i2", 2.0), ("i3", 3.0), ("i1", 5.0)), 4, (Candidate("i2"),), {"device": "phone", "wait": 6.0}),
    ]
    arm = CrmArm(store, crm)
    by_crm = [arm.score(arm.resolver.resolve(visit))["p_crm"][0] for visit in asked]
    assert by_crm == [score_crm(crm, store, samples.slice(row, 1))["p_crm"][0] for row in range(3)]
    by_llm = np.concatenate(LlmArm(store, prompts, model, MAX_BATCH_TOKENS, "cpu").score(asked))
    assert_allclose(by_llm, scorer.score(model, token_arrays(prompts.encode(samples))), rtol=0, atol=1e-5)
