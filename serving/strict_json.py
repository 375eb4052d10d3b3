"""JSON as this endpoint reads it: one meaning for every document, or an error."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute


def parse(body: bytes) -> Any:
    """Parse a JSON document; raises ValueError, in words for whoever sent it, for what has no meaning or more than one."""
    try:
        return json.loads(body.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"expected UTF-8, found another byte at {error.start}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"expected JSON, {error.msg[:1].lower()}{error.msg[1:]} at character {error.pos}") from error
    except RecursionError as error:
        raise ValueError("expected JSON with fewer levels of nesting") from error


class StrictRequest(Request):
    """A request whose body is parsed strictly."""

    async def json(self) -> Any:
        try:
            return parse(await self.body())
        except ValueError as error:
            raise HTTPException(400, str(error)) from error


class StrictRoute(APIRoute):
    """A route whose handler gets a StrictRequest."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handler(StrictRequest(request.scope, request.receive))

        return strictly


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("expected each key once in an object, got one twice")
    return found


def _no_constant(_: str) -> Any:
    raise ValueError("expected numbers, got NaN or Infinity")
