"""The OpenAPI document says what the endpoint does: shapes, status codes, examples."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.serving.http_server import Called

pytestmark = pytest.mark.end_to_end
TAKING = [
    ("post", "/v1/score"),
    ("post", "/v1/rank"),
    ("post", "/v1/events"),
    ("get", "/v1/users"),
    ("get", "/v1/users/{user_id}"),
    ("get", "/v1/items"),
]
OPERATIONS = [*TAKING, ("get", "/v1/policy"), ("get", "/healthz"), ("get", "/readyz")]
ERRORS = {"401", "413", "422", "503"}


@pytest.fixture
def document(http: Called) -> dict[str, Any]:
    return http.client.get("/openapi.json").json()


@pytest.fixture
def schema(fresh: Called) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", fresh.app)


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [*((*each, GenerationMode.POSITIVE) for each in OPERATIONS), *((*each, GenerationMode.NEGATIVE) for each in TAKING)],
)
def test_whatever_is_sent_gets_an_answer_that_the_document_describes(schema: Any, method: str, path: str, mode: GenerationMode) -> None:
    @settings(max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        # Ids, ratings and described fields are the data set's own: what the document allows may still be refused.
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    ask()


def test_every_operation_is_tried(document: dict[str, Any]) -> None:
    assert {(method, path) for path, methods in document["paths"].items() for method in methods} == set(OPERATIONS)


def test_all_of_the_usual_checks_are_made() -> None:
    names = set(CHECKS.get_all_names())
    assert {"not_a_server_error", "status_code_conformance", "response_schema_conformance", "content_type_conformance"} <= names


@pytest.mark.parametrize("path", ["/v1/score", "/v1/rank", "/v1/events"])
def test_the_examples_run_as_they_stand_on_the_model_that_is_served(fresh: Called, document: dict[str, Any], path: str) -> None:
    body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    assert [name for name, example in body["examples"].items() if fresh.post(path, example["value"]).get("unknown_items")] == []


def test_every_route_below_v1_names_its_errors(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if not path.startswith("/v1/"):
                continue
            codes = set(operation["responses"])
            assert codes >= ERRORS | {"200"} | ({"400"} if method == "post" else set()), (path, method)
            for code in codes - {"200"}:
                content = operation["responses"][code]["content"]["application/json"]
                assert content["schema"] == {"$ref": "#/components/schemas/Error"}, (path, method, code)


def test_the_codes_that_are_answered_are_named(fresh: Called, document: dict[str, Any]) -> None:
    event = {"event_id": "e", "user_id": "u0", "item_id": "i0", "rating": 4, "timestamp_s": 1_700_000_000}
    asked = [
        ("/v1/score", {"user": {"id": "u0"}, "candidates": [{"id": "i0"}]}, 200),
        ("/v1/score", {}, 422),
        ("/v1/rank", {"user": {"id": "u0"}}, 200),
        ("/v1/events", event, 200),
        ("/v1/events", {**event, "rating": 3}, 409),
    ]
    for path, body, status in asked:
        assert fresh.client.post(path, json=body).status_code == status
        assert str(status) in document["paths"][path]["post"]["responses"]
    for path, name, status in (("/v1/users/nobody", "/v1/users/{user_id}", 404), ("/v1/items", "/v1/items", 422)):
        assert fresh.client.get(path).status_code == status
        assert str(status) in document["paths"][name]["get"]["responses"]


def test_ids_and_thresholds_are_described_as_they_are_taken(document: dict[str, Any]) -> None:
    event = document["components"]["schemas"]["Event"]["properties"]["event_id"]
    assert [kind["type"] for kind in event["anyOf"]] == ["string", "integer"]
    assert event["anyOf"][0]["maxLength"] == 128
    threshold = document["components"]["schemas"]["ScoreRequest"]["properties"]["threshold"]
    assert threshold["anyOf"] == [{"type": "number"}, {"enum": ["inf", "-inf"]}, {"type": "null"}]


def test_the_application_can_be_described(http: Called) -> None:
    assert isinstance(http.app, FastAPI)
    assert http.app.openapi()["info"]["title"] == "Tandem"
