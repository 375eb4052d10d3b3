"""Row checks: which rows can't be used, and why. A bad row gets a reason and goes to quarantine; the run goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from components.types import Field, FieldKind, Schema

DAY_S = 86_400.0
MAX_TEXT_BYTES = 64 << 10
CONTROL = r"[\x00-\x1f\x7f-\x9f]"
BROKEN = "\ufffd"  # what a reader puts where bytes are no text
SPLITS = ("train", "valid", "test")
CONTENT_CHARACTERS = 500
CELL_CHARACTERS = 100

Test = Callable[[pd.Series], pd.Series]


@dataclass(frozen=True)
class Rule:
    """What a column's values must be. `reason` may name the value: "{}"."""

    column: str
    reason: str
    holds: Callable[[pd.Series], pd.Series]


def check_interactions(chunk: pd.DataFrame, schema: Schema, known_items: pd.Index | None, now_s: float) -> pd.Series:
    """Return each row's reasons, joined by "; ", or "" for a good row, indexed as the chunk.

    `known_items` are the ids of the items table, None where there is none; `now_s` is the time after which (and a day)
    nothing can have happened yet.
    """
    low, high = schema.rating_min, schema.rating_max
    allowed = f"(expected {low:g} to {high:g})"
    rules = [
        *_id_rules("user_id"),
        *_id_rules("item_id"),
        Rule("rating", "rating missing or not a number", lambda rating: rating.notna()),
        Rule("rating", "rating infinite", lambda rating: rating.abs() != np.inf),
        Rule("rating", f"rating out of range: {{}} {allowed}", lambda rating: ~(rating.abs() < np.inf) | rating.between(low, high)),
        Rule("timestamp_s", "time missing or not a number", lambda time: time.notna()),
        Rule("timestamp_s", "time impossible: {} s (before 1970)", lambda time: ~(time < 0)),
        Rule("timestamp_s", "time impossible: {} s (in the future)", lambda time: ~(time > now_s + DAY_S)),
        *_text_rules(schema.context_fields),
    ]
    if known_items is not None:
        known = known_items.unique()
        rules.append(Rule("item_id", "item without metadata", lambda item: item.isna() | (known.get_indexer(item) >= 0)))
    if schema.shipped_split:
        rules.append(Rule("split", "split unknown: {} (expected train, valid or test)", lambda split: split.isin(SPLITS)))
        rules.append(Rule("history_items", "history missing or not a list", lambda history: history.notna()))
    return _reasons(chunk, rules)


def check_users(chunk: pd.DataFrame, schema: Schema) -> pd.Series:
    """Return each row's reasons, joined by "; ", or "" for a good row."""
    return _reasons(chunk, [*_id_rules("user_id"), *_text_rules(schema.user_fields)])


def check_items(chunk: pd.DataFrame, schema: Schema) -> pd.Series:
    """Return each row's reasons, joined by "; ", or "" for a good row."""
    title = Field("title", FieldKind.TEXT)
    return _reasons(chunk, [*_id_rules("item_id"), *_text_rules((title, *schema.item_fields))])


def duplicate_reasons(frame: pd.DataFrame, key: list[str]) -> pd.Series:
    """Return "duplicate of row N of FILE" for all but the first row, by file and row number, of each key; nulls equal nothing."""
    reasons = pd.Series("", frame.index, dtype="str")
    suspects = frame.duplicated(key, keep=False) & frame[key].notna().all(axis=1)
    if suspects.any():
        copies = frame[[*key, "file", "row"]].assign(position=np.arange(len(frame))).loc[suspects.to_numpy()]
        copies = copies.sort_values(["file", "row"], kind="stable")
        first = copies.groupby(key, sort=False)[["file", "row"]].transform("first")
        later = copies.duplicated(key).to_numpy()
        told = "duplicate of row " + first["row"].astype("str") + " of " + first["file"].astype("str")
        reasons.iloc[copies["position"].to_numpy()[later]] = told[later].to_numpy()
    return reasons


def quarantined(bad: pd.DataFrame, reasons: pd.Series, table: str) -> pd.DataFrame:
    """Return bad rows as `table`, `file`, `row`, `reason` and `content`: the row as JSON, cut to 500 characters."""
    values = bad.drop(columns=["file", "row"]).reset_index(drop=True)
    # Long texts are cut first, so that the JSON nearly always stays whole.
    cut = values.apply(lambda column: column.str.slice(0, CELL_CHARACTERS) if column.dtype == "str" else column)
    lines = (cut.to_json(orient="records", lines=True, force_ascii=False) or "").split("\n")
    content = pd.Series(lines[: len(bad)], dtype="str").str.slice(0, CONTENT_CHARACTERS)
    named = {"table": table, "file": bad["file"].to_numpy(), "row": bad["row"].to_numpy(), "reason": reasons.to_numpy()}
    return pd.DataFrame({**named, "content": content.to_numpy()}, index=range(len(bad)))


def kinds(reasons: pd.Series) -> pd.Series:
    """Return reasons without what is of one row alone (values, row numbers), fit for counting."""
    return reasons.str.replace(r": [^;]*| of row [^;]*", "", regex=True)


def _id_rules(column: str) -> list[Rule]:
    return [
        Rule(column, f"null {column}", lambda ids: ids.notna() & (ids != "")),
        Rule(column, f"control character in {column}", lambda ids: ~ids.str.contains(CONTROL, na=False)),
        *_text_rules((Field(column, FieldKind.CATEGORICAL),)),
    ]


def _text_rules(fields: tuple[Field, ...]) -> list[Rule]:
    rules: list[Rule] = []
    for field in (field for field in fields if field.kind is not FieldKind.NUMERIC):
        none = _no_tag if field.kind is FieldKind.TAGS else _no_value
        rules.append(Rule(field.name, f"broken encoding in {field.name}", partial(none, _is_broken)))
        rules.append(Rule(field.name, f"over-long text in {field.name}: more than {MAX_TEXT_BYTES:,} bytes", partial(none, _is_long)))
    return rules


def _no_value(is_bad: Test, column: pd.Series) -> pd.Series:
    return ~is_bad(column)


def _no_tag(is_bad: Test, lists: pd.Series) -> pd.Series:
    return ~is_bad(lists.explode().astype("str")).groupby(level=0).any()


def _is_broken(text: pd.Series) -> pd.Series:
    return text.str.contains(BROKEN, regex=False, na=False)


def _is_long(text: pd.Series) -> pd.Series:
    size_bytes = pc.call_function("binary_length", [pa.array(text, pa.string(), from_pandas=True)])
    return pd.Series(size_bytes.to_numpy(zero_copy_only=False) > MAX_TEXT_BYTES, text.index)


def _reasons(chunk: pd.DataFrame, rules: list[Rule]) -> pd.Series:
    """Apply the rules and join what they say of each row, in their order."""
    columns = {rule.column: _typed(pd.Series(chunk[rule.column]).reset_index(drop=True)) for rule in rules}
    reasons = pd.Series("", chunk.index, dtype="str")
    cases = _failure_cases(pd.DataFrame(columns), rules)
    if len(cases):
        told = [
            reason.replace("{}", str(value)) for reason, value in zip(cases["check"].tolist(), cases["failure_case"].tolist(), strict=True)
        ]
        joined = _join(pd.Series(told, cases["index"].to_numpy(np.int64), dtype="str"))
        reasons.iloc[joined.index.to_numpy()] = joined.to_numpy()
    return reasons


def _join(told: pd.Series) -> pd.Series:
    """Join the reasons of a row; the many rows with one reason are left alone, for speed."""
    several = told.index.duplicated(keep=False)
    joined = told.loc[several].groupby(level=0).agg("; ".join)
    return pd.Series(pd.concat([told.loc[~several], joined]))


def _typed(column: pd.Series) -> pd.Series:
    if column.name in ("rating", "timestamp_s"):
        return pd.Series(pd.to_numeric(column, errors="coerce"), dtype=np.float64)
    holds_lists = column.dtype == object and any(isinstance(value, (list, np.ndarray)) for value in column.head(100))
    return column if holds_lists or column.dtype == "str" else column.astype("str")


def _failure_cases(frame: pd.DataFrame, rules: list[Rule]) -> pd.DataFrame:
    # pandera takes 0.2 to 0.7 s to import: only who checks rows pays for it.
    import pandera.pandas as pandera

    checks: dict[str, list[pandera.Check]] = {}
    for rule in rules:
        checks.setdefault(rule.column, []).append(pandera.Check(rule.holds, error=rule.reason, ignore_na=False))
    schema = pandera.DataFrameSchema({column: pandera.Column(checks=found, nullable=True) for column, found in checks.items()})
    try:
        schema.validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as errors:
        return errors.failure_cases
    return pd.DataFrame()
