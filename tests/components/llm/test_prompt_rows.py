"""Rows of samples to prompts and tokens."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from transformers import PreTrainedTokenizerBase

from components.errors import ConfigError
from components.features.store import FeatureStore, fit_store
from components.llm.prompt_rows import ClickRows, PromptRows
from components.llm.tokens import PromptEncoder
from components.prompts import click
from components.types import Field, FieldKind, Schema
from tests.components.llm import families

SCHEMA = Schema(
    rating_min=1.0,
    rating_max=5.0,
    positive_above=3.0,
    user_fields=(Field("age", FieldKind.NUMERIC), Field("gender", FieldKind.CATEGORICAL), Field("occupation", FieldKind.CATEGORICAL)),
    item_fields=(Field("genres", FieldKind.TAGS), Field("year", FieldKind.CATEGORICAL)),
    item_noun="movie",
)
USERS = pd.DataFrame(
    {"user_id": ["1", "2"], "age": [24.0, None], "gender": ["male", None], "occupation": ["technician", None], "train_count": [9, 0]}
)
ITEMS = pd.DataFrame(
    {
        "item_id": ["1", "2", "3", "42"],
        "title": ["Toy Story (1995)", "GoldenEye (1995)", "Heat (1995)", None],
        "genres": [["Animation", "Comedy"], ["Action", "Thriller"], [], None],
        "year": ["1995", "1995", "1995", None],
        "train_count": [3, 3, 3, 0],
        "train_rating_mean": [4.0, 3.0, 3.5, 3.0],
    }
)
SAMPLES = pa.table(
    {
        "user_row": pa.array([0, 1], pa.int32()),
        "item_row": pa.array([1, 3], pa.int32()),
        "history_rows": pa.array([[3, 0, 2], []], pa.list_(pa.int32())),
        "history_ratings": pa.array([[1.0, 5.0, 3.5], []], pa.list_(pa.float32())),
    }
)
ANN = """\
User: age: 24; gender: male; occupation: technician
Movies this user rated from 1 to 5, oldest first:
- movie 42: 1
- Toy Story (1995): 5
- Heat (1995): 3.5
Will the user like this movie, judged by this history and its quality?
- GoldenEye (1995); genres: Action, Thriller; year: 1995
Reply only No or Yes.
Answer:"""
STRANGER = """\
This user rated no movie before.
Will the user like this movie, judged by this history and its quality?
- movie 42
Reply only No or Yes.
Answer:"""


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return families.byte_level()


@pytest.fixture
def store() -> FeatureStore:
    return fit_store(SCHEMA, USERS, ITEMS, {}, history_length=5, tag_width=6)


def texts(store: FeatureStore, history_length: int = 5, samples: pa.Table = SAMPLES) -> list[str]:
    return [click.render(example).text for example in ClickRows(store, history_length).examples(samples)]


def decoded(store: FeatureStore, tokenizer: PreTrainedTokenizerBase, max_tokens: int, samples: pa.Table = SAMPLES) -> list[str]:
    rows = PromptRows(store, PromptEncoder(tokenizer, max_tokens), 100)
    lists = rows.encode(samples)["token_ids"].to_pylist()
    assert all(len(tokens) <= max_tokens for tokens in lists)
    return [str(tokenizer.decode(tokens)) for tokens in lists]


def long_history(rows: int) -> pa.Table:
    lists = {"history_rows": [[0] * (rows - 1) + [2]], "history_ratings": [[4.0] * rows]}
    return pa.table({"user_row": [0], "item_row": [1], **lists})


def test_a_sample_of_movies_is_asked_in_these_words(store: FeatureStore) -> None:
    assert texts(store) == [ANN, STRANGER]


def test_the_history_is_cut_to_the_latest_items(store: FeatureStore) -> None:
    assert texts(store, history_length=2)[0] == ANN.replace("- movie 42: 1\n", "")
    assert texts(store, history_length=1)[0] == ANN.replace("- movie 42: 1\n- Toy Story (1995): 5\n", "")


def test_a_history_of_no_length_is_left_out(store: FeatureStore) -> None:
    heading = "Movies this user rated from 1 to 5, oldest first:\n- movie 42: 1\n- Toy Story (1995): 5\n- Heat (1995): 3.5\n"
    assert texts(store, history_length=0)[0] == ANN.replace(heading, "This user rated no movie before.\n")


def test_a_question_never_holds_its_answer(store: FeatureStore) -> None:
    labelled = SAMPLES.append_column("label", pa.array([1, 0], pa.int8()))
    assert all(example.answer is None for example in ClickRows(store, 5).examples(labelled))


def test_tokens_spell_the_prompt_and_come_beside_the_sample(store: FeatureStore, tokenizer: PreTrainedTokenizerBase) -> None:
    found = PromptRows(store, PromptEncoder(tokenizer, 2_000), 5).encode(SAMPLES)
    assert found.schema.names == [*SAMPLES.schema.names, "token_ids", "prefix_length"]
    assert found.schema.field("token_ids").type == pa.list_(pa.int32())
    assert [tokenizer.decode(tokens) for tokens in found["token_ids"].to_pylist()] == [ANN, STRANGER]


def test_the_prefix_is_what_all_candidates_of_a_user_share(store: FeatureStore, tokenizer: PreTrainedTokenizerBase) -> None:
    found = PromptRows(store, PromptEncoder(tokenizer, 2_000), 5).encode(SAMPLES).to_pylist()
    prefix = tokenizer.decode(found[0]["token_ids"][: found[0]["prefix_length"]])
    assert prefix == ANN.split("Will the user")[0]


def test_over_budget_the_oldest_lines_go_and_the_question_stays(store: FeatureStore, tokenizer: PreTrainedTokenizerBase) -> None:
    (text,) = decoded(store, tokenizer, 256, long_history(100))
    head, tail = ANN.split("- movie 42: 1\n")[0], ANN.split("- Heat (1995): 3.5\n")[1]
    assert text.startswith(head)
    assert text.endswith("- Heat (1995): 4\n" + tail)
    lines = text.removeprefix(head).removesuffix(tail).splitlines()
    assert 1 < len(lines) < 100
    assert set(lines[:-1]) == {"- Toy Story (1995): 4"}
    assert len(tokenizer(text.replace(lines[0], f"{lines[0]}\n{lines[0]}", 1))["input_ids"]) > 256 - 24, (
        "one more has no room beside the longest item"
    )


def test_a_long_profile_or_title_leaves_room_for_the_question(tokenizer: PreTrainedTokenizerBase) -> None:
    users = USERS.assign(occupation=["x" * 10_000, None])
    items = ITEMS.assign(title=["Q" * 10_000] * 4)
    store = fit_store(SCHEMA, users, items, {}, history_length=5, tag_width=6)
    for text in decoded(store, tokenizer, 240):
        assert text.endswith("\nReply only No or Yes.\nAnswer:")
        assert text.count("\n- Q") >= 1


def test_too_small_a_budget_is_refused_with_what_it_takes(store: FeatureStore, tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ConfigError, match=r"prompts\.max_tokens: expected at least \d+ for the words of a prompt .*, got 32"):
        PromptRows(store, PromptEncoder(tokenizer, 32), 5)


@pytest.mark.parametrize("name", sorted(families.TOKENIZERS))
def test_the_smallest_budget_that_is_taken_holds_any_text(name: str) -> None:
    users = USERS.assign(occupation=["§" * 3_000, "of " * 3_000])
    items = ITEMS.assign(title=["é" * 3_000, "Q" * 3_000, "a b " * 900, "(1995)" * 500])
    store, tokenizer = fit_store(SCHEMA, users, items, {}, history_length=5, tag_width=6), families.TOKENIZERS[name]()
    masked = name in families.MASKED
    with pytest.raises(ConfigError) as refused:
        PromptRows(store, PromptEncoder(tokenizer, 32, masked), 5)
    least = int(str(refused.value).split("at least ")[1].split()[0])
    lengths = [
        len(tokens) for tokens in PromptRows(store, PromptEncoder(tokenizer, least, masked), 5).encode(SAMPLES)["token_ids"].to_pylist()
    ]
    assert max(lengths) <= least


def test_candidates_of_one_user_keep_the_same_history(store: FeatureStore, tokenizer: PreTrainedTokenizerBase) -> None:
    lists = {"history_rows": [[0] * 50] * 4, "history_ratings": [[4.0] * 50] * 4}
    samples = pa.table({"user_row": [0] * 4, "item_row": [0, 1, 2, 3], **lists})
    found = PromptRows(store, PromptEncoder(tokenizer, 256), 100).encode(samples).to_pylist()
    prefixes = {tuple(row["token_ids"][: row["prefix_length"]]) for row in found}
    assert len(prefixes) == 1
    assert len({len(row["token_ids"]) for row in found}) > 1


def test_no_samples_give_no_prompts_of_the_same_columns(store: FeatureStore, tokenizer: PreTrainedTokenizerBase) -> None:
    rows = PromptRows(store, PromptEncoder(tokenizer, 512), 5)
    assert rows.encode(SAMPLES.slice(0, 0)).schema == rows.encode(SAMPLES).schema


def test_slices_of_samples_give_the_prompts_of_their_rows(store: FeatureStore) -> None:
    assert texts(store, samples=SAMPLES.slice(1)) == [STRANGER]


def one_by_one(store: FeatureStore, encoder: PromptEncoder, rows: PromptRows, samples: pa.Table) -> list[tuple[list[int], int]]:
    """Encode each sample's whole prompt apart."""
    apart = replace(encoder, tail_tokens=rows.tokens.tail_tokens)
    texts = ClickRows(store, rows.tokens.history_length, lambda texts: encoder.shorten(texts, rows.tokens.context_tokens))
    found = [apart.encode(click.render(example)) for example in texts.examples(samples)]
    return [(prompt.token_ids.tolist(), prompt.prefix_length) for prompt in found]


@pytest.mark.parametrize("name", sorted(families.TOKENIZERS))
@pytest.mark.parametrize("max_tokens", [300, 2_000])
def test_all_prompts_together_are_those_of_each_sample_apart(name: str, max_tokens: int) -> None:
    random = np.random.default_rng(5)
    lengths = random.integers(0, 40, 60)
    samples = pa.table(
        {
            "user_row": random.integers(0, 2, 60),
            "item_row": random.integers(0, 4, 60),
            "history_rows": [random.integers(0, 4, length).tolist() for length in lengths],
            "history_ratings": [(random.integers(2, 11, length) / 2).tolist() for length in lengths],
            "device": random.choice(["phone", "desk", None], 60),
        }
    )
    schema = replace(SCHEMA, context_fields=(Field("device", FieldKind.CATEGORICAL),))
    store = fit_store(schema, USERS, ITEMS, {"device": pd.Series(["desk", "phone"])}, history_length=5, tag_width=6)
    encoder = PromptEncoder(families.TOKENIZERS[name](), max_tokens, name in families.MASKED)
    rows = PromptRows(store, encoder, 30)
    found = pa.concat_tables([rows.encode(samples.slice(0, 25)), rows.encode(samples.slice(25))])
    expected = one_by_one(store, encoder, rows, samples)
    assert list(zip(found["token_ids"].to_pylist(), found["prefix_length"].to_pylist(), strict=True)) == expected
    assert max(len(tokens) for tokens, _ in expected) <= max_tokens


def test_what_writes_prompts_in_a_worker_starts_without_torch() -> None:
    code = "import sys, components.llm.prompt_tokens; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
