"""Text from outside that poses as a template, an order or a special token changes nobody else's score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components import artifacts
from components.features.tables import load_store
from components.features.visit import Candidate, Resolver, Visit
from components.llm import backbone
from components.llm.prompt_rows import PromptRows
from tests.serving.attacks import ATTACKS
from tests.serving.http_server import Called
from tests.serving.score import SCALE, ask, ids, scores


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_title_changes_no_other_candidates_score(http: Called, attack: str) -> None:
    def answer(title: str) -> dict[str, Any]:
        return ask(http, ["i0", {"id": "new", "title": title, "genre": title}, "i3", {"id": "i4", "title": title}], threshold="-inf")

    plain, attacked = answer("Story"), answer(ATTACKS[attack])
    assert ids(attacked) == ids(plain) == ["i0", "new", "i3", "i4"]
    for row in (0, 2):
        assert attacked["results"][row]["score"] == pytest.approx(plain["results"][row]["score"], abs=1e-6)
    assert all(0 <= score <= 1 for score in scores(attacked))
    assert not attacked["degraded"]


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_profile_leaves_the_answer_well_formed(http: Called, attack: str) -> None:
    answer = ask(
        http, SCALE, {"profile": {"mood": ATTACKS[attack]}, "history": [{"item_id": ATTACKS["order"], "rating": 3}]}, threshold="-inf"
    )
    assert ids(answer) == SCALE
    assert all(0 <= score <= 1 for score in scores(answer))


@pytest.fixture(scope="module")
def prompts(ensemble: Path) -> tuple[PromptRows, Resolver, list[int]]:
    folder, asked = str(ensemble), artifacts.read_json(str(ensemble / "prompts.json"))
    store, encoder = load_store(folder), backbone.load_encoder(backbone.Config(path=f"{folder}/llm"), asked["max_tokens"])
    return PromptRows(store, encoder, asked["history_length"]), Resolver(store), encoder.tokenizer.all_special_ids


@pytest.mark.parametrize("attack", ATTACKS)
def test_text_from_outside_adds_no_special_token_to_a_prompt(prompts: tuple[PromptRows, Resolver, list[int]], attack: str) -> None:
    rows, resolver, special = prompts

    def counts(text: str) -> list[int]:
        candidates = (Candidate("i0"), Candidate("new", {"title": text, "genre": text}))
        shared = rows.ask(resolver.resolve(Visit("u0", {"mood": text}, (("i1", 4.0),), 1, candidates)))
        return [int(np.isin(np.r_[shared.prefix, suffix], special).sum()) for suffix in shared.suffixes]

    assert counts(ATTACKS[attack]) == counts("Story")
