"""The two arms that may answer a visit, each loaded alone from the artifact `ensemble/`: the CRM and the LLM."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from components import artifacts
from components.crm import Crm
from components.features.store import FeatureStore
from components.features.tables import load_store
from components.features.visit import Resolved, Resolver, Visit
from components.joint.crm_files import load_crm
from components.llm import backbone
from components.llm.answer import ClickLlm
from components.llm.prefix_cache import PrefixCache
from components.llm.prompt_rows import PromptRows
from components.llm.shared_prefix import score_shared

CRM_ROWS = 8192  # candidates that the CRM takes at once
Scores = dict[str, NDArray]


class CrmArm:
    """The CRM with the users and items that it knows."""

    def __init__(self, store: FeatureStore, crm: Crm) -> None:
        self.store, self.resolver = store, Resolver(store)
        self._crm = crm.eval()

    @staticmethod
    def load(uri: str) -> CrmArm:
        """Load from the artifact `ensemble/`."""
        store = load_store(uri)
        return CrmArm(store, load_crm(artifacts.join(uri, "crm"), store.inputs))

    def score(self, visit: Resolved) -> Scores:
        """Return what routers read of each candidate: `p_crm`, `item_popularity`, `user_popularity`, `earlier_count`."""
        store, columns = self.resolver.columns(visit)
        count = len(visit.item_rows)
        with torch.inference_mode():
            parts = [
                self._crm(store.batch(columns, slice(start, start + CRM_ROWS))).logits_B.double() for start in range(0, count, CRM_ROWS)
            ]
            p_crm = torch.sigmoid(torch.cat([torch.empty(0, dtype=torch.float64), *parts])).numpy()
        return {
            "p_crm": p_crm,
            "item_popularity": store.encoded_items.train_count_R[:count],
            "user_popularity": np.repeat(store.encoded_users.train_count_R, count),
            "earlier_count": np.full(count, visit.earlier_count),
        }


class LlmArm:
    """The LLM with the texts of the users and items that it is asked about."""

    def __init__(
        self, store: FeatureStore, prompts: PromptRows, llm: ClickLlm, max_batch_tokens: int, device: str, cache_bytes: int = 0
    ) -> None:
        """`cache_bytes` bounds what is kept of users' histories from one call to the next; 0 keeps nothing."""
        self._cache = PrefixCache(cache_bytes) if cache_bytes else None
        self._resolver, self._prompts = Resolver(store), prompts
        self.first_item = str(store.items["item_id"].iloc[0])
        self._llm, self._max_batch_tokens, self._device = llm.eval().to(device), max_batch_tokens, device

    @staticmethod
    def load(uri: str, max_batch_tokens: int, device: str = "cpu", cache_bytes: int = 0) -> LlmArm:
        """Load from the artifact `ensemble/`."""
        store, config = load_store(uri), backbone.Config(path=artifacts.join(uri, "llm"), dtype="auto")
        asked = artifacts.read_json(artifacts.join(uri, "prompts.json"))
        prompts = PromptRows(store, backbone.load_encoder(config, asked["max_tokens"]), asked["history_length"])
        return LlmArm(store, prompts, backbone.load(config)[0], max_batch_tokens, device, cache_bytes)

    def score(self, visits: Sequence[Visit]) -> list[NDArray[np.float64]]:
        """Return the LLM's click probability of each candidate of each visit; a user's history is read once."""
        shared = [self._prompts.ask(self._resolver.resolve(visit)) for visit in visits]
        return score_shared(self._llm, shared, self._max_batch_tokens, self._device, self._cache)
