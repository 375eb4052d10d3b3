"""Errors as clients meet them: JSON that says what is wrong with which field, and never repeats what was sent."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from components.errors import FieldError
from serving.events.store import EventConflict, EventStoreError

LOGGER = logging.getLogger("ray.serve")
CODES = {
    400: "bad_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    409: "conflict",
    413: "too_large",
    421: "misdirected",
    422: "invalid",
    500: "internal",
    503: "unavailable",
}
MESSAGES = {
    "string_pattern_mismatch": "expected one line without control characters",
    "extra_forbidden": "expected no field of this name",
}
RETRY_AFTER_S = 1
RETRY_AFTER = {"Retry-After": str(RETRY_AFTER_S)}
PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def add_errors(app: FastAPI) -> None:
    """Give every kind of error its answer."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["loc"] == ("body",) and "json" not in request.headers.get("content-type", "").lower():
            return error_response(422, "body", "expected JSON with the header Content-Type: application/json")
        message = MESSAGES.get(first["type"]) or first["msg"].removeprefix("Value error, ")
        return error_response(422, _path(first["loc"][1:]), message)  # never `input`, which may be anything

    @app.exception_handler(FieldError)
    async def wrong(_: Request, error: FieldError) -> Response:
        # The data set's own names are shown as they are.
        return error_response(422, ".".join([error.field, *_plain([error.stranger] if error.stranger else [])]), error.message)

    @app.exception_handler(EventConflict)
    async def conflict(_: Request, error: EventConflict) -> Response:
        del error
        return error_response(409, "event_id", "expected an id of its own, another event has this one")

    @app.exception_handler(EventStoreError)
    async def away(_: Request, error: EventStoreError) -> Response:
        LOGGER.error("%s", error)  # names the store and what failed, nothing that was sent
        return error_response(503, None, "the store of events is away", RETRY_AFTER)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        field = "body" if error.status_code in (400, 408, 413) else None
        return error_response(error.status_code, field, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> Response:
        del error  # it goes on to the log
        return error_response(500, None, "this should not have happened")


def error_response(status: int, field: str | None, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error in the one shape that clients meet."""
    body = {"error": {"code": CODES.get(status, "error"), "field": field, "message": message}}
    return Response(json.dumps(body), status, headers, "application/json")


def _path(location: Iterable[Any]) -> str:
    """Name a field as `candidates.3.title`."""
    return ".".join(_plain(location)) or "body"


def _plain(names: Iterable[Any]) -> Iterator[str]:
    """Yield names until one is not plain: it may be the client's own, and long or odd."""
    return takewhile(PLAIN_NAME.fullmatch, map(str, names))
