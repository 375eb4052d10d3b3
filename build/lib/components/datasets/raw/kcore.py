"""The k-core of interactions: the largest part in which every user and every item has at least k of them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray


def k_core(pairs: Iterable[tuple[pd.Series, pd.Series]], k: int) -> tuple[pd.Index, pd.Index]:
    """Return the users and the items of the k-core of (user, item) chunks; rows with a null id don't count.

    Holds two integers a row in memory, and the distinct ids.
    """
    chunks = [(_encode(user), _encode(item)) for user, item in pairs]
    users, user_code = _unify([user for user, _ in chunks])
    items, item_code = _unify([item for _, item in chunks])
    whole = (user_code >= 0) & (item_code >= 0)
    user_code, item_code = user_code[whole], item_code[whole]
    while len(user_code):
        enough = (np.bincount(user_code)[user_code] >= k) & (np.bincount(item_code)[item_code] >= k)
        if enough.all():
            break
        user_code, item_code = user_code[enough], item_code[enough]
    return users[np.unique(user_code)], items[np.unique(item_code)]


def _encode(ids: pd.Series) -> pa.DictionaryArray:
    return pa.array(ids, pa.string(), from_pandas=True).dictionary_encode()


def _unify(chunks: list[pa.DictionaryArray]) -> tuple[pd.Index, NDArray[np.int32]]:
    """Return the distinct ids of all chunks and the position of each row's id among them, -1 for a null."""
    whole = pa.chunked_array(chunks or [_encode(pd.Series(dtype="str"))]).unify_dictionaries()
    codes = [chunk.indices.fill_null(-1).to_numpy() for chunk in whole.chunks]
    return pd.Index(whole.chunk(0).dictionary.to_pandas(), dtype="str"), np.concatenate(codes).astype(np.int32)
