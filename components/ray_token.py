"""The token that keeps strangers out of a Ray cluster: whoever reaches Ray's ports without being asked for one runs code there."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

from components.errors import ConfigError

MODE = "RAY_AUTH_MODE"
GIVEN, GIVEN_FILE = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"  # in the place of the file in the home, in this order
# Beside the file in the home: where that one exists, Ray asks for it in every cluster that anybody starts by hand.
OWN_FILE = "tandem_token"


def own_cluster() -> None:
    """Have Ray ask for a token in the cluster that this process starts, and keep it where nobody else reads it.

    Ray's ports listen on every interface, whatever it is told. Raises ConfigError where it is told to ask nobody.
    """
    if os.environ.setdefault(MODE, "token").lower() != "token":
        raise ConfigError(f"{MODE}: expected token, got {os.environ[MODE]}; the ports of a Ray without tokens are open to the network")
    if os.environ.get(GIVEN):
        return
    given = os.environ.get(GIVEN_FILE)
    path = Path(given) if given else token_file()
    if not given and not path.exists():
        path = path.with_name(OWN_FILE)
        try:
            _create(path)
        except OSError as error:
            raise ConfigError(f"{path}: expected a place for Ray's token, {error.strerror}; or set {GIVEN} or {GIVEN_FILE}") from error
        os.environ[GIVEN_FILE] = str(path)
    _keep_private(path)


def other_cluster() -> None:
    """Show the token, where there is one, to the cluster that this process joins; raises ConfigError where it must be shown but is lacking.

    Ray itself shows it only to a cluster that it finds by itself.
    """
    available = bool(os.environ.get(GIVEN)) or token_file().exists()
    if available:
        os.environ.setdefault(MODE, "token")
    elif os.environ.get(MODE, "").lower() == "token":
        raise ConfigError(f"{MODE} is token: expected the cluster's token in {token_file()} or in {GIVEN}, found none")


def token_file() -> Path:
    """Return where the token lies, unless the environment holds it."""
    return Path(os.environ.get(GIVEN_FILE) or Path.home() / ".ray" / "auth_token")


def _create(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent)  # readable by its owner alone
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
        with contextlib.suppress(FileExistsError):  # another run was first, and its token is whole
            os.link(aside, path)
    finally:
        Path(aside).unlink()


def _keep_private(path: Path) -> None:
    try:
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except OSError as error:
        raise ConfigError(f"{path}: expected a token that you alone can read: {error.strerror}") from error
