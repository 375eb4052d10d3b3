"""What of a run goes to MLflow: one run for the pipeline, one below it for each stage and each trial, the report, the model."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import fsspec
import pandas as pd
from fsspec.implementations.local import LocalFileSystem

from components import artifacts, tracking
from components.features.tables import read_frame, read_samples
from components.joint.ensemble import Ensemble
from pipelines.config import RunConfig
from pipelines.stage import OnMetrics

LOADER = "serving.pyfunc"
REQUIRED = ("torch", "transformers", "peft", "pandas", "pyarrow", "scikit-learn", "safetensors", "fsspec", "pydantic")  # to score
ROOT = Path(__file__).parent.parent
EXAMPLE_ROWS = 5
TRIAL_PARAMETERS = ("router", "merge", "weight", "crm_calibration", "llm_calibration", "target_share")
TRIAL_METRICS = ("auc", "logloss", "share")


def default_store(output: str) -> str:
    """Return the store of runs beside the output folder, or in `runs/` here when the output is not on a local disk."""
    fs, path = fsspec.core.url_to_fs(output)
    folder = Path(path).parent if isinstance(fs, LocalFileSystem) else Path("runs").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder}/mlflow.db"


class Recording:
    """Records one run of the pipeline; a store that is away never stops it."""

    def __init__(self, config: RunConfig, output: str, fingerprint: str) -> None:
        self._config, self._output, self._fingerprint = config, output, fingerprint
        self.store = config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or default_store(output)
        spool = Path(default_store(output).removeprefix("sqlite:///")).with_name(f"mlflow-spool-{fingerprint}.jsonl")
        tracker = tracking.open_tracker(config.tracking, self.store, spool)
        tags = {"recipe": config.recipe, "output": output, "fingerprint": fingerprint}
        self._run = tracker.run(config.recipe, params=config, tags=tags, key=fingerprint)

    def __enter__(self) -> Recording:
        self._run.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._run.__exit__(kind, error, trace)

    @contextlib.contextmanager
    def stage(self, name: str, settings: Sequence[Any]) -> Iterator[OnMetrics]:
        """Record a stage; yields what takes the figures of its steps."""
        with self._run.child(
            name, params={type(part).__module__.rsplit(".", 1)[-1]: part for part in settings if hasattr(part, "__dataclass_fields__")}
        ) as run:
            yield run.log_metrics
            if name == "policy":
                trials = read_frame(artifacts.join(self._output, "policy", "trials.parquet"))
                tracking.log_trials(run, trials, TRIAL_PARAMETERS, TRIAL_METRICS)

    def finish(self, output: str) -> None:
        """Record what the run came to: data, figures, trials, the report, and the ensemble as a model version."""
        facts = artifacts.require(artifacts.join(output, "tables"))
        self._run.log_dataset(self._config.data or "generated", self._config.data or "generated", facts.fingerprint)
        metrics = artifacts.read_json(artifacts.join(output, "report", "metrics.json"))
        self._run.log_metrics(
            {f"test_{arm}_{name}": value for arm, row in metrics["test"].items() for name, value in row.items() if isinstance(value, float)}
        )
        self._run.log_folder(artifacts.join(output, "report"), "report")
        self._run.log_folder(artifacts.join(output, "policy"), "policy")
        self._register(artifacts.join(output, "ensemble"), output)

    def _register(self, folder: str, output: str) -> None:
        inputs = example_rows(output)
        outputs = Ensemble.load(folder).predict(inputs)
        requirements = [f"{name}=={version(name)}" for name in REQUIRED]
        tracking.register_ensemble(
            self._run, folder, [ROOT / "components", ROOT / "serving"], LOADER, requirements, inputs, outputs, key=self._fingerprint
        )


def example_rows(output: str, rows: int = EXAMPLE_ROWS) -> pd.DataFrame:
    """Return the first test samples as `Ensemble.predict` takes them."""
    tables = artifacts.join(output, "tables")
    samples = read_samples(artifacts.join(tables, "test")).slice(0, rows).to_pandas()
    ids = read_frame(artifacts.join(tables, "items.parquet"))["item_id"].to_numpy()
    return samples.assign(history_items=[list(ids[list(history)]) for history in samples["history_rows"]])
