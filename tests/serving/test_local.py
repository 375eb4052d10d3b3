"""Where `make serve` listens; read without starting it."""

from __future__ import annotations

import socket
import sys

import pytest

from components.errors import ConfigError
from serving.local import main, origin, require_free


@pytest.mark.parametrize("port", ["0", "65536", "99999", "-1", "1e3", "http"])
def test_a_port_that_is_none_is_refused_in_one_line(port: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["serving.local", f"--port={port}"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("error: argument --port: expected 1 to 65535")


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "localhost"), (socket.AF_INET6, "::1")])
def test_an_address_of_either_family_is_tried_before_anything_starts(family: socket.AddressFamily, host: str) -> None:
    try:
        taken = socket.create_server((host, 0), family=family)
    except OSError as error:
        pytest.skip(f"this machine has no {host}: {error}")
    with taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as refused:
            require_free(host, port)
    assert str(refused.value) == f"port: expected a free one, {origin(host, port)} can't be listened on: Address already in use"
    require_free(host, port)


def test_a_host_that_is_none_is_one_clear_error() -> None:
    with pytest.raises(ConfigError, match=r"no-such-host\.invalid:8000 can't be listened on: \w"):
        require_free("no-such-host.invalid", 8000)


def test_an_ipv6_address_stands_in_brackets() -> None:
    assert [origin(host, 80) for host in ("::1", "127.0.0.1", "localhost")] == ["[::1]:80", "127.0.0.1:80", "localhost:80"]
