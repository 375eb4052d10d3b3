"""Who may ask, by the address that Serve listens on and the arguments."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.errors import ConfigError
from serving import access
from serving.access import Access, guard, is_loopback
from serving.arguments import Arguments

KEY = b"a key of many characters"
HERE, THERE = ("127.0.0.1", "127.8.9.1", "::1", "localhost"), ("0.0.0.0", "::", "10.0.0.1", "example.org", "")


@pytest.fixture(autouse=True)
def ray_asks_for_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    (tmp_path / "key").write_bytes(KEY + b"\n")
    return str(tmp_path / "key")


def guarded(host: str, **settings: Any) -> Access:
    return guard(host, Arguments(model="m", **settings))


@pytest.mark.parametrize(("host", "loopback"), [*((host, True) for host in HERE), *((host, False) for host in THERE)])
def test_only_addresses_of_this_machine_are_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback


@pytest.mark.parametrize("host", HERE)
def test_on_loopback_all_may_ask_who_name_this_machine_and_see_the_documents(host: str) -> None:
    assert guarded(host) == Access(None, docs=True, own_names=True)
    assert guarded(host, behind_proxy=True) == Access(None, docs=True, own_names=False), "a proxy has a name of its own"
    assert not guarded(host, docs=False).docs


@pytest.mark.parametrize("host", THERE)
def test_beyond_loopback_it_is_refused_without_a_key_or_a_proxy(host: str) -> None:
    with pytest.raises(ConfigError, match="beyond loopback: expected api_key_file=FILE, or behind_proxy=true"):
        guarded(host)
    assert guarded(host, behind_proxy=True) == Access(None, docs=False)


@pytest.mark.parametrize("host", [*HERE, *THERE])
def test_a_key_is_asked_for_wherever_it_listens(host: str, key_file: str) -> None:
    assert guarded(host, api_key_file=key_file) == Access(KEY, docs=host in HERE)
    assert guarded(host, api_key_file=key_file, docs=True).docs


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_key_that_is_missing_or_short_is_refused_and_not_repeated(host: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^api_key_file: expected a readable file, got .*/none: No such file"):
        guarded(host, api_key_file=str(tmp_path / "none"))
    for short in (b"", b"\n", b"  fifteen letters".strip()[:15], b" " * 40):
        (tmp_path / "key").write_bytes(short)
        with pytest.raises(ConfigError, match=r"^api_key_file: expected at least 16 characters in .*/key, got \d+$") as error:
            guarded(host, api_key_file=str(tmp_path / "key"))
        assert not short.strip() or short.decode() not in str(error.value)


@pytest.mark.parametrize(
    ("client", "host"),
    [
        (SimpleNamespace(http_config=SimpleNamespace(host="127.0.0.1")), "127.0.0.1"),
        (SimpleNamespace(http_config=SimpleNamespace(host="10.1.2.3")), "10.1.2.3"),
        (SimpleNamespace(http_config=SimpleNamespace(host=None)), "0.0.0.0"),
        (SimpleNamespace(), "0.0.0.0"),
        (None, "0.0.0.0"),
    ],
)
def test_where_serve_does_not_say_where_it_listens_it_counts_as_everywhere(client: Any, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_get_global_client", lambda: client)
    assert access._http_host() == host
    if is_loopback(host):
        assert access.access(Arguments(model="m")).key is None
    else:
        with pytest.raises(ConfigError, match=f"serving on {host}, beyond loopback"):
            access.access(Arguments(model="m"))


@pytest.mark.parametrize("mode", ["", "disabled"])
def test_beyond_loopback_ray_asks_for_a_token_too(mode: str, key_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with pytest.raises(ConfigError, match=r"serving on 0\.0\.0\.0, beyond loopback: expected RAY_AUTH_MODE=token"):
        guarded("0.0.0.0", api_key_file=key_file, behind_proxy=True)
    assert guarded("127.0.0.1").key is None
