"""The CRM as an MLflow model with nothing around it: what MLflow's scoring server is compared with at its best."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from serving_yardsticks import pasts

from components.features.visit import Candidate, Visit
from components.joint.arms import CrmArm


class CrmAlone:
    """Scores the candidates of one row for its user."""

    def __init__(self, ensemble: str) -> None:
        torch.set_num_threads(1)
        self._arm = CrmArm.load(ensemble)
        self._known = pasts(ensemble, self._arm.store.users, self._arm.store.items)

    def predict(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        user, items = frame["user_id"].iloc[0], frame["candidates"].iloc[0]
        latest, count = self._known[user]
        visit = Visit(user, {}, latest, count, tuple(Candidate(item) for item in items))
        return self._arm.score(self._arm.resolver.resolve(visit))["p_crm"]


def _load_pyfunc(path: str) -> CrmAlone:
    return CrmAlone(path)
