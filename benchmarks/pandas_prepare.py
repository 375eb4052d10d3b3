"""Prepare and prompts as one script for one machine: whole columns in memory, pandas, Arrow and Hugging Face's tokenizers.

python benchmarks/pandas_prepare.py DATA OUTPUT TOKENIZER.json SETTINGS.json

Writes what the stages write, from the same files: labelled samples with their histories, split in time, users and items with what
training saw of them, vocabularies, and the prompts of the same parts, in tokens. As SETTINGS say, the tokenizer gets all prompts in
one call, which uses every core, or each distinct line once, as ours does. It skips what only the pipeline does: quarantine, checks of
text, retries, memory bounds and prompts that would not fit. Prints a line of JSON: the seconds of both halves and the largest
resident memory.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tokenizers import Tokenizer

STARS = 6  # ratings from 0 to 5
QUESTION = "Will the user like this movie, judged by this history and its quality?\n- {item}\nReply only No or Yes.\nAnswer:"


def prepare(data: Path, output: Path, settings: dict[str, Any]) -> tuple[dict[str, pa.Table], pd.DataFrame, pd.DataFrame]:
    """Write samples, users, items and vocabularies; return the samples by split, the users and the items."""
    rows, users, items = (pd.read_parquet(data / name) for name in ("rows", "users.parquet", "items.parquet"))
    rows = rows[rows["rating"].between(1, 5) & (rows["timestamp"] > 0) & rows["user_id"].notna() & rows["item_id"].notna()]
    rows = rows.drop_duplicates(["user_id", "item_id", "timestamp"])
    user_row = pd.Index(users["user_id"]).get_indexer(rows["user_id"]).astype(np.int32)
    item_row = pd.Index(items["item_id"]).get_indexer(rows["item_id"]).astype(np.int32)
    time_s, rating = rows["timestamp"].to_numpy(), rows["rating"].to_numpy(np.float32)
    order = np.lexsort((item_row, time_s, user_row))
    user_row, item_row, time_s, rating = (column[order] for column in (user_row, item_row, time_s, rating))
    at = np.arange(len(order))
    start = np.maximum.accumulate(np.where(np.r_[True, user_row[1:] != user_row[:-1]], at, 0))
    kept = np.flatnonzero(at - start >= settings["min_history"])
    first = np.maximum(start, at - settings["history_length"])[kept]
    length = kept - first
    offsets = np.r_[0, np.cumsum(length)].astype(np.int32)
    index = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - first, length)
    samples = pa.table(
        {
            "user_id": pa.array(users["user_id"]).take(pa.array(user_row[kept])),
            "item_id": pa.array(items["item_id"]).take(pa.array(item_row[kept])),
            "timestamp_s": time_s[kept],
            "rating": rating[kept],
            "label": (rating[kept] > 3).astype(np.int8),
            "user_row": user_row[kept],
            "item_row": item_row[kept],
            "history_rows": pa.ListArray.from_arrays(pa.array(offsets), pa.array(item_row[index])),
            "history_ratings": pa.ListArray.from_arrays(pa.array(offsets), pa.array(rating[index])),
            "earlier_count": (at - start)[kept].astype(np.int32),
        }
    )
    in_time = np.lexsort((item_row[kept], user_row[kept], time_s[kept]))
    ends = np.cumsum([int(0.8 * len(kept)), int(0.1 * len(kept))])
    split = np.empty(len(kept), np.int8)
    for number, part in enumerate(np.split(in_time, ends)):
        split[part] = number
    splits = {name: samples.filter(pa.array(split == number)) for number, name in enumerate(("train", "valid", "test"))}
    for name, part in splits.items():
        pq.write_table(part, output / f"{name}.parquet")
    train = splits["train"].select(["user_row", "item_row", "rating"]).to_pandas()
    users["train_count"] = np.bincount(train["user_row"], minlength=len(users))
    items["train_count"] = np.bincount(train["item_row"], minlength=len(items))
    sums = np.bincount(train["item_row"], weights=train["rating"], minlength=len(items))
    items["train_rating_mean"] = (sums + 5 * train["rating"].mean()) / (items["train_count"] + 5)
    known_users, known_items = users[users["train_count"] > 0], items[items["train_count"] > 0]
    values = {
        "user_id": known_users["user_id"],
        "job": known_users["job"],
        "item_id": known_items["item_id"],
        "genres": known_items["genres"].explode(),
    }
    words = [pd.DataFrame({"field": name, "value": np.sort(column.dropna().unique())}) for name, column in values.items()]
    pd.concat(words).to_parquet(output / "vocabulary.parquet")
    users.to_parquet(output / "users.parquet")
    items.to_parquet(output / "items.parquet")
    scale = {"age": [known_users["age"].mean(), known_users["age"].std(ddof=0)]}
    (output / "features.json").write_text(json.dumps(scale))
    return splits, users, items


class Wholes:
    """Joins each prompt's text and hands all of them to the tokenizer at once, which uses every core."""

    def __init__(self, tokenizer: Tokenizer, profiles: NDArray, lines: NDArray, questions: list[str]) -> None:
        self._tokenizer, self._profiles, self._lines = tokenizer, profiles, lines.ravel()
        self._tails = [np.array(each.ids, np.int32) for each in tokenizer.encode_batch_fast(questions, add_special_tokens=False)]

    def encode(self, user: NDArray, line: NDArray, start: NDArray, stop: NDArray, item: NDArray) -> tuple[pa.ListArray, NDArray]:
        shown = self._lines[line]
        texts = [self._profiles[row] + "".join(shown[a:b]) for row, a, b in zip(user, start.tolist(), stop.tolist(), strict=True)]
        prefixes = [np.array(each.ids, np.int32) for each in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        tokens = [np.concatenate([prefix, self._tails[row]]) for prefix, row in zip(prefixes, item, strict=True)]
        offsets = np.r_[0, np.cumsum([len(each) for each in tokens])].astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(tokens))), np.array([len(each) for each in prefixes])


class Pieces:
    """Encodes each distinct profile, line and question once and joins their tokens, whole columns at a time."""

    def __init__(self, tokenizer: Tokenizer, profiles: NDArray, lines: NDArray, questions: list[str]) -> None:
        texts = [*profiles.tolist(), *lines.ravel().tolist(), *questions]
        self._first_line, self._first_question = len(profiles), len(profiles) + lines.size
        pieces = [np.array(each.ids, np.int32) for each in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        self._tokens, self._lengths = np.concatenate(pieces), np.array([len(piece) for piece in pieces])
        self._starts = np.r_[0, np.cumsum(self._lengths)[:-1]]

    def encode(self, user: NDArray, line: NDArray, start: NDArray, stop: NDArray, item: NDArray) -> tuple[pa.ListArray, NDArray]:
        shown = stop - start
        ends = np.cumsum(shown + 2)
        piece = np.empty(ends[-1], np.int64)
        is_line = np.ones(len(piece), np.bool_)
        is_line[ends - 1] = is_line[ends - shown - 2] = False
        piece[ends - shown - 2], piece[ends - 1] = user, self._first_question + item
        at = np.arange(shown.sum()) + np.repeat(start - (np.cumsum(shown) - shown), shown)
        piece[is_line] = self._first_line + line[at]
        lengths = self._lengths[piece]
        up_to = np.cumsum(lengths)
        tokens = self._tokens[np.arange(up_to[-1]) + np.repeat(self._starts[piece] - (up_to - lengths), lengths)]
        offsets = np.r_[0, up_to[ends - 1]].astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(tokens)), np.diff(offsets) - self._lengths[self._first_question + item]


def write_prompts(
    splits: dict[str, pa.Table], users: pd.DataFrame, items: pd.DataFrame, tokenizer: Tokenizer, output: Path, settings: dict[str, Any]
) -> None:
    """Draw each part's samples, join their prompts' texts, encode all and write the tokens."""
    heading = "Movies this user rated from 1 to 5, oldest first:\n"
    profiles = ("User: job: " + users["job"] + "; age: " + users["age"].astype(str) + "\n" + heading).to_numpy(object)
    questions = [
        QUESTION.format(item=f"{title}; genres: {', '.join(genres)}") for title, genres in zip(items["title"], items["genres"], strict=True)
    ]
    lines = np.array([[f"- {title}: {stars}\n" for stars in range(STARS)] for title in items["title"]], object)
    encode = Pieces if settings["pieces"] else Wholes
    writer = encode(tokenizer, profiles, lines, questions)
    random = np.random.default_rng(0)
    shuffled = random.permutation(len(splits["train"]))
    joint, alone = settings["joint_samples"], settings["llm_samples"]
    drawn = {
        "joint": splits["train"].take(np.sort(shuffled[:joint])),
        "llm": splits["train"].take(np.sort(shuffled[-alone:])),
        "valid": splits["valid"],
        "test": splits["test"],
    }
    for name, part in drawn.items():
        rows, ratings = (part[column].combine_chunks() for column in ("history_rows", "history_ratings"))
        stop = np.cumsum(rows.value_lengths().to_numpy())
        start = np.maximum(stop - rows.value_lengths().to_numpy(), stop - settings["shown"])
        codes = rows.flatten().to_numpy() * STARS + ratings.flatten().to_numpy().astype(np.int64)
        lists, lengths = writer.encode(part["user_row"].to_numpy(), codes, start, stop, part["item_row"].to_numpy())
        whole = part.append_column("token_ids", lists).append_column("prefix_length", pa.array(lengths, pa.int32()))
        pq.write_table(whole, output / f"prompts-{name}.parquet")
        if name == "valid":
            pq.write_table(whole.slice(0, settings["early_stopping_samples"]), output / "prompts-early_stopping.parquet")


def main() -> None:
    data, output, tokenizer, settings = (Path(each) for each in sys.argv[1:])
    asked, encode = json.loads(settings.read_text()), Tokenizer.from_file(str(tokenizer))
    started_s = time.perf_counter()
    splits, users, items = prepare(data, output, asked)
    prepared_s = time.perf_counter()
    write_prompts(splits, users, items, encode, output, asked)
    written_s = time.perf_counter()
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"prepare_s": prepared_s - started_s, "prompts_s": written_s - prepared_s, "mib": peak_mib}))


if __name__ == "__main__":
    main()
