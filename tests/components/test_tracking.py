"""Tracking against real SQLite stores and a real MLflow server on loopback."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from components.errors import ArtifactError, ConfigError
from components.tracking import Tracker, Tracking, load_ensemble, log_trials, open_tracker, register_ensemble, replay
from components.tracking import names as tracking_names
from components.tracking.spool import Event, Spool

LOADER = """
import json, pathlib
import pandas as pd

class Line:
    def __init__(self, slope, shift):
        self.slope, self.shift = slope, shift
    def predict(self, rows):
        return pd.DataFrame({"p": self.slope * rows["x"] + self.shift})

def _load_pyfunc(folder):
    return Line(**json.loads(pathlib.Path(folder, "line.json").read_text()))
"""


def sqlite_uri(folder: Path) -> str:
    return f"sqlite:///{folder}/mlflow.db"


def open_at(folder: Path, uri: str | None = None, retry_s: float = 30.0) -> Tracker:
    return open_tracker(Tracking.Config(uri=uri), sqlite_uri(folder), folder / "spool.jsonl", retry_s)


def rows(folder: Path, query: str) -> list[tuple]:
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as database:
        return database.execute(query).fetchall()


def metric_rows(folder: Path) -> list[tuple]:
    return rows(folder, "select key, step, value from metrics order by key, step")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def dead_uri() -> str:
    return f"http://127.0.0.1:{free_port()}"


@dataclass
class Server:
    """A real `mlflow server` that a test may kill and start again on the same port and database."""

    folder: Path
    port: int
    process: subprocess.Popen | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        store = ["--backend-store-uri", sqlite_uri(self.folder), "--artifacts-destination", str(self.folder / "artifacts")]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "server.log").open("a") as log:
            command = [sys.executable, "-m", "mlflow", "server", *options, *store]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        until_s = time.monotonic() + 60
        while time.monotonic() < until_s:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                return
            time.sleep(0.1)
        raise TimeoutError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)  # its own session: the command and the worker that it started
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's schema, which takes seconds to make."""
    folder = tmp_path_factory.mktemp("empty")
    open_tracker(Tracking.Config(experiment="unused"), sqlite_uri(folder), folder / "spool.jsonl")
    return folder / "mlflow.db"


@pytest.fixture
def folder(tmp_path: Path, empty_store: Path) -> Path:
    """A folder of its own with an empty store."""
    return Path(shutil.copy(empty_store, tmp_path / "mlflow.db")).parent


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    started = Server(tmp_path_factory.mktemp("server"), free_port())
    try:
        started.start()
        yield started
    finally:
        started.kill()


@pytest.fixture
def loader_module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (folder / "code_of_line").mkdir()
    (folder / "code_of_line" / "line_loader.py").write_text(LOADER)
    (folder / "line_model").mkdir()
    (folder / "line_model" / "line.json").write_text('{"slope": 2.0, "shift": 1.0}')
    monkeypatch.syspath_prepend(folder / "code_of_line")
    yield "line_loader"
    sys.modules.pop("line_loader", None)


def register_line(tracker: Tracker, folder: Path, loader_module: str, key: str | None = None) -> str | None:
    inputs = pd.DataFrame({"x": [0.0, 1.0, 2.0]})
    outputs = pd.DataFrame({"p": [1.0, 3.0, 5.0]})
    code = [folder / "code_of_line" / "line_loader.py"]
    with tracker.run("full") as run:
        return register_ensemble(run, folder / "line_model", code, loader_module, ["pandas>=3.1"], inputs, outputs, key)


# Runs and figures in one SQLite store


def test_importing_tracking_does_not_import_mlflow() -> None:
    code = "import sys, components.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0


def test_a_run_is_recorded_beside_its_database_and_nothing_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "curve.txt").write_text("0.5")
    with open_at(tmp_path).run("train", params={"crm": {"lr": 0.001, "none": None}}, tags={"stage": "train"}) as run:
        run.log_metrics({"loss": 0.5}, step=1)
        run.log_file(tmp_path / "curve.txt", "plots")
    assert rows(tmp_path, "select key, value from params") == [("crm.lr", "0.001")]
    assert rows(tmp_path, "select status, name from runs") == [("FINISHED", "train")]
    assert [path.read_text() for path in (tmp_path / "mlflow-artifacts").rglob("plots/curve.txt")] == ["0.5"]
    assert list((tmp_path / "here").iterdir()) == []
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert not (tmp_path / "spool.jsonl").exists()


def test_a_metric_logged_twice_leaves_one_row_and_the_first_value(folder: Path) -> None:
    tracker = open_at(folder)
    with tracker.run("train") as run:
        run.log_metrics({"auc": 0.7}, step=3)
        time.sleep(0.002)  # another time stamp, which MLflow takes for another row
        run.log_metrics({"auc": 0.8, "loss": 0.1}, step=3)
        restarted = open_at(folder).attach(run.run_id)
        restarted.log_metrics({"auc": 0.9}, step=3)
        restarted.log_metrics({"auc": 0.9}, step=4)
    assert metric_rows(folder) == [("auc", 3, 0.7), ("auc", 4, 0.9), ("loss", 3, 0.1)]


def test_figures_that_are_not_finite_are_left_out(folder: Path) -> None:
    with open_at(folder).run("train") as run:
        run.log_metrics({"a": float("nan"), "b": float("inf"), "c": 1, "d": None, "e": "high"})
        run.log_metrics({"a": float("nan")}, step=1)
    assert metric_rows(folder) == [("c", 0, 1.0)]


def test_keys_names_and_values_are_made_safe(folder: Path) -> None:
    with open_at(folder).run("a\x1b[31m\nb", tags={"note\n": "x\r\ny\ud800"}) as run:
        run.log_metrics({"ndcg@10": 0.25, "../a//b": 0.5})
        run.log_params({"long": "z" * 7000, "k\x00ey": "v"})
    assert metric_rows(folder) == [("a/b", 0, 0.5), ("ndcg_10", 0, 0.25)]
    assert rows(folder, "select name from runs") == [("a [31m b",)]
    assert rows(folder, "select value from tags where key = 'note_'") == [("x  y ",)]
    params = dict(rows(folder, "select key, value from params"))
    assert params["k_ey"] == "v"
    assert len(params["long"]) == 6000
    assert params["long"].endswith("z... (cut, 7000 characters)")


def test_more_parameters_than_one_request_holds_are_all_recorded(folder: Path) -> None:
    with open_at(folder).run("train", params={f"p{number}": number for number in range(230)}):
        pass
    assert rows(folder, "select count(*) from params") == [(230,)]


def test_a_changed_parameter_keeps_its_first_value_and_new_ones_are_added(folder: Path) -> None:
    with open_at(folder).run("train", params={"lr": 1, "seed": 2}) as run:
        run.log_params({"lr": 3, "epochs": 4})
    assert rows(folder, "select key, value from params order by key") == [("epochs", "4"), ("lr", "1"), ("seed", "2")]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (RuntimeError("x"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(143), "KILLED"),
        (SystemExit(2), "FAILED"),
    ],
)
def test_a_run_ends_as_its_block_ended(folder: Path, error: BaseException | None, status: str) -> None:
    with contextlib.suppress(BaseException), open_at(folder).run("train"):
        if error is not None:
            raise error
    assert rows(folder, "select status from runs") == [(status,)]


def test_ctrl_c_marks_the_run_and_its_child_killed(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_at(folder).run("full") as run, run.child("train"):
        signal.raise_signal(signal.SIGINT)
    assert rows(folder, "select name, status from runs order by name") == [("full", "KILLED"), ("train", "KILLED")]


def test_children_are_found_under_their_parent(folder: Path) -> None:
    with open_at(folder).run("full") as run, run.child("train") as train, train.child("epoch"):
        pass
    ids = dict(rows(folder, "select name, run_uuid from runs"))
    parents = dict(rows(folder, "select run_uuid, value from tags where key = 'mlflow.parentRunId'"))
    assert parents == {ids["train"]: ids["full"], ids["epoch"]: ids["train"]}


def test_a_pipeline_run_again_continues_its_run_and_its_children(folder: Path) -> None:
    for _ in range(2):
        with open_at(folder).run("full", key="fingerprint", tags={"fingerprint": "it's"}) as run, run.child("train") as train:
            train.log_metrics({"loss": 0.5}, step=1)
    found = open_at(folder).find({"fingerprint": "it's"})
    assert found is not None
    with open_at(folder).run("full", run_id=found) as run:
        assert run.run_id == found
    assert rows(folder, "select name, status from runs order by name") == [("full", "FINISHED"), ("train", "FINISHED")]
    assert metric_rows(folder) == [("loss", 1, 0.5)]
    assert open_at(folder).find({"fingerprint": "other"}) is None
    assert open_at(folder).find({"fingerprint": "'\""}) is None


def test_a_worker_that_attaches_does_not_end_the_run(folder: Path) -> None:
    with open_at(folder).run("full") as run:
        with open_at(folder).attach(run.run_id) as same:
            same.log_metrics({"loss": 0.5})
        assert rows(folder, "select status from runs") == [("RUNNING",)]


def test_the_data_of_a_run_are_recorded_once(folder: Path) -> None:
    with open_at(folder).run("prepare") as run:
        for _ in range(2):
            run.log_dataset("ml-100k", "s3://user:secret@bucket/ml-100k", "0123456789abcdef")
    found = rows(folder, "select name, digest, dataset_source from datasets")
    assert found == [("ml-100k", "0123456789abcdef", '{"uri": "s3://***@bucket/ml-100k"}')]
    assert rows(folder, "select count(*) from inputs") == [(1,)]


def test_a_hundred_trials_take_seconds_and_are_not_doubled(folder: Path) -> None:
    frame = pd.DataFrame({"budget": [0.01 * n for n in range(100)], "auc": [0.5 + 0.001 * n for n in range(100)]})
    frame.loc[7, "auc"] = float("nan")
    with open_at(folder).run("tune") as run:
        started_s = time.monotonic()
        log_trials(run, frame, ["budget"], ["auc"])
        assert time.monotonic() - started_s < 15
        log_trials(run, frame, ["budget"], ["auc"])
        parent = run.run_id
    children = rows(folder, "select count(*) from tags where key = 'mlflow.parentRunId' and value = '" + parent + "'")
    assert children == [(100,)]
    assert rows(folder, "select count(*), sum(value) from metrics") == [(99, pytest.approx(54.95 - 0.507))]
    assert rows(folder, "select name from runs where status = 'FAILED'") == [("7",)]
    assert rows(folder, "select count(*) from params") == [(100,)]


def one_of_four(folders: list[Path], number: int, together: multiprocessing.synchronize.Barrier) -> None:  # pyright: ignore[reportAttributeAccessIssue]
    for folder in folders:
        together.wait(60)
        tracker = open_tracker(Tracking.Config(), sqlite_uri(folder), folder / f"spool-{number}.jsonl")
        with tracker.run(f"run {number}") as run:
            for step in range(30):
                run.log_metrics({"loss": 1 / (1 + step)}, step)


def test_four_processes_share_a_fresh_database(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["components.tracking.store"])  # mlflow is imported once
    folders = [tmp_path / str(number) for number in range(3)]
    for folder in folders:
        folder.mkdir()
    together = context.Barrier(4)
    workers = [context.Process(target=one_of_four, args=(folders, number, together)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    for folder in folders:
        assert rows(folder, "select count(*) from runs where status = 'FINISHED'") == [(4,)]
        assert rows(folder, "select count(*) from metrics") == [(120,)]
        assert list(folder.glob("spool-*")) == []


# A store that is away


def test_a_dead_server_costs_no_error_and_the_spool_replays_exactly_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    away = open_at(folder, dead_uri())
    with away.run("full", params={"lr": 1}, key="fp") as run, run.child("train") as train:
        assert away.find({"a": "b"}) is None
        for step in range(50):
            train.log_metrics({"loss": 1.0 / (step + 1)}, step)
    assert [record.levelname for record in caplog.records if record.name.startswith("components")] == ["WARNING"]
    kept = (folder / "spool.jsonl").read_text()

    tracker = open_tracker(Tracking.Config(), sqlite_uri(folder), folder / "other.jsonl")
    assert replay(folder / "spool.jsonl", tracker) == 55  # 2 starts, 1 of parameters, 50 of metrics, 2 ends
    (folder / "again.jsonl").write_text(kept)
    assert replay(folder / "again.jsonl", tracker) == 55  # as after a sender that was killed before it noted anything
    assert not list(folder.glob("*.jsonl*"))
    assert rows(folder, "select name, status from runs order by name") == [("full", "FINISHED"), ("train", "FINISHED")]
    assert rows(folder, "select count(*), count(distinct step) from metrics") == [(50, 50)]
    assert rows(folder, "select count(*) from tags where key = 'mlflow.parentRunId'") == [(1,)]


def test_a_server_that_hangs_is_asked_once_and_not_at_each_call(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0), backlog=50) as silent:
        tracker = open_at(folder, f"http://127.0.0.1:{silent.getsockname()[1]}")
        with tracker.run("full") as run:
            for step in range(20):
                run.log_metrics({"loss": 0.5}, step)
        silent.setblocking(False)
        calls = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                silent.accept()[0].close()
                calls += 1
    assert calls == 4  # opening and the end of the run, each with one retry


def test_a_resumed_pipeline_sends_what_its_first_attempt_kept(folder: Path) -> None:
    with contextlib.suppress(KeyboardInterrupt), open_at(folder, dead_uri()).run("full", key="fp") as run:
        run.log_metrics({"loss": 0.5}, step=1)
        raise KeyboardInterrupt
    with open_at(folder).run("full", key="fp") as run:
        run.log_metrics({"loss": 0.4}, step=1)
        run.log_metrics({"loss": 0.3}, step=2)
    assert rows(folder, "select name, status from runs") == [("full", "FINISHED")]
    assert metric_rows(folder) == [("loss", 1, 0.5), ("loss", 2, 0.3)]


def test_a_database_that_cannot_be_opened_is_noticed_at_once(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is no database " * 100)
    started_s = time.monotonic()
    with open_at(tmp_path).run("full") as run:
        run.log_metrics({"loss": 0.5})
    assert time.monotonic() - started_s < 30  # MLflow alone takes 100 s
    assert len((tmp_path / "spool.jsonl").read_text().splitlines()) == 3


def test_a_file_that_is_gone_is_refused_and_does_not_hold_up_the_rest(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_at(folder).run("full") as run:
        run.log_file(folder / "absent.txt")
        run.log_metrics({"loss": 0.5})
    assert "tracking refused for good: files" in caplog.text
    assert metric_rows(folder) == [("loss", 0, 0.5)]
    assert not (folder / "spool.jsonl").exists()


def test_warnings_show_neither_passwords_nor_control_characters(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_at(folder, f"http://me:secret@127.0.0.1:{free_port()}").run("full"):
        pass
    with open_at(folder).run("full") as run:
        run.log_file(folder / "\n\x1b[31mERROR")
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("components")]
    assert len(lines) == 3
    assert all(line.isprintable() and "secret" not in line for line in lines)


def test_an_interrupted_replay_goes_on_where_it_stopped_and_a_torn_line_is_skipped(tmp_path: Path) -> None:
    spool, seen, failures = Spool(tmp_path / "spool.jsonl"), list[int](), [ConnectionError()]
    spool.append([Event("batch", "run", number, {"tags": {}}) for number in range(5)])
    with spool.path.open("a") as file:
        file.write('{"kind": "batch", "ru')
    spool.append([Event("end", "run", 5, {})])

    def apply(event: Event) -> None:
        if event.at_ms == 3 and failures:
            raise failures.pop()
        seen.append(event.at_ms)

    with pytest.raises(ConnectionError):
        spool.drain(apply, 10)
    assert Spool(spool.path).drain(apply, 10) == 3
    assert seen == [0, 1, 2, 3, 4, 5]
    assert not spool.waiting


def test_waiting_metrics_of_one_run_are_sent_together_and_in_order(tmp_path: Path) -> None:
    spool, seen = Spool(tmp_path / "spool.jsonl"), list[tuple[str, int]]()
    spool.append([Event("batch", "a", step, {"metrics": [["loss", 0.5, step, step]]}) for step in range(250)])
    spool.append([Event("end", "a", 9, {}), Event("batch", "b", 9, {"metrics": [["loss", 0.5, 0, 0]]})])
    sent = spool.drain(lambda event: seen.append((event.run, len(event.body.get("metrics", [])))), 10)
    assert (sent, seen) == (252, [("a", 100), ("a", 100), ("a", 50), ("a", 0), ("b", 1)])


# A real server


def test_a_server_killed_in_mid_run_is_caught_up_with_in_order_when_it_is_back(server: Server, folder: Path) -> None:
    tracker = open_at(folder, server.uri, retry_s=1.0)
    with tracker.run("mid-run", params={"lr": 1}) as run:
        run.log_metrics({"mid/loss": 1.0}, step=0)
        server.kill()
        started_s = time.monotonic()
        for step in range(1, 200):
            run.log_metrics({"mid/loss": 1.0 / (step + 1)}, step)
        assert time.monotonic() - started_s < 30
        assert (folder / "spool.jsonl").exists()
        server.start()
        time.sleep(1.0)
        run.log_metrics({"mid/loss": 0.001}, step=200)
        assert not (folder / "spool.jsonl").exists()
        run.log_metrics({"mid/loss": 0.0005}, step=201)
    found = rows(server.folder, "select step, value from metrics where key = 'mid/loss' order by timestamp, step")
    assert [step for step, _ in found] == list(range(202))
    assert found[9] == (9, 0.1)
    assert rows(server.folder, "select status from runs where name = 'mid-run'") == [("FINISHED",)]
    assert rows(server.folder, "select step from latest_metrics where key = 'mid/loss'") == [(201,)]


def test_an_ensemble_goes_through_a_server_and_comes_back(server: Server, folder: Path, loader_module: str) -> None:
    assert register_line(open_at(folder, server.uri), folder, loader_module) == "1"
    model = load_ensemble("models:/tandem@champion", server.uri, loader_module)
    assert list(model.predict(pd.DataFrame({"x": [3.0]}))["p"]) == [7.0]


# The model registry


def test_a_registered_ensemble_loads_with_the_same_predictions(folder: Path, loader_module: str) -> None:
    import mlflow.pyfunc

    tracker = open_at(folder)
    assert register_line(tracker, folder, loader_module) == "1"
    assert register_line(tracker, folder, loader_module) == "2"
    rows_in = pd.DataFrame({"x": [0.5, 10.0]})
    model = load_ensemble("models:/tandem@champion", sqlite_uri(folder), loader_module)
    assert list(model.predict(rows_in)["p"]) == [2.0, 21.0]
    first = load_ensemble("models:/tandem/1", sqlite_uri(folder), loader_module)
    assert list(first.predict(rows_in)["p"]) == [2.0, 21.0]
    assert rows(folder, "select alias, version from registered_model_aliases") == [("champion", 2)]

    packed = next((folder / "mlflow-artifacts").rglob("MLmodel")).parent
    anyone = mlflow.pyfunc.load_model(str(packed))  # as people do who know MLflow alone
    assert list(anyone.predict(rows_in)["p"]) == [2.0, 21.0]
    assert anyone.metadata.signature is not None
    assert json.loads(anyone.metadata.signature.to_dict()["inputs"])[0]["name"] == "x"
    assert json.loads(anyone.metadata.signature.to_dict()["outputs"])[0]["name"] == "p"
    assert (packed / "requirements.txt").read_text().splitlines()[-1] == "pandas>=3.1"
    assert not [path for path in packed.rglob("*") if path.suffix in (".pkl", ".pickle", ".pt", ".bin")]


def test_registering_with_the_same_key_returns_the_same_version(folder: Path, loader_module: str) -> None:
    tracker = open_at(folder)
    example, code = pd.DataFrame({"x": [0.0]}), [folder / "code_of_line" / "line_loader.py"]
    with tracker.run("full", key="fp") as run:
        versions = [register_ensemble(run, folder / "line_model", code, loader_module, [], example, example, "fp") for _ in range(2)]
    assert versions == ["1", "1"]


def test_an_ensemble_registered_while_the_store_is_away_is_registered_by_the_replay(folder: Path, loader_module: str) -> None:
    assert register_line(open_at(folder, dead_uri()), folder, loader_module) is None
    open_at(folder)
    model = load_ensemble("models:/tandem@champion", sqlite_uri(folder), loader_module)
    assert list(model.predict(pd.DataFrame({"x": [1.0]}))["p"]) == [3.0]


def test_code_from_the_store_is_never_run(folder: Path, loader_module: str) -> None:
    register_line(open_at(folder), folder, loader_module)
    copy = next((folder / "mlflow-artifacts").rglob("line_loader.py"))
    copy.write_text(f"open({str(folder / 'marker')!r}, 'w')\n" + LOADER)
    load_ensemble("models:/tandem@champion", sqlite_uri(folder), loader_module)
    assert not (folder / "marker").exists()
    with pytest.raises(ArtifactError, match="expected a model that json loads; got one for line_loader"):
        load_ensemble("models:/tandem@champion", sqlite_uri(folder), "json")


def test_an_unknown_model_is_an_error_that_names_it(folder: Path) -> None:
    open_at(folder)
    with pytest.raises(ArtifactError, match="expected a registered ensemble at models:/tandem@champion"):
        load_ensemble("models:/tandem@champion", sqlite_uri(folder), "json")


# Configuration


@pytest.mark.parametrize(
    "wrong",
    [
        *[{"uri": "mlruns"}, {"uri": "file:///x"}, {"uri": "sqlite:///:memory:"}, {"experiment": ""}, {"experiment": "a\nb"}],
        *[{"registered_model": "a/b"}, {"registered_model": ""}, {"alias": "latest"}, {"alias": "v2"}, {"alias": "a b"}],
    ],
)
def test_a_wrong_tracking_configuration_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=f"tracking.{next(iter(wrong))}: expected"):
        Tracking.Config(**wrong)


def test_parameters_are_flattened_by_dots() -> None:
    nested = {"crm": Tracking.Config(uri=None, experiment="x"), "sizes": (1, 2)}
    assert tracking_names.flat(nested) == {
        "crm.type": "Tracking.Config",
        "crm.experiment": "x",
        "crm.registered_model": "tandem",
        "crm.alias": "champion",
        "sizes": json.dumps([1, 2]),
    }


def test_nothing_is_logged_while_all_goes_well(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), open_at(folder).run("full") as run:
        run.log_metrics({"loss": 0.5})
    assert [record for record in caplog.records if record.name.startswith("components")] == []
