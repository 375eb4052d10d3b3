"""Records runs, figures and models in MLflow; the only part that imports mlflow, and it never stops a run."""

from components.tracking.config import Tracking
from components.tracking.ensemble import load_ensemble, register_ensemble
from components.tracking.run import Run
from components.tracking.tracker import Tracker, log_trials, open_tracker

__all__ = ["Run", "Tracker", "Tracking", "load_ensemble", "log_trials", "open_tracker", "register_ensemble"]
