"""The HTTP side: routes, errors as JSON that names the field, the body's limit, the key."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import Body, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse
from pydantic_core import to_json

from serving import schemas
from serving.access import Access
from serving.arguments import Arguments
from serving.catalogue import LOOKUP_ERRORS, catalogue_routes
from serving.errors import add_errors
from serving.events.store import Event
from serving.examples import examples
from serving.gate import Gate
from serving.service import Service
from serving.strict_json import StrictRoute

PAGE = Path(__file__).parent / "page" / "index.html"
ERRORS: dict[int | str, dict[str, Any]] = {
    **LOOKUP_ERRORS,
    400: {"model": schemas.Error, "description": "the body is no JSON, or has more than one meaning"},
    408: {"model": schemas.Error, "description": "the body did not end in time"},
}


def build_http(service: Service, arguments: Arguments, access: Access) -> FastAPI:
    """Return the ASGI application of one ingress process."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.events.close()  # else the latest events lie in a second file, and a copy of the first lacks them

    app = FastAPI(
        lifespan=lifespan,
        title="Tandem",
        description="Scores by a fast recommender model, and by a language model where it pays. (This page loads Swagger UI from a CDN.)",
        version=version("tandem-rec"),
        docs_url="/docs" if access.docs else None,
        redoc_url=None,
        openapi_url="/openapi.json" if access.docs else None,
        redirect_slashes=False,
    )
    app.router.route_class = StrictRoute
    add_errors(app)
    _add_scoring(app, service)
    _add_health(app, service)
    app.include_router(catalogue_routes(service))
    app.add_middleware(Gate, service=service, access=access, arguments=arguments)
    return app


def _add_scoring(app: FastAPI, service: Service) -> None:
    bodies = {path: Body(openapi_examples={"example": {"value": value}}) for path, value in examples(service.store).items()}

    @app.post("/v1/score", response_model=schemas.Answer, responses=ERRORS, summary="Score candidates for a user")
    async def score(http: Request, request: schemas.ScoreRequest = bodies["score"]) -> Response:
        return _scored(http, await service.score(request))

    @app.post("/v1/rank", response_model=schemas.Answer, responses=ERRORS, summary="The best items of the catalogue for a user")
    async def rank(http: Request, request: schemas.RankRequest = bodies["rank"]) -> Response:
        return _scored(http, await service.rank(request))

    @app.post(
        "/v1/events",
        response_model=schemas.EventAnswer,
        responses={**ERRORS, 409: {"model": schemas.Error, "description": "another event has this id"}},
        summary="Append an interaction: the user's next request sees it",
    )
    async def events(event: schemas.Event = bodies["events"]) -> Response:
        stored = await service.append(Event(event.event_id, event.user_id, event.item_id, event.rating, event.timestamp_s))
        return _json({"event_id": event.event_id, "stored": stored})


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", summary="This process is alive")
    async def healthz() -> Response:
        return _json({"status": "ok"})

    @app.get("/readyz", responses={503: LOOKUP_ERRORS[503]}, summary="The CRM answers; the LLM's state beside it")
    async def readyz() -> Response:
        try:
            service.probe()
        except Exception as error:
            raise HTTPException(503, "the CRM does not answer") from error
        versions = {"model_version": service.model_version, "policy_version": service.policy_version}
        return _json({"status": "ready", "crm": "ready", "llm": service.llm.state, **versions, "refused": service.live.refusal})

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE, media_type="text/html", headers={"Cache-Control": "no-cache"})


def _scored(http: Request, answer: dict[str, Any]) -> Response:
    http.scope["tandem.arm"] = _arm(answer["results"])
    return _json(answer)


def _arm(results: list[dict[str, Any]]) -> str:
    """Name the slowest part of an answer: fallback where the CRM stands in for an LLM that may have been waited for."""
    if any(result["arm"] == "llm" for result in results):
        return "llm"
    return "fallback" if any(result["reason"] == "llm_failed" for result in results) else "crm"


def _json(content: dict[str, Any]) -> Response:
    return Response(to_json(content), media_type="application/json")  # five times as fast as json.dumps
