"""What stands before every route: the key, the limit of the body, and the count of what passes."""

from __future__ import annotations

import asyncio
import inspect
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from serving import gate
from serving.metrics import Metrics
from serving.service import Service
from tests.serving.conftest import MAX_BODY_BYTES
from tests.serving.http_server import Called, Running, called
from tests.serving.test_bad_input import JSON, MARK, SCORE, refused

KEY = "schlüssel-of-sixteen"
GUARDED = ["/v1/users", "/v1/policy", "/v1/items?item_id=i0", "/v1/nothing", "/docs", "/docs/oauth2-redirect", "/openapi.json", "/nothing"]
FREE = ["/", "/healthz", "/readyz"]
MEGABYTE = 1 << 20


class Recording(Metrics):
    """Keeps what is counted, for tests to look at."""

    def __init__(self) -> None:
        super().__init__()
        self.finishes: list[tuple[str, int, str]] = []
        self.ongoing = 0
        self.fallbacks: list[str | None] = []
        self.failures: list[str] = []

    def started(self) -> None:
        super().started()
        self.ongoing += 1

    def finished(self, endpoint: str, status: int, arm: str, latency_ms: float) -> None:
        super().finished(endpoint, status, arm, latency_ms)
        self.ongoing -= 1
        self.finishes.append((endpoint, status, arm))

    def scored(self, scored: Any) -> None:
        super().scored(scored)
        self.fallbacks.append(scored.degraded_cause)

    def llm_failed(self, cause: str) -> None:
        super().llm_failed(cause)
        self.failures.append(cause)


@pytest.fixture(scope="module")
def locked(ensemble: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Called]:
    with called(ensemble, tmp_path_factory.mktemp("events") / "events.db", KEY.encode()) as found:
        yield found


@pytest.fixture(scope="module")
def own_names(ensemble: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Called]:
    with called(ensemble, tmp_path_factory.mktemp("events") / "events.db", own_names=True) as found:
        yield found


@pytest.fixture
def counted(ensemble: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Called]:
    monkeypatch.setattr("serving.service.Metrics", Recording)
    with called(ensemble, tmp_path / "events.db", deadline_ms=30_000) as found:
        yield found


def recorded(service: Service) -> Recording:
    assert isinstance(service.metrics, Recording)
    return service.metrics


def bearer(key: str) -> dict[bytes, bytes]:
    return {b"authorization": b"Bearer " + key.encode()}


@pytest.mark.parametrize("path", [path for path in GUARDED + FREE if not path.endswith("nothing")])
def test_without_a_key_everything_is_open(http: Called, path: str) -> None:
    assert http.client.get(path).status_code == 200


@pytest.mark.parametrize("path", FREE)
def test_health_and_the_page_need_no_key(locked: Called, path: str) -> None:
    assert locked.client.get(path).status_code == 200


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer " + MARK.encode(),
        b"Bearer " + KEY.encode()[:-1],
        b"Bearer " + KEY.encode() + b"x",
        b"Basic " + KEY.encode(),
        KEY.encode(),
        b"Bearer \xff\xfe",
    ],
)
def test_without_the_key_the_answer_is_401(locked: Called, path: str, sent: bytes) -> None:
    response = locked.client.get(path, headers={b"authorization": sent} if sent else {})
    refused(response, 401, None)
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", GUARDED)
def test_with_the_key_the_answer_is_the_routes_own(locked: Called, path: str) -> None:
    assert locked.client.get(path, headers=bearer(KEY)).status_code == (404 if "nothing" in path else 200)


def test_the_schemes_name_may_be_written_in_any_case(locked: Called) -> None:
    assert locked.client.get("/v1/policy", headers={b"authorization": b"bearer  " + KEY.encode()}).status_code == 200


@pytest.mark.parametrize(("key", "status"), [(KEY.encode(), 200), (KEY.encode("latin-1"), 401), (KEY.encode("utf-16"), 401)])
def test_the_key_is_compared_byte_by_byte(locked: Called, key: bytes, status: int) -> None:
    headers = [(b"authorization", b"Bearer " + key)]
    scope = {"type": "http", "method": "GET", "path": "/v1/policy", "query_string": b"", "headers": headers}
    assert call(locked, scope, [])[0] == status


def test_no_question_is_answered_without_the_key(locked: Called) -> None:
    for path in ("/v1/score", "/v1/rank", "/v1/events"):
        refused(locked.client.post(path, content=b"{" + MARK.encode()), 401, None)


def test_the_key_is_asked_for_below_a_prefix_too(locked: Called) -> None:
    def status(path: str) -> int:
        scope = {"type": "http", "method": "GET", "path": path, "root_path": "/tandem", "query_string": b"", "headers": []}
        return call(locked, scope, [])[0]

    assert status("/tandem/v1/policy") == 401
    assert status("/tandem/docs") == 401
    assert status("/tandem/healthz") == 200


def test_keys_are_compared_in_constant_time() -> None:
    assert "compare_digest(" in inspect.getsource(gate.Gate)
    assert "== self._access.key" not in inspect.getsource(gate.Gate)


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:8000", "[::1]", "[::1]:8000"])
def test_a_request_that_names_this_machine_is_answered(own_names: Called, host: str) -> None:
    assert own_names.client.get("/v1/policy", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("path", ["/v1/policy", "/", "/healthz"])
@pytest.mark.parametrize("host", [f"{MARK}.example", "localhost.evil.example:8000", "192.168.1.9", "127.0.0.1@evil.example", "[::1", ""])
def test_a_page_whose_name_was_made_to_point_here_is_refused(own_names: Called, host: str, path: str) -> None:
    refused(own_names.client.get(path, headers={"host": host}), 421, None)


def test_documents_are_served_only_where_asked_for(ensemble: Path, tmp_path: Path) -> None:
    with called(ensemble, tmp_path / "events.db", docs=False) as closed:
        for path in ("/docs", "/openapi.json", "/redoc"):
            refused(closed.client.get(path), 404, None)


def call(endpoint: Called, scope: dict[str, Any], parts: list[bytes], ends: bool = True) -> tuple[int, bytes]:
    """Call the application as a server does; return status and body. After the parts the client is gone, or never ends its body."""
    sent: list[dict[str, Any]] = []
    last = len(parts) - ends
    messages = [{"type": "http.request", "body": part, "more_body": number < last} for number, part in enumerate(parts)]

    async def receive() -> dict[str, Any]:
        if not messages and not ends:
            await asyncio.Event().wait()
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(endpoint.app({"http_version": "1.1", "scheme": "http", **scope}, receive, send))  # pyright: ignore[reportArgumentType]
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


def body_of(size: int) -> bytes:
    """A request of exactly this size."""
    start, end = json.dumps(SCORE)[:-1].encode(), b"}"
    return start + b" " * (size - len(start) - len(end)) + end


def post_scope(*headers: tuple[bytes, bytes]) -> dict[str, Any]:
    kind = (b"content-type", b"application/json")
    return {"type": "http", "method": "POST", "path": "/v1/score", "query_string": b"", "headers": [kind, *headers]}


LIMIT = MEGABYTE


def test_a_body_at_the_limit_passes_and_one_byte_more_does_not(http: Called) -> None:
    assert http.client.post("/v1/score", content=body_of(LIMIT), headers=JSON).status_code == 200
    response = http.client.post("/v1/score", content=body_of(LIMIT + 1), headers=JSON)
    assert refused(response, 413, "body") == f"expected at most {LIMIT} bytes"


def test_without_a_length_the_limit_is_as_exact(http: Called) -> None:
    def parts(size: int) -> Iterator[bytes]:
        body = body_of(size)
        yield from (body[at : at + 65_536] for at in range(0, size, 65_536))

    assert http.client.post("/v1/score", content=parts(LIMIT), headers=JSON).status_code == 200
    refused(http.client.post("/v1/score", content=parts(LIMIT + 1), headers=JSON), 413, "body")


@pytest.mark.parametrize("length", [b"10", b"-1", b"x" + MARK.encode(), b"\xb2", b""])
def test_a_length_that_lies_changes_nothing(http: Called, length: bytes) -> None:
    status, body = call(http, post_scope((b"content-length", length)), [b" " * (LIMIT // 2), MARK.encode() * LIMIT])
    assert (status, json.loads(body)["error"]["code"]) == (413, "too_large")
    assert MARK.encode() not in body
    assert call(http, post_scope((b"content-length", length)), [body_of(100)])[0] == 200


@pytest.mark.parametrize("length", [str(LIMIT + 1).encode(), b"9" * 30, b"9" * 5_000])
def test_a_length_beyond_the_limit_is_refused_before_the_body_is_read(http: Called, length: bytes) -> None:
    assert call(http, post_scope((b"content-length", length)), [])[0] == 413


def test_routes_without_a_body_have_the_limit_too(http: Called) -> None:
    refused(http.client.request("GET", "/v1/policy", content=b" " * (LIMIT + 1)), 413, "body")


def test_a_body_that_never_ends_is_answered_and_frees_its_place(ensemble: Path, tmp_path: Path) -> None:
    with called(ensemble, tmp_path / "events.db", max_body_ms=50, max_ongoing_requests=1) as slow:
        for parts in ([], [b'{"user": '], [b'{"user": ', b""]):
            status, body = call(slow, post_scope(), parts, ends=False)
            assert status == 408
            assert json.loads(body)["error"] == {"code": "timeout", "field": "body", "message": "expected it within 0.05 s"}
        assert slow.client.post("/v1/score", json=SCORE).status_code == 200


def connected(endpoint: Running) -> socket.socket:
    address = urlsplit(endpoint.url)
    assert address.hostname is not None
    assert address.port is not None
    return socket.create_connection((address.hostname, address.port), timeout=30)


HEAD = b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def test_an_endless_body_is_cut_off_and_not_kept(listening: Running) -> None:
    before = psutil.Process().memory_info().rss
    block, sent = MARK.encode() * (65_536 // len(MARK)), 0
    chunk = f"{len(block):x}\r\n".encode() + block + b"\r\n"
    with connected(listening) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        try:
            while sent < 50 * MEGABYTE:
                connection.sendall(chunk)
                sent += len(chunk)
                assert psutil.Process().memory_info().rss - before < 20 * MEGABYTE
        except OSError:
            assert sent >= MAX_BODY_BYTES
    assert ready(listening)


def test_a_body_that_grows_too_long_gets_its_answer(listening: Running) -> None:
    block = MARK.encode() * (MAX_BODY_BYTES // len(MARK) + 1)
    with connected(listening) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + f"{len(block):x}\r\n".encode() + block + b"\r\n")
        answer = read(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code": "too_large", "field": "body"' in answer
    assert MARK.encode() not in answer


def test_the_limit_holds_on_a_connection(listening: Running) -> None:
    for size, status in ((MAX_BODY_BYTES, b"200"), (MAX_BODY_BYTES + 1, b"413")):
        with connected(listening) as connection:
            connection.sendall(HEAD + b"Connection: close\r\nContent-Length: " + str(size).encode() + b"\r\n\r\n")
            connection.sendall(body_of(size))
            assert read(connection).startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize("length", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind(listening: Running, length: bytes) -> None:
    for _ in range(3):
        with connected(listening) as connection:
            connection.sendall(HEAD + length + b'\r\n\r\n{"user')
    assert ready(listening)


def read(connection: socket.socket) -> bytes:
    found = b""
    while b"}" not in found:
        part = connection.recv(65_536)
        if not part:
            break
        found += part
    return found


def ready(listening: Running) -> bool:
    with connected(listening) as connection:
        connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return read(connection).startswith(b"HTTP/1.1 200")


def test_every_answer_is_counted_by_route_status_and_arm(counted: Called) -> None:
    client = counted.client
    client.get("/healthz")
    client.get("/v1/users/u0")
    client.get(f"/{MARK}")
    client.get("/v1/score")
    client.post("/v1/score", json={**SCORE, "threshold": "-inf"})
    client.post("/v1/rank", json={"user": {"id": "u0"}, "threshold": "inf"})
    client.post("/v1/score", json={})
    client.post("/v1/score", content=b" " * (LIMIT + 1))
    assert recorded(counted.service).finishes == [
        ("/healthz", 200, "none"),
        ("/v1/users/{user_id:path}", 200, "none"),
        ("other", 404, "none"),
        ("/v1/score", 405, "none"),
        ("/v1/score", 200, "llm"),
        ("/v1/rank", 200, "crm"),
        ("/v1/score", 422, "none"),
        ("other", 413, "none"),
    ]
    assert recorded(counted.service).ongoing == 0


def test_failures_of_the_llm_are_counted_by_their_cause(counted: Called) -> None:
    counted.llm.fails = True
    counted.client.post("/v1/score", json={**SCORE, "threshold": "-inf"})
    assert recorded(counted.service).finishes == [("/v1/score", 200, "fallback")], "apart from answers that nobody waited for"
    assert recorded(counted.service).failures == ["llm_unavailable"]
    assert recorded(counted.service).fallbacks == ["llm_unavailable"]


def test_a_client_that_left_is_not_counted_as_an_error_of_the_endpoint(counted: Called) -> None:
    async def leave() -> None:
        counted.llm.delay_s = 60.0
        body = json.dumps({**SCORE, "threshold": "-inf"}).encode()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            raise AssertionError("nobody is there")

        scope = {"http_version": "1.1", "scheme": "http", **post_scope()}
        task = asyncio.ensure_future(counted.app(scope, receive, send))
        while not counted.llm.asked:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    assert recorded(counted.service).finishes == [("/v1/score", 499, "none")]
    assert recorded(counted.service).ongoing == 0
