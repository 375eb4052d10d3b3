"""Rows of tables as text: named fields on one clean line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from components.types import Field, FieldKind, Schema

MAX_CHARACTERS = 200
# Characters that print nothing although Unicode counts them as letters, marks or symbols: joiners, fillers, variation selectors.
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


def clean(text: str, max_characters: int = MAX_CHARACTERS) -> str:
    """Make text from outside one plain line of at most `max_characters`.

    White space of any kind becomes one space; control, zero-width and bidirectional characters, lone surrogates and
    private code points are dropped. Cleaning twice changes nothing.
    """
    if len(text) <= max_characters and text.isascii() and text.isprintable() and "  " not in text:
        return text.strip()
    text = text[: 16 * max_characters]  # so that a huge text costs no more than a long one
    line = " ".join("".join(character if character.isprintable() else _space(character) for character in _INVISIBLE.sub("", text)).split())
    return line[:max_characters].rstrip()


def _space(unprintable: str) -> str:
    return " " if unprintable.isspace() else ""


def value_text(value: Any) -> str:
    """Write one value: numbers without needless digits, lists joined by commas, a missing value as nothing."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Iterable):
        return ", ".join(text for text in map(value_text, value) if text)
    if pd.isna(value):
        return ""
    if isinstance(value, (float, np.floating)):
        return str(int(value)) if float(value).is_integer() else f"{value:.6g}"
    return clean(str(value))


def textualize(values: Mapping[str, Any], fields: Sequence[Field]) -> str:
    """Write a row as `gender: male; age: 24; occupation: technician`; missing values are left out."""
    written = ((field.name, value_text(values.get(field.name))) for field in fields)
    return "; ".join(f"{_label(name)}: {text}" for name, text in written if text)


def user_texts(users: pd.DataFrame, schema: Schema) -> list[str]:
    """Write the profile of each user; an empty text where nothing is known."""
    return _joined([], users, schema.user_fields)


def item_texts(items: pd.DataFrame, schema: Schema) -> list[str]:
    """Write each item as its title, then its fields: `Toy Story (1995); genres: Animation, Comedy`."""
    return _joined([title_texts(items, schema)], items, schema.item_fields)


def title_texts(items: pd.DataFrame, schema: Schema) -> list[str]:
    """Write the title of each item; an item without one is named by its id: `movie 42`."""
    named = [f"{schema.item_noun} {clean(item_id)}" for item_id in items["item_id"].astype(str)]
    if "title" not in items:
        return named
    return [title or name for title, name in zip(_column_texts(items.loc[:, "title"]), named, strict=True)]


def _joined(first: list[list[str]], table: pd.DataFrame, fields: Sequence[Field]) -> list[str]:
    columns = [*first, *(_labelled(table.loc[:, field.name], field) for field in fields)]
    if not columns:
        return [""] * len(table)
    return ["; ".join(filter(None, row)) for row in zip(*columns, strict=True)]


def _labelled(column: pd.Series, field: Field) -> list[str]:
    label = _label(field.name)
    return [f"{label}: {text}" if text else "" for text in _column_texts(column, hashable=field.kind is not FieldKind.TAGS)]


def _column_texts(column: pd.Series, hashable: bool = True) -> list[str]:
    """Write a column, each distinct value once."""
    if not hashable:
        return [value_text(value) for value in column]
    codes, distinct = pd.factorize(column)
    texts = [*map(value_text, distinct), ""]  # a missing value has code -1
    return [texts[code] for code in codes]


def _label(name: str) -> str:
    return name.replace("_", " ")
