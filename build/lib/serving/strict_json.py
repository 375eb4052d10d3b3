"""JSON as this endpoint reads it: one meaning for every document, or an error."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

MAX_DIGITS = 300  # of a whole number: any with fewer fits a float


def parse(body: bytes) -> Any:
    """Parse a JSON document; raises ValueError, in words for whoever sent it, for what has no meaning or more than one."""
    try:
        text = body.decode("utf-8")
        found = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant, parse_float=_finite, parse_int=_moderate)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise ValueError(f"expected UTF-8, found another byte at {error.start}") from error
    except UnicodeEncodeError as error:
        raise ValueError("expected Unicode text, found half of a surrogate pair") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"expected JSON, {error.msg[:1].lower()}{error.msg[1:].removesuffix(' at')} at character {error.pos}") from error
    except RecursionError as error:
        raise ValueError("expected JSON with fewer levels of nesting") from error
    return found


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


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("expected numbers that a double can hold, got a larger one")
    return number


def _moderate(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"expected whole numbers of at most {MAX_DIGITS} digits, got a longer one")
    return int(text)
