"""What strangers try on a running endpoint: its ports without the token, its logs with what they send."""

from __future__ import annotations

import http.client
import ipaddress
import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc
from ray.serve.generated import serve_pb2, serve_pb2_grpc

from tests.components.joint.traps import Trap
from tests.serving.served import Served

FORGED = "\n\x1b[31mERROR forged\x1b[0m\r\u2028\u202e"
ENCODED = "%0a%1b[31mERROR%20forged"
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Listener:
    """A port that a process listens on."""

    process: str
    host: str
    port: int

    @property
    def is_local(self) -> bool:
        return ipaddress.ip_address(self.host).is_loopback

    @property
    def address(self) -> str:
        return "127.0.0.1" if ipaddress.ip_address(self.host).is_unspecified else self.host

    def http_answer(self) -> tuple[int, bytes] | None:
        """Return status and body that a browser gets; None where nothing speaks HTTP/1."""
        connection = http.client.HTTPConnection(self.address, self.port, timeout=10)
        try:
            connection.request("GET", "/")
            response = connection.getresponse()
            return response.status, response.read()
        except (http.client.HTTPException, OSError):
            return None
        finally:
            connection.close()

    def replica_status(self, marker: Path) -> grpc.StatusCode | None:
        """Send a replica of Serve a request of its own kind, a pickle with a trap; return why it was refused."""
        trap = pickle.dumps(Trap(marker))
        request = serve_pb2.ASGIRequest(pickled_request_metadata=trap, request_args=trap)
        with grpc.insecure_channel(f"{self.address}:{self.port}") as channel:
            return _refusal(serve_pb2_grpc.ASGIServiceStub(channel).HandleRequest, request)

    def gcs_status(self) -> grpc.StatusCode | None:
        """Ask the head of the cluster for its nodes; return why it was refused."""
        with grpc.insecure_channel(f"{self.address}:{self.port}") as channel:
            return _refusal(gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel).GetAllNodeInfo, gcs_service_pb2.GetAllNodeInfoRequest())


def _refusal(call: grpc.UnaryUnaryMultiCallable, request: object) -> grpc.StatusCode | None:
    try:
        call(request, timeout=10)
    except grpc.RpcError as error:
        return error.code()  # pyright: ignore[reportAttributeAccessIssue]
    return None


def processes(endpoint: Served) -> list[psutil.Process]:
    whole = psutil.Process(endpoint.process.pid)
    return [whole, *whole.children(recursive=True)]


def listeners(endpoint: Served) -> list[Listener]:
    """Return the ports that the endpoint's processes listen on, as the kernel tells them."""
    return [
        Listener(process.name(), connection.laddr.ip, connection.laddr.port)
        for process in processes(endpoint)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]


def send_forged_lines(endpoint: Served) -> Iterator[int]:
    """Put line ends and colours wherever a request has room for them; yields the status of each answer."""
    item, user = {"id": "new", "title": FORGED}, {"id": "u1"}
    bodies = {
        "/v1/score": [
            {"user": user, "candidates": [item]},
            {"user": {"id": FORGED}, "candidates": [item]},
            {"user": {"id": "u1", "profile": {FORGED: 1}}, "candidates": [item]},
            {"user": user, "candidates": [item], FORGED: FORGED},
        ],
        "/v1/events": [{"event_id": FORGED, "user_id": "u1", "item_id": "new", "rating": 1, "timestamp_s": 1}],
        f"/v1/{ENCODED}": [{}],
    }
    for path, each in bodies.items():
        for body in each:
            yield _status(endpoint, "POST", path, json.dumps(body).encode(), JSON)
    yield _status(endpoint, "GET", f"/{ENCODED}?{ENCODED}", b"", {"User-Agent": "\x1b[31mERROR forged", "X-Request-ID": ENCODED})


def _status(endpoint: Served, method: str, path: str, body: bytes, headers: dict[str, str]) -> int:
    connection = http.client.HTTPConnection(endpoint.url.removeprefix("http://"), timeout=60)
    try:
        connection.request(method, path, body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


def files_with(words: bytes, *folders: Path) -> list[Path]:
    """Return the files below some folders that hold these bytes."""
    return [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file() and words in path.read_bytes()]
