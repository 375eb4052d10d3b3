"""Loads an ensemble for MLflow's pyfunc flavour; needs no import of mlflow."""

from __future__ import annotations

from components.joint.ensemble import Ensemble


def _load_pyfunc(data_path: str) -> Ensemble:
    """Return the ensemble in this folder; MLflow calls its `predict` with a DataFrame."""
    return Ensemble.load(data_path)
