"""The trained ensemble: both models, users, items and the policy, loaded from one folder and asked as one model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from components import artifacts
from components.crm import Crm
from components.errors import DataError
from components.features.store import FeatureStore
from components.features.tables import load_store
from components.joint.crm_files import load_crm, score_crm
from components.joint.data import token_arrays
from components.llm import backbone
from components.llm.answer import ClickLlm
from components.llm.by_prefix import score_prompts
from components.llm.prompt_rows import PromptRows
from components.routing.policy import Policy
from components.types import FieldKind

KEYS = ["user_id", "item_id", "timestamp_s", "history_items", "history_ratings", "earlier_count"]
ANSWER_COLUMNS = ("user_id", "item_id", "timestamp_s", "arm", "p_crm", "p_llm", "p_routed")


class Ensemble:
    """A CRM and an LLM behind one policy: the LLM is asked where the policy says so, and nowhere else."""

    def __init__(self, store: FeatureStore, crm: Crm, llm: ClickLlm, prompts: PromptRows, policy: Policy) -> None:
        self.store, self.crm, self.llm, self.prompts, self.policy = store, crm, llm, prompts, policy
        self._user_index, self._item_index = pd.Index(store.users["user_id"]), pd.Index(store.items["item_id"])

    @staticmethod
    def load(uri: str) -> Ensemble:
        """Load the artifact `ensemble/`."""
        store = load_store(uri)
        asked = artifacts.read_json(artifacts.join(uri, "prompts.json"))
        llm_config = backbone.Config(path=artifacts.join(uri, "llm"), dtype="auto")
        prompts = PromptRows(store, backbone.load_encoder(llm_config, asked["max_tokens"]), asked["history_length"])
        policy = Policy.from_json(artifacts.read_json(artifacts.join(uri, "policy.json")))
        return Ensemble(store, load_crm(artifacts.join(uri, "crm"), store.inputs), backbone.load(llm_config)[0], prompts, policy)

    def samples(self, frame: pd.DataFrame) -> pa.Table:
        """Turn rows with ids into samples: KEYS (`history_items` oldest first) and the context fields.

        Raises DataError for a missing column or an id that the ensemble does not know.
        """
        fields = self.store.schema.context_fields
        lacking = [name for name in (*KEYS, *(field.name for field in fields)) if name not in frame]
        if lacking:
            raise DataError(f"expected the columns {KEYS} and context fields, missing {lacking}")
        lengths = frame["history_items"].str.len().to_numpy()
        offsets = pa.array(np.r_[0, np.cumsum(lengths)].astype(np.int32))
        history = _rows(self._item_index, np.concatenate([np.asarray(ids, object) for ids in frame["history_items"]]), "item")
        ratings = np.concatenate([np.asarray(values, np.float32) for values in frame["history_ratings"]])
        columns: dict[str, Any] = {
            "user_id": pa.array(frame["user_id"], pa.string()),
            "item_id": pa.array(frame["item_id"], pa.string()),
            "timestamp_s": pa.array(frame["timestamp_s"].to_numpy(np.int64)),
            "user_row": pa.array(_rows(self._user_index, frame["user_id"].to_numpy(object), "user")),
            "item_row": pa.array(_rows(self._item_index, frame["item_id"].to_numpy(object), "item")),
            "history_rows": pa.ListArray.from_arrays(offsets, pa.array(history)),
            "history_ratings": pa.ListArray.from_arrays(offsets, pa.array(ratings)),
            "earlier_count": pa.array(frame["earlier_count"].to_numpy(np.int32)),
            **{
                field.name: pa.array(frame[field.name], pa.list_(pa.string()) if field.kind is FieldKind.TAGS else None) for field in fields
            },
        }
        return pa.table(columns)

    def score(self, samples: pa.Table) -> pd.DataFrame:
        """Return `p_crm`, `p_llm` (nan where the LLM was not asked), `arm` and `p_routed` for each sample."""
        scored = samples.to_pandas()[["user_id", "item_id", "timestamp_s", "earlier_count"]].assign(
            **score_crm(self.crm, self.store, samples)
        )
        asked = self.policy.needs_llm(scored)
        scored["p_llm"] = np.nan
        if asked.any():
            prompts = self.prompts.encode(samples.filter(pa.array(asked)))
            p_llm = score_prompts(self.llm, token_arrays(prompts), prompts["prefix_length"].to_pylist())
            scored.loc[asked, "p_llm"] = p_llm  # pyright: ignore[reportArgumentType]
        routes = self.policy.decide(scored)
        return scored.assign(arm=routes.arm, p_routed=routes.p_routed)[list(ANSWER_COLUMNS)]

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Score rows with ids: what MLflow calls."""
        return self.score(self.samples(frame))


def _rows(index: pd.Index, ids: NDArray, noun: str) -> NDArray[np.int32]:
    rows = index.get_indexer(ids).astype(np.int32)
    if (rows < 0).any():
        raise DataError(f"expected known {noun} ids, got {ids[rows < 0][:3].tolist()}")
    return rows
