"""Visits to prompts: the words of offline prompts, cut where candidates part, and what is described on the spot."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from transformers import PreTrainedTokenizerBase

from components.features.store import FeatureStore, fit_store
from components.features.visit import Candidate, Resolver, Visit
from components.llm.prompt_rows import LEAST_TEXT_TOKENS, PromptRows
from components.llm.tokens import PromptEncoder, SharedPrompts
from tests.components.features import test_store as contexts
from tests.components.llm import families
from tests.components.llm.test_injection import ATTACKS
from tests.components.llm.test_prompt_rows import ANN, ITEMS, SCHEMA, STRANGER, USERS

HISTORY = (("42", 1.0), ("1", 5.0), ("3", 3.5))
LONG = tuple((("1", "2", "3")[number % 3], float(number % 5 + 1)) for number in range(60))
BLURB = "A tale of two cities, " * 400


@pytest.fixture(scope="module")
def store() -> FeatureStore:
    return fit_store(SCHEMA, USERS, ITEMS, {}, history_length=5, tag_width=6)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return families.byte_level()


def visit(user_id: str | None, *candidates: str | Candidate, history: Any = HISTORY, **more: Any) -> Visit:
    found = tuple(one if isinstance(one, Candidate) else Candidate(one) for one in candidates)
    return Visit(user_id, more.get("profile", {}), tuple(history), len(history), found, more.get("context", {}))


def ask(store: FeatureStore, rows: PromptRows, asked: Visit) -> SharedPrompts:
    return rows.ask(Resolver(store).resolve(asked))


def whole(shared: SharedPrompts) -> list[list[int]]:
    return [np.concatenate([shared.prefix, suffix]).tolist() for suffix in shared.suffixes]


def words(store: FeatureStore, tokenizer: PreTrainedTokenizerBase, asked: Visit) -> list[str]:
    shared = ask(store, PromptRows(store, PromptEncoder(tokenizer, 2_000), 5), asked)
    return [str(tokenizer.decode(tokens)) for tokens in whole(shared)]


def samples(user_row: int, items: list[int], history: Any) -> pa.Table:
    rows = ITEMS["item_id"].tolist()
    lists = [[rows.index(item) for item, _ in history]] * len(items), [[rating for _, rating in history]] * len(items)
    names = ("user_row", "item_row", "history_rows", "history_ratings")
    return pa.table(dict(zip(names, ([user_row] * len(items), items, *lists), strict=True)))


@pytest.mark.parametrize("name", sorted(families.TOKENIZERS))
@pytest.mark.parametrize(("max_tokens", "history"), [(2_000, HISTORY), (2_000, ()), (2_000, LONG), (240, LONG)])
def test_known_rows_are_asked_in_the_tokens_of_their_samples(store: FeatureStore, name: str, max_tokens: int, history: Any) -> None:
    rows = PromptRows(store, PromptEncoder(families.TOKENIZERS[name](), max_tokens, name in families.MASKED), 50)
    for user_row, user_id in enumerate(USERS["user_id"]):
        expected = rows.encode(samples(user_row, [3, 1, 0, 2, 1], history)).to_pylist()
        found = ask(store, rows, visit(user_id, "42", "2", "1", "3", "2", history=history))
        assert whole(found) == [row["token_ids"] for row in expected]
        assert {len(found.prefix)} == {row["prefix_length"] for row in expected}


def test_what_is_known_of_an_interaction_is_asked_in_the_tokens_of_its_sample(tokenizer: PreTrainedTokenizerBase) -> None:
    store = fit_store(contexts.SCHEMA, contexts.USERS, contexts.ITEMS, contexts.CONTEXT, history_length=3, tag_width=2)
    rows = PromptRows(store, PromptEncoder(tokenizer, 300), 3)
    asked = [
        visit("ann", "i1", history=(), context={"device": "phone", "wait": 10, "moods": ["calm"]}),
        visit("carl", "i4", history=(("i1", 5.0), ("i4", 4.0)), context={"device": "tablet", "moods": ["sad", "calm"]}),
        visit("bob", "i2", history=(("i1", 1.0), ("i2", 2.0), ("i3", 3.0), ("i1", 5.0)), context={"device": "phone", "wait": 6.0}),
    ]
    for one, expected in zip(asked, rows.encode(contexts.SAMPLES)["token_ids"].to_pylist(), strict=True):
        assert whole(ask(store, rows, one)) == [expected]
    (text,) = words(store, tokenizer, asked[1])
    assert "- Four; genres: Horror; year: 1950; device: tablet; moods: sad, calm\n" in text


def test_the_words_are_those_of_samples(store: FeatureStore, tokenizer: PreTrainedTokenizerBase) -> None:
    assert words(store, tokenizer, visit("1", "2")) == [ANN]
    assert words(store, tokenizer, visit("2", "42", history=())) == [STRANGER]
    assert words(store, tokenizer, visit("nobody", "42", history=())) == [STRANGER]
    assert words(store, tokenizer, visit(None, "42", history=(("unheard of", 3.0),))) == [STRANGER]


def test_a_profile_takes_the_place_of_what_is_known_field_by_field(store: FeatureStore, tokenizer: PreTrainedTokenizerBase) -> None:
    (text,) = words(store, tokenizer, visit("1", "2", profile={"age": 25.5, "occupation": None}))
    assert text == ANN.replace("age: 24; gender: male; occupation: technician", "age: 25.5; gender: male")
    (text,) = words(store, tokenizer, visit(None, "42", history=(), profile={"gender": "female"}))
    assert text == "User: gender: female\n" + STRANGER


def test_a_description_takes_the_place_of_what_is_known_field_by_field(store: FeatureStore, tokenizer: PreTrainedTokenizerBase) -> None:
    candidates = (
        Candidate("2", {"genres": ["War"]}),
        Candidate("42", {"title": "Blue", "genres": ["Drama"]}),
        Candidate("new", {"year": "2031"}),
        Candidate("bare"),
        Candidate("3", {"title": None}),
        "2",
    )
    lines = [
        "GoldenEye (1995); genres: War; year: 1995",
        "Blue; genres: Drama",
        "movie new; year: 2031",
        "movie bare",
        "movie 3; year: 1995",
        "GoldenEye (1995); genres: Action, Thriller; year: 1995",
    ]
    expected = [ANN.replace("GoldenEye (1995); genres: Action, Thriller; year: 1995", line) for line in lines]
    assert words(store, tokenizer, visit("1", *candidates)) == expected


@pytest.mark.parametrize("name", sorted(families.TOKENIZERS))
@pytest.mark.parametrize(
    "described", [{"title": BLURB}, {"genres": ["Epic"] * 500}, {"title": BLURB, "year": BLURB, "genres": [BLURB] * 9}]
)
def test_a_long_description_does_not_shorten_the_history(store: FeatureStore, name: str, described: dict[str, Any]) -> None:
    rows = PromptRows(store, PromptEncoder(families.TOKENIZERS[name](), 256, name in families.MASKED), 50)
    plain = ask(store, rows, visit("1", "2", history=LONG))
    found = ask(store, rows, visit("1", "2", Candidate("new", described), history=LONG))
    assert found.prefix.tolist() == plain.prefix.tolist()
    assert found.suffixes[0].tolist() == plain.suffixes[0].tolist()
    assert max(map(len, whole(found))) <= 256


def test_a_long_profile_leaves_room_for_history_and_question(store: FeatureStore, tokenizer: PreTrainedTokenizerBase) -> None:
    rows = PromptRows(store, PromptEncoder(tokenizer, 200), 50)
    (tokens,) = whole(ask(store, rows, visit("1", "2", history=LONG, profile={"gender": BLURB, "occupation": BLURB})))
    assert len(tokens) <= 200
    text = str(tokenizer.decode(tokens))
    assert text.startswith("User: age: 24; gender: A tale of two")
    assert text.endswith(ANN.split("- Heat (1995): 3.5\n")[1])
    assert text.count("\n- ") > 1


@pytest.mark.parametrize("name", sorted(families.TOKENIZERS))
def test_where_all_items_are_short_a_described_one_still_says_something(name: str) -> None:
    """And takes no line of history either."""
    short = dataclasses.replace(SCHEMA, item_fields=())
    store = fit_store(short, USERS, ITEMS.assign(title="I"), {}, history_length=5, tag_width=6)
    tokenizer = families.TOKENIZERS[name]()
    rows = PromptRows(store, PromptEncoder(tokenizer, 220, name in families.MASKED), 50)
    plain = ask(store, rows, visit("1", "2", history=LONG))
    found = ask(store, rows, visit("1", Candidate("new", {"title": "Heat (1995) of the of the of the of the"}), history=LONG))
    assert found.prefix.tolist() == plain.prefix.tolist()
    assert 0 < len(found.suffixes[0]) - len(plain.suffixes[0]) <= LEAST_TEXT_TOKENS + 1
    assert max(map(len, whole(found))) <= 220


@pytest.mark.parametrize("name", sorted(families.TOKENIZERS))
@pytest.mark.parametrize("attack", sorted(set(ATTACKS) - {"surrogate"}))
def test_descriptions_add_no_special_token_and_no_line(store: FeatureStore, name: str, attack: str) -> None:
    tokenizer = families.TOKENIZERS[name]()
    special = {*tokenizer.all_special_ids, *tokenizer.backend_tokenizer.get_added_tokens_decoder()} - {tokenizer.unk_token_id}
    rows = PromptRows(store, PromptEncoder(tokenizer, 1_000, name in families.MASKED), 5)

    def asked(text: str) -> list[list[int]]:
        candidates = (
            Candidate(text, {"title": text, "genres": [text, text], "year": text}),
            Candidate(text, {"year": text}),
            Candidate(text),
        )
        return whole(ask(store, rows, visit(text, *candidates, profile={"occupation": text, "gender": text})))

    attacked, plain = asked(ATTACKS[attack]), asked("Heat")
    for one, other in zip(attacked, plain, strict=True):
        assert np.isin(one, list(special)).sum() == np.isin(other, list(special)).sum()
        lines = str(tokenizer.decode(one)).count("\n"), str(tokenizer.decode(other)).count("\n")
        assert lines[0] == lines[1]


def test_a_context_adds_no_special_token(tokenizer: PreTrainedTokenizerBase) -> None:
    store = fit_store(contexts.SCHEMA, contexts.USERS, contexts.ITEMS, contexts.CONTEXT, history_length=3, tag_width=2)
    rows = PromptRows(store, PromptEncoder(tokenizer, 300), 3)
    special = {*tokenizer.all_special_ids, *tokenizer.backend_tokenizer.get_added_tokens_decoder()}
    for attack in set(ATTACKS) - {"surrogate"}:
        context = {"device": ATTACKS[attack], "moods": [ATTACKS[attack]] * 3}
        (tokens,) = whole(ask(store, rows, visit("ann", "i1", history=(), context=context)))
        assert not np.isin(tokens, list(special)).any()
        assert len(tokens) <= 300


def test_a_visit_without_candidates_has_a_prefix_alone(store: FeatureStore, tokenizer: PreTrainedTokenizerBase) -> None:
    rows = PromptRows(store, PromptEncoder(tokenizer, 2_000), 5)
    found = ask(store, rows, visit("1"))
    assert found.suffixes == ()
    assert tokenizer.decode(found.prefix) == ANN.split("Will the user")[0]
