"""Ray's token: made once, read by its owner alone, shown to clusters that ask for it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components import ray_token
from components.errors import ConfigError


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (ray_token.MODE, ray_token.GIVEN, ray_token.GIVEN_FILE):
        monkeypatch.setenv(name, "")  # to be put back as it was
        monkeypatch.delenv(name)
    before = os.umask(0o022)
    yield tmp_path
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_cluster_of_ones_own_asks_for_a_token_that_nobody_else_can_read(home: Path) -> None:
    ray_token.own_cluster()
    path = home / ".ray" / "tandem_token"
    assert (os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN_PATH"]) == ("token", str(path))
    assert re.fullmatch(r"[0-9a-f]{64}", path.read_text())
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    assert list(path.parent.iterdir()) == [path]


def test_a_token_that_others_could_read_is_kept_and_closed(home: Path) -> None:
    path = home / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("a" * 64)
    assert mode(path) == 0o644
    ray_token.own_cluster()
    assert (path.read_text(), mode(path)) == ("a" * 64, 0o600)


def test_runs_that_start_at_once_share_one_token(home: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: ray_token.own_cluster(), range(32)))
    assert [path.name for path in (home / ".ray").iterdir()] == ["tandem_token"]
    assert len((home / ".ray" / "tandem_token").read_text()) == 64


def test_a_ray_that_is_started_by_hand_after_a_run_asks_for_no_token(home: Path) -> None:
    ray_token.own_cluster()
    assert not (home / ".ray" / "auth_token").exists()  # where Ray finds one it asks for it, of whoever submits a job as well


@pytest.mark.usefixtures("home")
def test_the_token_of_a_run_is_not_shown_to_another_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    ray_token.own_cluster()
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name)
    ray_token.other_cluster()
    assert "RAY_AUTH_MODE" not in os.environ  # else this process would refuse what workers without a token say, and wait for ever


def test_a_ray_that_asks_nobody_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(ConfigError, match="RAY_AUTH_MODE: expected token, got disabled"):
        ray_token.own_cluster()


def test_a_home_that_takes_no_token_is_named(home: Path) -> None:
    (home / ".ray").write_text("no folder")
    with pytest.raises(ConfigError, match=f"{home}/.ray/tandem_token: expected a place for Ray's token, .*; or set RAY_AUTH_TOKEN or"):
        ray_token.own_cluster()


def test_a_token_in_the_environment_makes_no_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "b" * 64)
    ray_token.own_cluster()
    assert list(home.iterdir()) == []


def test_a_token_file_that_is_named_must_be_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "mounted"))
    with pytest.raises(ConfigError, match=f"{home}/mounted: expected a token that you alone can read: No such file"):
        ray_token.own_cluster()
    (home / "mounted").write_text("c" * 64)
    ray_token.own_cluster()
    assert mode(home / "mounted") == 0o600


def test_a_token_is_shown_to_a_cluster_that_is_joined(home: Path) -> None:
    ray_token.other_cluster()
    assert "RAY_AUTH_MODE" not in os.environ
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("d" * 64)
    ray_token.other_cluster()
    assert os.environ["RAY_AUTH_MODE"] == "token"


def test_a_cluster_that_asks_for_a_token_is_not_joined_without_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(ConfigError, match=f"expected the cluster's token in {home}/.ray/auth_token or in RAY_AUTH_TOKEN, found none"):
        ray_token.other_cluster()
