"""The download of a published archive, tried against a server on this machine."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from components.datasets.movielens import ARCHIVE_1M, MovieLens1m
from components.datasets.raw.download import Archive, fetch
from components.errors import DataError
from tests.components.datasets.samples import write_ml_1m

MEMBERS = ["ml-1m/README", "ml-1m/ratings.dat"]


def zipped(contents: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return packed.getvalue()


BODY = zipped({"ml-1m/README": b"read me", "ml-1m/ratings.dat": b"1::2::3::4\n"})


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """Serve the files of the returned dict at their names; its "" is the server's address."""
    monkeypatch.setenv("no_proxy", "*")
    files: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path in files
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(files.get(self.path, b""))

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    files[""] = f"http://127.0.0.1:{server.server_address[1]}".encode()
    yield files
    server.shutdown()
    thread.join()
    server.server_close()


def archive_of(serve: dict[str, bytes], body: bytes, size: int | None = None, md5: str | None = None) -> Archive:
    serve["/ml.zip"] = body
    return Archive(f"{serve[''].decode()}/ml.zip", size or len(body), md5 or hashlib.md5(body).hexdigest())


def test_an_archive_is_unpacked_into_the_folder(serve: dict[str, bytes], tmp_path: Path) -> None:
    fetch(archive_of(serve, BODY), MEMBERS, str(tmp_path / "new"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()} == {"README": b"read me", "ratings.dat": b"1::2::3::4\n"}


def test_an_archive_is_unpacked_into_an_object_store(serve: dict[str, bytes]) -> None:
    fetch(archive_of(serve, BODY), MEMBERS, "memory://fetched")
    fs, _ = fsspec.core.url_to_fs("memory://fetched")
    assert sorted(name.rsplit("/", 1)[-1] for name in fs.find("/fetched")) == ["README", "ratings.dat"]


def test_a_file_already_there_is_kept(serve: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "README").write_text("mine")
    fetch(archive_of(serve, BODY), MEMBERS, str(tmp_path))
    assert (tmp_path / "README").read_text() == "mine"


@pytest.mark.parametrize(
    ("size", "md5", "message"),
    [
        (len(BODY) + 1, None, f"expected {len(BODY) + 1} bytes, got {len(BODY)}"),
        (len(BODY) - 1, None, f"expected {len(BODY) - 1} bytes, got more"),
        (None, "0" * 32, "expected md5 00000000"),
    ],
)
def test_an_archive_that_is_not_the_published_one_leaves_nothing(
    serve: dict[str, bytes], tmp_path: Path, size: int | None, md5: str | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        fetch(archive_of(serve, BODY, size, md5), MEMBERS, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_an_archive_without_a_wanted_file_leaves_nothing(serve: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a zip file with ml-1m/README, ml-1m/ratings\.dat"):
        fetch(archive_of(serve, zipped({"ml-1m/README": b""})), MEMBERS, str(tmp_path))
    with pytest.raises(DataError, match="expected a zip file"):
        fetch(archive_of(serve, b"no zip"), MEMBERS, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_an_address_that_does_not_answer_is_named(serve: dict[str, bytes], tmp_path: Path) -> None:
    archive = Archive(f"{serve[''].decode()}/gone.zip", 1, "")
    with pytest.raises(DataError, match=r"gone\.zip can't be downloaded"):
        fetch(archive, MEMBERS, str(tmp_path))


def test_movielens_1m_is_fetched_only_where_the_user_agreed(serve: dict[str, bytes], tmp_path: Path) -> None:
    write_ml_1m(tmp_path)
    body = zipped({f"ml-1m/{path.name}": path.read_bytes() for path in tmp_path.iterdir()} | {"ml-1m/README": b"licence"})
    archive, folder = archive_of(serve, body), str(tmp_path / "ml-1m")
    with pytest.raises(DataError, match=r"ratings\.dat, movies\.dat, users\.dat.*--dataset\.download"):
        MovieLens1m(MovieLens1m.Config(), archive).read(folder)
    assert not Path(folder).exists()
    tables = MovieLens1m(MovieLens1m.Config(download=True), archive).read(folder)
    assert len(next(iter(tables.interactions[0].read()))) == 10
    assert (tmp_path / "ml-1m" / "README").exists()


def test_the_published_archive_is_the_one_that_grouplens_offers() -> None:
    assert Archive("https://files.grouplens.org/datasets/movielens/ml-1m.zip", 5_917_549, "c4d9eecfca2ab87c1945afe126590906") == ARCHIVE_1M
