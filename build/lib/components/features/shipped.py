"""Samples of a data set that comes with its own split and histories (the MovieLens-1M split published with CoLLM)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from components.features.history import Histories, histories
from components.features.samples import sample_table
from components.types import Schema


def shipped_samples(block: pd.DataFrame, schema: Schema, history_length: int, items: pd.Index) -> pa.Table:
    """Label a block of interactions and attach each row's published history, completed by what training shows of the user.

    The published history (`history_items`) holds liked items only; the user's disliked training rows of an earlier second
    are added, in the order of time, and liked items without a training row of the user are left out: beside dislikes of
    training alone they would make every later user look generous. No label of a validation or test row enters any history.
    Returns samples with their `split`, sorted by (user, time, item). A block must hold all rows of each of its users;
    `items` are the item ids by row.
    """
    block = block.sort_values(["user_row", "timestamp_s", "item_row"], kind="stable", ignore_index=True)
    events = pd.concat([_liked(block, schema, items), _disliked(block, schema)], ignore_index=True)
    events = events.sort_values(["sample", "timestamp_s"], kind="stable", ignore_index=True)
    count = np.bincount(events["sample"], minlength=len(block))
    from_last = np.repeat(np.cumsum(count), count) - np.arange(len(events))
    events = events.loc[from_last <= history_length]
    offsets = np.r_[0, np.cumsum(np.bincount(events["sample"], minlength=len(block)))]
    found = Histories(offsets.astype(np.int32), np.arange(len(events)), count.astype(np.int32))
    table = sample_table(block, schema, found, events["item_row"].to_numpy(np.int32), events["rating"].to_numpy(np.float32))
    return table.append_column("split", pa.array(block["split"], pa.string()))


def _liked(block: pd.DataFrame, schema: Schema, items: pd.Index) -> pd.DataFrame:
    """Return the published histories as events, those that the user's training rows show."""
    lists = block.loc[:, "history_items"].reset_index(drop=True).explode().dropna()
    sample = lists.index.to_numpy()
    user = block["user_row"].to_numpy()[sample]
    liked = pd.DataFrame({"sample": sample, "user_row": user, "item_row": items.get_indexer(lists.to_numpy())})
    training = block.loc[block["split"] == "train", ["user_row", "item_row", "timestamp_s"]]
    timed = liked.merge(training.drop_duplicates(["user_row", "item_row"]), on=["user_row", "item_row"])
    earlier = timed["timestamp_s"].to_numpy() <= block["timestamp_s"].to_numpy()[timed["sample"]]
    return timed.loc[earlier].assign(rating=schema.rating_max)


def _disliked(block: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Return for each sample the user's earlier training rows that were not liked."""
    earlier = histories(block["user_row"].to_numpy(), block["timestamp_s"].to_numpy(), len(block), hide_same_second=True)
    sample = np.repeat(np.arange(len(block)), np.diff(earlier.offsets))
    kept = ((block["split"] == "train") & (block["rating"] <= schema.positive_above)).to_numpy()[earlier.index]
    index: NDArray[np.int64] = earlier.index[kept]
    columns = {name: block[name].to_numpy()[index] for name in ("item_row", "timestamp_s", "rating")}
    return pd.DataFrame({"sample": sample[kept], **columns})
