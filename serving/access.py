"""Who may ask: everybody on loopback; beyond it, who holds the key or comes through a proxy that authenticates."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import ray
from ray.serve.context import _get_global_client

from components import ray_token
from components.errors import ConfigError
from serving.arguments import Arguments

KEY_CHARACTERS = 16  # the shortest key that is taken


@dataclass(frozen=True)
class Access:
    """What guards the endpoint."""

    key: bytes | None
    docs: bool
    own_names: bool = False  # requests must name this machine: a page elsewhere may have let its own name point here


def access(arguments: Arguments) -> Access:
    """Return what guards this endpoint; called where it serves, for only there it is known on which address Serve listens."""
    return guard(_http_host(), arguments)


def guard(host: str, arguments: Arguments) -> Access:
    """Return what guards an endpoint that listens on `host`; raises ConfigError where strangers could ask."""
    local, key = is_loopback(host), _key(arguments.api_key_file)
    if not local and os.environ.get(ray_token.MODE, "").lower() != "token":
        raise ConfigError(f"serving on {host}, beyond loopback: expected {ray_token.MODE}=token, for the replicas' own ports are as open")
    if not local and key is None and not arguments.behind_proxy:
        allowed = "api_key_file=FILE, or behind_proxy=true where a proxy authenticates"
        raise ConfigError(f"serving on {host}, beyond loopback: expected {allowed}")
    own_names = local and key is None and not arguments.behind_proxy
    return Access(key, local if arguments.docs is None else arguments.docs, own_names)


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address; a name other than localhost may be anything."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def names_loopback(authority: str) -> bool:
    """Tell whether the Host of a request, with or without a port, is a name of this machine alone."""
    try:
        return is_loopback(urlsplit(f"//{authority}").hostname or "")
    except ValueError:
        return False


def require_shared_events(uri: str, shared: bool) -> None:
    """Raise ConfigError where replicas on several nodes would each have events of their own."""
    nodes = sum(node["Alive"] for node in ray.nodes())
    if nodes > 1 and not shared:
        raise ConfigError(f"events: expected redis://HOST:PORT/DB on a cluster of {nodes} nodes; {uri.split(':', 1)[0]} keeps them on one")


def _key(path: str) -> bytes | None:
    if not path:
        return None
    try:
        key = Path(path).read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"api_key_file: expected a readable file, got {path}: {error.strerror}") from error
    if len(key) < KEY_CHARACTERS:
        raise ConfigError(f"api_key_file: expected at least {KEY_CHARACTERS} characters in {path}, got {len(key)}")
    return key


def _http_host() -> str:
    # Serve has no public way to ask; without an answer it counts as open to all.
    return str(getattr(getattr(_get_global_client(), "http_config", None), "host", None) or "0.0.0.0")
