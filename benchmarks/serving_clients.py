"""The clients of one point: they ask one request after the other on connections that stay open."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from serving_yardsticks import HOST, percentiles_ms

ANSWER_S = 30.0


@dataclass(frozen=True)
class Row:
    """What a line of the table asks: whole HTTP requests, asked in turn."""

    name: str
    port: int
    requests: list[bytes]
    counts_arms: bool = False  # the answer tells which arm scored each candidate


@dataclass
class Tally:
    """What the clients of one point got."""

    took_s: list[float] = field(default_factory=list)
    errors: int = 0
    fallbacks: int = 0
    candidates: int = 0
    llm_candidates: int = 0
    llm_requests: int = 0

    def take(self, row: Row, status: int, body: bytes, seconds: float) -> None:
        """Count an answer; the text is searched, not parsed: clients share two cores with the server."""
        scored = body.count(b'"id":')
        if status != 200 or (row.counts_arms and not scored):
            self.errors += 1
            return
        llm = body.count(b'"arm":"llm"')
        self.took_s.append(seconds)
        self.candidates += scored
        self.llm_candidates += llm
        self.llm_requests += llm > 0
        self.fallbacks += b'"degraded":true' in body

    def figures(self, row: Row, elapsed_s: float, cpu_s: float) -> dict[str, float]:
        asked = len(self.took_s)
        found = {
            "requests_per_s": (asked - self.fallbacks) / elapsed_s,
            **percentiles_ms(self.took_s),
            "client_cpu_ms": 1000 * cpu_s / max(asked, 1),
            "asked": asked,
            "errors": self.errors,
            "fallbacks": self.fallbacks,
        }
        if row.counts_arms and asked:
            found |= {"llm_candidates": self.llm_candidates / self.candidates, "llm_requests": self.llm_requests / asked}
        return found


@dataclass(frozen=True)
class Bounds:
    """How long a point lasts."""

    requests: int
    seconds: float
    warm_s: float


class Connection:
    """One client's connection: HTTP/1.1 that stays open."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Return status and body; raises OSError or EOFError, after which the next question opens a new connection."""
        reader, writer = self._streams or await asyncio.open_connection(HOST, self._port)
        self._streams = None
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        _, found, length = head.partition(b"content-length:")
        if not found:
            raise OSError("expected an answer with a Content-Length")
        body = await reader.readexactly(int(length.split(b"\r\n", 1)[0]))
        self._streams = reader, writer
        return int(head[9:12]), body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


async def measure(row: Row, clients: int, bounds: Bounds) -> dict[str, float]:
    """Warm a row up, then measure it."""
    connections = [Connection(row.port) for _ in range(clients)]
    try:
        await asks(row, connections, Bounds(bounds.requests, bounds.warm_s, 0))
        started_s, cpu_s = time.monotonic(), time.process_time()
        tally = await asks(row, connections, bounds)
        return tally.figures(row, time.monotonic() - started_s, time.process_time() - cpu_s)
    finally:
        for connection in connections:
            connection.close()


async def asks(row: Row, connections: list[Connection], bounds: Bounds) -> Tally:
    """Let every client ask until the bounds are reached; what was asked until then is answered."""
    tally, asked, until_s = Tally(), 0, time.monotonic() + bounds.seconds

    async def client(connection: Connection) -> None:
        nonlocal asked
        while asked < bounds.requests and time.monotonic() < until_s:
            request = row.requests[asked % len(row.requests)]
            asked += 1
            started_s = time.monotonic()
            try:
                async with asyncio.timeout(ANSWER_S):
                    status, body = await connection.ask(request)
            except (OSError, EOFError):  # TimeoutError is one
                tally.errors += 1
                await asyncio.sleep(0.01)
                continue
            tally.take(row, status, body, time.monotonic() - started_s)

    await asyncio.gather(*(client(connection) for connection in connections))
    return tally
