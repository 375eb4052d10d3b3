"""A store that is away, or hangs, or refuses: what is kept, and that it is sent exactly once."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

import pytest

from components.tracking import Tracking, open_tracker
from components.tracking.spool import Event, Spool
from tests.components.tracking.stores import Server, dead_uri, free_port, metric_rows, open_at, rows, sqlite_uri

pytestmark = pytest.mark.slow


def test_a_dead_server_costs_no_error_and_the_spool_replays_exactly_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    away = open_at(folder, dead_uri())
    with away.run("full", params={"lr": 1}, key="fp") as run, run.child("train") as train:
        for step in range(50):
            train.log_metrics({"loss": 1.0 / (step + 1)}, step)
    assert [record.levelname for record in caplog.records if record.name.startswith("components")] == ["WARNING"]
    kept = (folder / "spool.jsonl").read_text()

    assert len(kept.splitlines()) == 55  # 2 starts, 1 of parameters, 50 of metrics, 2 ends
    for _ in range(2):  # again, as after a sender that was killed before it noted anything
        (folder / "spool.jsonl").write_text(kept)
        assert not open_tracker(Tracking.Config(), sqlite_uri(folder), folder / "spool.jsonl").is_behind
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


def test_of_values_that_waited_together_the_first_stands(folder: Path) -> None:
    with open_at(folder, dead_uri()).run("full", key="fp") as run:
        for value in (0.5, 0.25):
            run.log_metrics({"loss": value}, step=1)
    open_at(folder)
    assert metric_rows(folder) == [("loss", 1, 0.5)]


def test_a_database_that_cannot_be_opened_is_noticed_at_once(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is no database " * 100)
    started_s = time.monotonic()
    with open_at(tmp_path).run("full") as run:
        run.log_metrics({"loss": 0.5})
    assert time.monotonic() - started_s < 30  # MLflow alone takes 100 s
    assert len((tmp_path / "spool.jsonl").read_text().splitlines()) == 3


def test_a_file_that_cannot_be_uploaded_does_not_hold_up_the_figures_and_is_lacking(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker = open_at(folder)
    with tracker.run("full") as run:
        run.log_files(folder / "absent.txt")
        run.log_metrics({"loss": 0.5})
    assert "tracking refused a files event (FileNotFoundError" in caplog.text
    assert metric_rows(folder) == [("loss", 0, 0.5)]
    assert not list(folder.glob("spool*")), "what lies there later may be another file"
    assert tracker.is_behind


def test_files_are_not_sent_later_from_where_they_lay(folder: Path) -> None:
    (folder / "curve.txt").write_text("of this run")
    away = open_at(folder, dead_uri())
    with away.run("full") as run:
        run.log_files(folder / "curve.txt")
        run.log_metrics({"loss": 0.5})
    assert away.is_behind
    (folder / "curve.txt").write_text("of another run")
    assert not open_at(folder).is_behind
    assert metric_rows(folder) == [("loss", 0, 0.5)]
    assert not list((folder / "mlflow-artifacts").rglob("curve.txt"))


def test_refused_events_are_tried_once_when_the_store_is_opened_and_count_as_behind(folder: Path) -> None:
    from mlflow import MlflowClient

    tracker, client, refused = open_at(folder), MlflowClient(sqlite_uri(folder)), folder / "spool.jsonl.refused"
    with tracker.run("full") as run:
        client.delete_run(run.run_id)
        run.log_metrics({"loss": 0.5})
    assert tracker.is_behind
    kept = refused.read_text()
    assert open_at(folder).is_behind  # refused once more
    assert refused.read_text() == kept
    client.restore_run(run.run_id)
    assert not open_at(folder).is_behind
    assert not refused.exists()
    assert metric_rows(folder) == [("loss", 0, 0.5)]


def test_a_run_whose_beginning_was_refused_holds_up_nothing_that_was_kept_later(folder: Path) -> None:
    start = Event("start", "tandem-a", 1, {"name": "full", "parent": None, "tags": {}})
    Spool(folder / "spool.jsonl.refused").append([start])
    Spool(folder / "spool.jsonl").append([Event("batch", "tandem-a", 2, {"metrics": [["loss", 0.5, 0, 2]]})])
    assert not open_at(folder).is_behind
    assert metric_rows(folder) == [("loss", 0, 0.5)]


def test_figures_of_a_deleted_run_are_refused_and_the_next_run_goes_on(folder: Path) -> None:
    from mlflow import MlflowClient

    tracker = open_at(folder)
    with tracker.run("deleted") as run:
        MlflowClient(sqlite_uri(folder)).delete_run(run.run_id)
        run.log_metrics({"loss": 0.5})
    with tracker.run("next") as run:
        run.log_metrics({"loss": 0.25})
    assert metric_rows(folder) == [("loss", 0, 0.25)]
    assert not (folder / "spool.jsonl").exists()
    assert len((folder / "spool.jsonl.refused").read_text().splitlines()) == 2


def test_a_run_that_was_refused_takes_its_events_and_children_with_it(folder: Path) -> None:
    from mlflow import MlflowClient

    tracker, client = open_at(folder), MlflowClient(sqlite_uri(folder))
    experiment = client.get_experiment_by_name("tandem")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    with tracker.run("full") as run, run.child("train") as train:
        train.log_metrics({"loss": 0.5})
    assert not (folder / "spool.jsonl").exists()
    assert len((folder / "spool.jsonl.refused").read_text().splitlines()) == 5
    assert not open_at(folder).is_behind  # it restores the experiment
    assert rows(folder, "select name, status from runs order by name") == [("full", "FINISHED"), ("train", "FINISHED")]


def test_warnings_show_neither_passwords_nor_control_characters(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_at(folder, f"http://me:secret@127.0.0.1:{free_port()}").run("full"):
        pass
    with open_at(folder).run("full") as run:
        run.log_files(folder / "\n\x1b[31mERROR")
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


def test_events_that_are_left_at_a_uri_are_those_not_sent_yet(tmp_path: Path) -> None:
    spool, other, seen, uri = Spool(tmp_path / "a"), Spool(tmp_path / "b"), list[int](), f"memory:///{tmp_path}/spool.jsonl"
    spool.append([Event("batch", "run", number, {"tags": {}}) for number in range(3)])

    def apply(event: Event) -> None:
        if event.at_ms == 1:
            raise ConnectionError
        seen.append(event.at_ms)

    with pytest.raises(ConnectionError):
        spool.drain(apply, 10)
    spool.leave(uri)
    assert not list(tmp_path.iterdir())
    other.fetch(uri)
    other.drain(lambda event: seen.append(event.at_ms), 10)
    assert seen == [0, 1, 2]
    other.leave(uri)
    other.fetch(uri)
    assert not list(tmp_path.iterdir())


def test_waiting_metrics_of_one_run_are_sent_together_and_in_order(tmp_path: Path) -> None:
    spool, seen = Spool(tmp_path / "spool.jsonl"), list[tuple[str, int]]()
    spool.append([Event("batch", "a", step, {"metrics": [["loss", 0.5, step, step]]}) for step in range(250)])
    spool.append([Event("end", "a", 9, {}), Event("batch", "b", 9, {"metrics": [["loss", 0.5, 0, 0]]})])
    sent = spool.drain(lambda event: seen.append((event.run, len(event.body.get("metrics", [])))), 10)
    assert (sent, seen) == (252, [("a", 100), ("a", 100), ("a", 50), ("a", 0), ("b", 1)])


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
