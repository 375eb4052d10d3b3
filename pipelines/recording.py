"""What of a run goes to MLflow: one run for the pipeline, one below it for each stage and each trial, the report, the model."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd

from components import artifacts, storage, tracking
from components.features.samples import SAMPLE_COLUMNS
from components.features.tables import first_samples, read_frame, read_scores
from components.storage import without_credentials
from components.tracking.spool import Spool
from pipelines.config import RunConfig
from pipelines.stage import OnMetrics

LOADER = "serving.pyfunc"
REQUIRED = ("torch", "transformers", "peft", "pandas", "pyarrow", "scikit-learn", "safetensors", "fsspec", "pydantic")  # to score
ROOT = Path(__file__).parent.parent
EXAMPLE_ROWS = 5
SPOOLS = ("mlflow-spool.jsonl", "mlflow-spool-refused.jsonl")
MARK = "recorded.json"  # beside the artifacts: what was recorded, and where
TRIAL_PARAMETERS = ("router", "merge", "weight", "crm_calibration", "llm_calibration", "target_share")
TRIAL_METRICS = ("auc", "logloss", "share")


def default_store(output: str) -> str:
    """Return the store of runs beside the output folder, or in the home folder when the output is not on a local disk.

    Not in the working folder: that of a submitted job goes away.
    """
    fs, path = storage.filesystem(output)
    folder = Path(path).parent if storage.is_local(fs) else Path.home() / "tandem-runs"
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder}/mlflow.db"


def store_of(config: RunConfig, output: str) -> str:
    """Return the URI of the store: as configured, of the environment, or the default."""
    return config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or default_store(output)


class Recording:
    """Records one run of the pipeline; a store that is away never stops it."""

    def __init__(self, config: RunConfig, output: str, fingerprint: str, synthetic: bool = False) -> None:
        """Generated data is named as such (`synthetic`) by a tag of the run and of its stages', of the data and of the model version."""
        self._config, self._output, self._fingerprint = config, output, fingerprint
        self._tags = {"synthetic": "true"} if synthetic else {}
        self.store = store_of(config, output)
        self._finished = False

    def is_complete(self) -> bool:
        """Tell whether an earlier run of the same fingerprint recorded everything in the same store."""
        try:
            return artifacts.read_json(artifacts.join(self._output, MARK)) == self._mark
        except (FileNotFoundError, ValueError):  # never written, or cut short
            return False

    @property
    def _mark(self) -> dict[str, str]:
        known = self._config.tracking
        names = {"experiment": known.experiment, "registered_model": known.registered_model, "alias": known.alias}
        return {"fingerprint": self._fingerprint, "store": without_credentials(self.store), **names}

    def __enter__(self) -> Recording:
        if self.store == default_store(self._output) and not storage.is_local(storage.filesystem(self._output)[0]):
            print(f"runs are recorded in {self.store} on this machine; --tracking.uri names another store", file=sys.stderr)
        spool = Path(default_store(self._output).removeprefix("sqlite:///")).with_name(f"mlflow-spool-{self._fingerprint}.jsonl")
        self._spool = Spool(spool)
        self._carry(self._spool.fetch, self._spool.refused.fetch)
        tracker = self._tracker = tracking.open_tracker(self._config.tracking, self.store, spool)
        tags = {"recipe": self._config.recipe, "output": self._output, "fingerprint": self._fingerprint, **self._tags}
        self._run = tracker.run(self._config.recipe, params=self._config, tags=tags, key=self._fingerprint)
        self._run.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._run.__exit__(kind, error, trace)
        # While the store is away figures wait in the spool, and files where they are: the same command, run again, sends them.
        is_behind = self._tracker.is_behind
        self._carry(self._spool.leave, self._spool.refused.leave)
        if self._finished and not is_behind:
            artifacts.write_json(artifacts.join(self._output, MARK), self._mark)
        elif self._finished:
            print("MLflow lacks a part of this run: the same command, run again, sends it", file=sys.stderr)

    def _carry(self, *moves: Callable[[str], None]) -> None:
        """Move what waits from or to an output in an object store: the next run may find another machine's disk."""
        if storage.is_local(storage.filesystem(self._output)[0]):
            return
        for move, name in zip(moves, SPOOLS, strict=True):
            try:
                move(artifacts.join(self._output, name))
            except Exception as error:  # what stores raise; recording never ends a run
                print(f"figures for MLflow stay on this machine, {self._output} does not take them: {error}", file=sys.stderr)

    @contextlib.contextmanager
    def stage(self, name: str, settings: Sequence[Any], folder: str) -> Iterator[OnMetrics]:
        """Record a stage that writes into `folder`; yields what takes the figures of its steps."""
        params = {type(part).__module__.rsplit(".", 1)[-1]: part for part in settings if hasattr(part, "__dataclass_fields__")}
        with self._run.child(name, params, self._tags) as run:
            yield run.log_metrics
            if name == "policy":
                trials = read_frame(artifacts.join(folder, "trials.parquet"))
                tracking.log_trials(run, trials, TRIAL_PARAMETERS, TRIAL_METRICS)

    def finish(self) -> None:
        """Record what the run came to: data, figures, the report, and the ensemble as a model version."""
        self._tracker.catch_up()  # files never wait in the spool: nothing may be left there now that would hold them up
        tables, report = artifacts.require(artifacts.join(self._output, "tables")), artifacts.join(self._output, "report")
        source = self._config.data or "generated"
        self._run.log_dataset(self._config.recipe, source, tables.fingerprint, tags=self._tags)
        test = artifacts.read_json(artifacts.join(report, "metrics.json"))["test"]
        figures = {f"test_{arm}_{name}": value for arm, row in test.items() for name, value in row.items()}
        self._run.log_metrics({name: value for name, value in figures.items() if isinstance(value, float)})
        for name in ("report", "policy"):
            self._run.log_files(artifacts.join(self._output, name), name)
        self._register(artifacts.join(self._output, "ensemble"))
        self._finished = True

    def _register(self, folder: str) -> None:
        inputs = example_rows(self._output)
        outputs = _answers(self._output, inputs)
        requirements = [f"{name}=={version(name)}" for name in REQUIRED]
        code = [ROOT / "components", ROOT / "serving"]
        tracking.register_ensemble(self._run, folder, code, LOADER, requirements, inputs, outputs, self._fingerprint, self._tags)


def _answers(output: str, inputs: pd.DataFrame) -> pd.DataFrame:
    """Return what the ensemble answers to these test samples, as the score table and the routes have it: no model is loaded."""
    from components.joint.ensemble import ANSWER_COLUMNS  # imports transformers

    keys = ["user_id", "item_id", "timestamp_s"]
    scores = read_scores(artifacts.join(output, "scores"), "test")[[*keys, "p_crm", "p_llm"]]
    routes = read_frame(artifacts.join(output, "report", "test_routes.parquet"))
    found = inputs[keys].merge(scores, on=keys).merge(routes, on=keys)
    found.loc[found["arm"] == "crm", "p_llm"] = float("nan")  # never asked
    return found.loc[:, list(ANSWER_COLUMNS)]


def example_rows(output: str, rows: int = EXAMPLE_ROWS) -> pd.DataFrame:
    """Return the first test samples as `Ensemble.predict` takes them."""
    tables = artifacts.join(output, "tables")
    samples = first_samples(artifacts.join(tables, "test"), rows).to_pandas()
    ids = read_frame(artifacts.join(tables, "items.parquet"))["item_id"].to_numpy()
    context = [name for name in samples if name not in SAMPLE_COLUMNS]
    # Lists of plain numbers and 64-bit counts: what JSON gives back to whoever asks over HTTP.
    return samples[["user_id", "item_id", "timestamp_s"]].assign(
        history_items=[ids[list(history)].tolist() for history in samples["history_rows"]],
        history_ratings=[[float(rating) for rating in ratings] for ratings in samples["history_ratings"]],
        earlier_count=samples["earlier_count"].astype("int64"),
        **{name: samples[name] for name in context},
    )
