"""The gate before every route: the key, the body's limit, and the count of what passes."""

from __future__ import annotations

import asyncio
import hmac
import time

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.access import Access, names_loopback
from serving.arguments import Arguments
from serving.errors import RETRY_AFTER, error_response
from serving.service import Service

LENGTH_DIGITS = 18  # of a Content-Length that is read as a number at all
OPEN = ("/", "/healthz", "/readyz")  # everything else asks for the key
LEFT = 499  # counted for a client that left before its answer


class Gate:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, service: Service, access: Access, arguments: Arguments) -> None:
        self._app, self._service, self._access = app, service, access
        self._max_body_bytes, self._max_body_s = arguments.max_body_bytes, arguments.max_body_ms / 1000
        self._max_requests, self._ongoing = arguments.max_ongoing_requests, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_s, status = time.monotonic(), 500
        metrics = self._service.metrics

        async def counted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        metrics.started()
        self._ongoing += 1
        try:
            path = scope["path"].removeprefix(scope.get("root_path", ""))
            refusal = self._refusal(Headers(scope=scope), path)
            answer = self._app if refusal is None else error_response(*refusal)
            await answer(scope, self._limited(receive), counted_send)
        except asyncio.CancelledError:
            status = LEFT
            raise
        finally:
            self._ongoing -= 1
            endpoint = getattr(scope.get("route"), "path", "other")
            latency_ms = 1000 * (time.monotonic() - started_s)
            metrics.finished(endpoint, status, scope.get("tandem.arm", "none"), latency_ms)

    def _refusal(self, headers: Headers, path: str) -> tuple[int, str | None, str, dict[str, str]] | None:
        if self._access.own_names and not names_loopback(headers.get("host", "")):
            return 421, None, "expected localhost, 127.0.0.1 or [::1] as Host; others with api_key_file or behind_proxy", {}
        if self._access.key is not None and path not in OPEN:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            # Headers are read as Latin-1, whatever bytes they hold.
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), self._access.key):
                return 401, None, "expected the header Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"}
        if self._ongoing > self._max_requests and path not in OPEN:
            return 503, None, "busy: try again", RETRY_AFTER
        length = headers.get("content-length", "0")
        if length.isdecimal() and (len(length) > LENGTH_DIGITS or int(length) > self._max_body_bytes):
            return 413, "body", self._too_large, {}
        return None

    @property
    def _too_large(self) -> str:
        return f"expected at most {self._max_body_bytes} bytes"

    def _limited(self, receive: Receive) -> Receive:
        """Count the body as it comes, and its time: a client need neither say how long it is nor ever end it."""
        received, whole, until_s = 0, False, asyncio.get_running_loop().time() + self._max_body_s

        async def limited() -> Message:
            nonlocal received, whole
            if whole:  # what comes after it is that the client leaves
                return await receive()
            try:
                async with asyncio.timeout_at(until_s):
                    message = await receive()
            except TimeoutError as error:
                raise HTTPException(408, f"expected it within {self._max_body_s:g} s", {"Connection": "close"}) from error
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                raise HTTPException(413, self._too_large)
            whole = not message.get("more_body", False)
            return message

        return limited
