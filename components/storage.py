"""Where files are: any fsspec URI, a plain local path among them. The one place that opens stores.

Credentials come from the environment of each process (for `s3://`: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, a
profile or a role), never from a URI.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from components.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow.fs

CREDENTIALS = re.compile(r"://[^/@:]*:.*@")  # a secret may hold any character, "/" and "@" too
SHOWN_CREDENTIALS = re.compile(
    r"(?i)(?<!/)(//)(?:[^/@:\s]*:\S*|[^/@\s]+)(?=@)|([?&;](?:password|passwd|pwd|token|secret|sig|odbc_connect)=)[^&;\s\"']*"
)
MARKS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "created")  # what stores call it; the first that is there tells most


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the store that a URI names and the path inside it; raises ConfigError where no such store can be opened."""
    if CREDENTIALS.search(uri):
        raise ConfigError(f"{without_credentials(uri)}: expected a URI without user and password: they come from the environment")
    try:
        # Listings are never kept: other processes write there too.
        return fsspec.core.url_to_fs(uri, use_listings_cache=False)
    except (ImportError, ValueError) as error:  # its package is not installed (pip install 'tandem-rec[s3]'), or nobody knows it
        raise ConfigError(f"{uri}: {error}") from error


def without_credentials(text: str) -> str:
    """Hide what looks like a user, a password or a key in the URLs of a text: for whatever is printed or recorded."""
    return SHOWN_CREDENTIALS.sub(lambda found: f"{found[1] or found[2]}***", text)


def is_local(fs: fsspec.AbstractFileSystem) -> bool:
    """Tell a disk, with renames and locks of its own, from an object store."""
    return isinstance(fs, LocalFileSystem)


def open_file(uri: str, mode: str = "rb", **options: Any) -> Any:
    """Open one file; for writing, its folder is made."""
    fs, path = filesystem(uri)
    if is_local(fs) and "r" not in mode:
        fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    return fs.open(path, mode, **options)


def is_uri(place: str) -> bool:
    """Tell a URI from a local path or a hub id."""
    return "://" in place


def exists(uri: str) -> bool:
    """Tell whether there is a file or a folder."""
    fs, path = filesystem(uri)
    return fs.exists(path)


def listing(fs: fsspec.AbstractFileSystem, folder: str) -> dict[str, tuple[int, str]]:
    """Return the size in bytes and the mark of every file below a folder, by its path in there."""
    root = folder.rstrip("/") + "/"
    found: dict[str, dict[str, Any]] = fs.find(folder, detail=True)  # pyright: ignore[reportAssignmentType]
    return {name.removeprefix(root): (int(info["size"]), mark(info)) for name, info in sorted(found.items())}


def mark(info: dict[str, Any]) -> str:
    """Return what changes when a file changes: the store's own mark of its content, or the time of its last change."""
    return str(next((info[name] for name in MARKS if info.get(name)), ""))


def arrow(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """Return the store and the path as Arrow and Ray take them: reached by fsspec too, so that every reader has the same settings."""
    import pyarrow.fs  # a fifth of a second that a command line need not wait

    fs, path = filesystem(uri)
    return (pyarrow.fs.LocalFileSystem() if is_local(fs) else pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs))), path
