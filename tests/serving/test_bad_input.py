"""Whatever is sent, the answer is an error that names the field and never repeats what came."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from components.errors import FieldError
from serving.errors import add_errors
from tests.serving.http_server import Called

MARK = "zq7vmarker"  # sent somewhere in nearly every request; no answer may hold it
SCORE: dict[str, Any] = {"user": {"id": "u0"}, "candidates": [{"id": "i0"}]}
RANK: dict[str, Any] = {"user": {"id": "u0"}}
EVENT: dict[str, Any] = {"event_id": "e", "user_id": "u0", "item_id": "i0", "rating": 4.0, "timestamp_s": 1_700_000_000}
POSTS = {"/v1/score": SCORE, "/v1/rank": RANK, "/v1/events": EVENT}
JSON = {"content-type": "application/json"}
HUGE = "9" * 5_000
M = MARK.encode()

DOCUMENTS = {
    "broken JSON": (b'{"user": "' + M, 400),
    "an unfinished escape": (b'{"user": "\\u12' + M + b'"}', 400),
    "an unknown escape": (b'{"user": "\\q' + M + b'"}', 400),
    "a line break in a text": (b'{"user": "' + M + b'\n"}', 400),
    "two documents": (b'{"a": "' + M + b'"} {}', 400),
    "no body": (b"", 422),
    "white space": (b"  ", 400),
    "NaN": (b'{"' + M + b'": NaN}', 400),
    "Infinity": (b'{"' + M + b'": Infinity}', 400),
    "minus Infinity": (b'{"' + M + b'": [-Infinity]}', 400),
    "a number beyond doubles": (b'{"' + M + b'": 1e400}', 400),
    "a number of 5000 digits": (f'{{"{MARK}": {HUGE}}}'.encode(), 400),
    "half of a surrogate pair": (b'{"user": "' + M + b'\\ud800"}', 400),
    "half of a surrogate pair in a name": (b'{"' + M + b'\\uDFFF": 1}', 400),
    "the same key twice": (b'{"user": 1, "user": "' + M + b'"}', 400),
    "the same key twice deep inside": (b'{"user": [{"' + M + b'": 1, "' + M + b'": 2}]}', 400),
    "100,000 lists in each other": (b"[" * 100_000 + b"]" * 100_000, 400),
    "100,000 objects in each other": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, 400),
    "bytes that are no UTF-8": (b'{"user": "' + M + b'\xff"}', 400),
    "UTF-16": (f'{{"user": "{MARK}"}}'.encode("utf-16"), 400),
    "a byte order mark": (b'\xef\xbb\xbf{"user": "' + M + b'"}', 400),
    "a list": (f'["{MARK}"]'.encode(), 422),
    "a text": (f'"{MARK}"'.encode(), 422),
    "a number": (b"7141", 422),
    "null": (b"null", 422),
    "true": (b"true", 422),
}


def refused(response: Any, status: int, field: str | None) -> str:
    """Check that an answer is an error in the one shape and repeats nothing; return its message."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    assert list(body["error"]) == ["code", "field", "message"]
    error = body["error"]
    assert error["field"] == field
    assert isinstance(error["code"], str)
    assert isinstance(error["message"], str)
    assert MARK not in response.text + repr(response.headers)
    assert len(response.content) < 600
    return error["message"]


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_document_without_one_meaning_is_refused(http: Called, path: str, document: str) -> None:
    body, status = DOCUMENTS[document]
    refused(http.client.post(path, content=body, headers=JSON), status, "body")


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "x", ""])
def test_another_content_type_than_json_is_refused(http: Called, path: str, kind: str) -> None:
    body = json.dumps({**POSTS[path], "user_id": MARK}).encode()
    said = refused(http.client.post(path, content=body, headers={"content-type": kind} if kind else {}), 422, "body")
    assert said == "expected JSON with the header Content-Type: application/json"


def user(**fields: Any) -> dict[str, Any]:
    return {"user": {"id": "u0", **fields}}


def item(**fields: Any) -> dict[str, Any]:
    return {"candidates": [{"id": "i0"}, {"id": "i1", **fields}]}


ASKED = {
    "no user": ({"user": None}, "user"),
    "a user that is a text": ({"user": MARK}, "user"),
    "a user that is a list": ({"user": [MARK]}, "user"),
    "a user without anything": ({"user": {}}, "user"),
    "an id that is true": (user(id=True), "user.id"),
    "an id with a fraction": (user(id=7.25), "user.id"),
    "an id that is a list": (user(id=[MARK]), "user.id"),
    "an id that is empty": (user(id=""), "user.id"),
    "an id that is long": (user(id=MARK * 20), "user.id"),
    "an id of 300 digits": (user(id=10**299), "user.id"),
    "an id with a line break": (user(id=f"{MARK}\n"), "user.id"),
    "an id with an escape character": (user(id=f"\x1b[31m{MARK}"), "user.id"),
    "an id with a null": (user(id=f"{MARK}\0"), "user.id"),
    "an id with a Unicode line break": (user(id=f"{MARK}\u2028"), "user.id"),
    "an unknown key with a plain name": (user(surname=MARK), "user.surname"),
    "an unknown key with another name": (user(**{f"{MARK} {MARK}": 1}), "user"),
    "an unknown key with a long name": (user(**{MARK * 10: 1}), "user"),
    "a profile that is a list": (user(profile=[MARK]), "user.profile"),
    "an unknown field of the profile": (user(profile={"shoe_size": MARK}), "user.profile.shoe_size"),
    "an unknown field of the profile with a name that is not plain": (user(profile={f"<{MARK}>": 1}), "user.profile"),
    "an unknown field of the profile with a long name": (user(profile={MARK * 7: 1}), "user.profile"),
    "a field of the profile without a name": (user(profile={"": MARK}), "user.profile"),
    "a field of the profile with a huge name": (user(profile={f"<{MARK}>" * 50: 1}), "user.profile"),
    "a field of the profile of another type": (user(profile={"mood": [MARK]}), "user.profile.mood"),
    "a field of the profile that is true": (user(profile={"mood": True}), "user.profile.mood"),
    "a history that is a text": (user(history=MARK), "user.history"),
    "a history of texts": (user(history=[MARK]), "user.history.0"),
    "a history that is too long": (user(history=[{"item_id": "i0", "rating": 4.0}] * 5_001), "user.history"),
    "a rating that is too high": (user(history=[{"item_id": MARK, "rating": 5.5}]), "user.history.0.rating"),
    "a rating that is too low": (user(history=[{"item_id": MARK, "rating": 0}]), "user.history.0.rating"),
    "a rating that is a text": (user(history=[{"item_id": MARK, "rating": "4"}]), "user.history.0.rating"),
    "a rating that is true": (user(history=[{"item_id": MARK, "rating": True}]), "user.history.0.rating"),
    "a rating that is huge": (user(history=[{"item_id": MARK, "rating": 10**299}]), "user.history.0.rating"),
    "a history without a rating": (user(history=[{"item_id": MARK}]), "user.history.0.rating"),
    "a history without an item": (user(history=[{"item_id": "i0", "rating": 1}, {"rating": 1}]), "user.history.1.item_id"),
    "a time before 1970": (user(history=[{"item_id": MARK, "rating": 4, "timestamp_s": -1}]), "user.history.0.timestamp_s"),
    "a time with a fraction": (user(history=[{"item_id": MARK, "rating": 4, "timestamp_s": 1.5}]), "user.history.0.timestamp_s"),
    "a time that is huge": (user(history=[{"item_id": MARK, "rating": 4, "timestamp_s": 10**18}]), "user.history.0.timestamp_s"),
    "an unknown key of the history": (user(history=[{"item_id": "i0", "rating": 4, "why": MARK}]), "user.history.0.why"),
    "an unknown key": ({"surname": MARK}, "surname"),
    "an unknown key that is not plain": ({f"{MARK}\n": 1}, "body"),
    "a share above 1": ({"max_llm_share": 1.5}, "max_llm_share"),
    "a share below 0": ({"max_llm_share": -0.1}, "max_llm_share"),
    "a share that is a text": ({"max_llm_share": MARK}, "max_llm_share"),
    "no time": ({"deadline_ms": 0}, "deadline_ms"),
    "too much time": ({"deadline_ms": 10**9}, "deadline_ms"),
    "a time that is a text": ({"deadline_ms": "100"}, "deadline_ms"),
    "a threshold that is a word": ({"threshold": MARK}, "threshold"),
    "a threshold that is the word nan": ({"threshold": "nan"}, "threshold"),
    "a threshold that is true": ({"threshold": True}, "threshold"),
    "a threshold that is a list": ({"threshold": [MARK]}, "threshold"),
    "an unknown field of the context": ({"context": {"device": MARK}}, "context.device"),
    "an unknown field of the context that is not plain": ({"context": {f"{MARK}/": 1}}, "context"),
    "a context that is a text": ({"context": MARK}, "context"),
}
CANDIDATES = {
    "no candidates": ({"candidates": None}, "candidates"),
    "an empty list": ({"candidates": []}, "candidates"),
    "501 candidates": ({"candidates": [{"id": f"{MARK}{row}"} for row in range(501)]}, "candidates"),
    "an object": ({"candidates": {"id": MARK}}, "candidates"),
    "texts": ({"candidates": [MARK]}, "candidates.0"),
    "null among them": ({"candidates": [{"id": "i0"}, None]}, "candidates.1"),
    "no id": ({"candidates": [{"id": "i0"}, {"title": MARK}]}, "candidates.1.id"),
    "an id that is null": (item(id=None), "candidates.1.id"),
    "an id that is false": (item(id=False), "candidates.1.id"),
    "an id with a fraction": (item(id=1.5), "candidates.1.id"),
    "an id with a control character": (item(id=f"\r{MARK}"), "candidates.1.id"),
    "an unknown field": (item(isbn=MARK), "candidates.1.isbn"),
    "an unknown field that is not plain": (item(**{f"{MARK} isbn": 1}), "candidates.1"),
    "an unknown field with a long name": (item(**{f"{MARK}." * 10_000: 1}), "candidates.1"),
    "a title that is a list": (item(title=[MARK]), "candidates.1.title"),
    "a field of another type": (item(genre={"a": MARK}), "candidates.1.genre"),
    "two descriptions of one item": ({"candidates": [{"id": "i0", "title": MARK}, {"id": "i0", "title": "x"}]}, "candidates.1"),
    "nothing that is known": ({"candidates": [{"id": MARK}, {"id": f"{MARK}2"}]}, "candidates"),
}
RANKED = {
    "k of 0": ({"k": 0}, "k"),
    "a huge k": ({"k": 10**9}, "k"),
    "a k with a fraction": ({"k": 2.5}, "k"),
    "a k that is a text": ({"k": MARK}, "k"),
    "a k that is null": ({"k": None}, "k"),
    "a switch that is a number": ({"exclude_seen": 1}, "exclude_seen"),
    "candidates": ({"candidates": [{"id": MARK}]}, "candidates"),
}
EVENTS = {
    "an unknown key": ({"surname": MARK}, "surname"),
    "an id that is null": ({"event_id": None}, "event_id"),
    "an id with a fraction": ({"event_id": 1.5}, "event_id"),
    "an id with a line break": ({"event_id": f"{MARK}\n"}, "event_id"),
    "an id that is empty": ({"user_id": ""}, "user_id"),
    "an id that is long": ({"item_id": MARK * 13}, "item_id"),
    "a rating beyond the scale": ({"rating": 5.01}, "rating"),
    "a rating that is a text": ({"rating": MARK}, "rating"),
    "a rating that is null": ({"rating": None}, "rating"),
    "a rating that is true": ({"rating": True}, "rating"),
    "a time before 1970": ({"timestamp_s": -1}, "timestamp_s"),
    "a time with a fraction": ({"timestamp_s": 1.0}, "timestamp_s"),
    "a time that is huge": ({"timestamp_s": 10**30}, "timestamp_s"),
    "a time in the future": ({"timestamp_s": 253_402_300_799}, "timestamp_s"),
}


@pytest.mark.parametrize("path", ["/v1/score", "/v1/rank"])
@pytest.mark.parametrize("case", ASKED)
def test_a_wrong_field_of_a_question_is_named(http: Called, path: str, case: str) -> None:
    changes, field = ASKED[case]
    refused(http.client.post(path, json={**POSTS[path], **changes}), 422, field)


@pytest.mark.parametrize("case", CANDIDATES)
def test_a_wrong_candidate_is_named(http: Called, case: str) -> None:
    changes, field = CANDIDATES[case]
    refused(http.client.post("/v1/score", json={**SCORE, **changes}), 422, field)


@pytest.mark.parametrize("case", RANKED)
def test_a_wrong_field_of_a_ranking_is_named(http: Called, case: str) -> None:
    changes, field = RANKED[case]
    refused(http.client.post("/v1/rank", json={**RANK, **changes}), 422, field)


@pytest.mark.parametrize("case", EVENTS)
def test_a_wrong_field_of_an_event_is_named_and_nothing_is_stored(http: Called, case: str) -> None:
    changes, field = EVENTS[case]
    refused(http.client.post("/v1/events", json={**EVENT, **changes}), 422, field)
    assert http.service.events.latest("u0", 10).count == 0


@pytest.mark.parametrize(("path", "name"), [(path, name) for path in POSTS for name in POSTS[path]])
def test_a_missing_field_is_named(http: Called, path: str, name: str) -> None:
    body = {key: value for key, value in POSTS[path].items() if key != name}
    refused(http.client.post(path, json=body), 422, name if body else "user")


@pytest.mark.parametrize(
    ("path", "status", "field"),
    [
        (f"/v1/users?limit={MARK}", 422, "limit"),
        ("/v1/users?limit=0", 422, "limit"),
        ("/v1/users?limit=201", 422, "limit"),
        (f"/v1/users?limit={HUGE}", 422, "limit"),
        (f"/v1/users/{MARK}", 404, None),
        (f"/v1/users/{MARK * 20}", 422, "user_id"),
        (f"/v1/users/{MARK}%0a", 404, None),  # no path reaches beyond a line break
        (f"/v1/users/{MARK}%1b%5b31m", 422, "user_id"),
        (f"/v1/users/{MARK}%ff%00", 422, "user_id"),
        ("/v1/users/", 422, "user_id"),
        ("/v1/items", 422, "item_id"),
        ("/v1/items?item_id=", 422, "item_id.0"),
        (f"/v1/items?item_id=i0&item_id={MARK}%0a", 422, "item_id.1"),
        ("/v1/items?" + "&".join(["item_id=i0"] * 501), 422, "item_id"),
        (f"/v1/{MARK}", 404, None),
        (f"/{MARK}", 404, None),
        ("/v1/score", 405, None),
        ("/v1/score/", 404, None),
    ],
)
def test_a_wrong_address_is_refused(http: Called, path: str, status: int, field: str | None) -> None:
    refused(http.client.get(path), status, field)


def test_the_message_says_what_is_expected_instead(http: Called) -> None:
    def message(body: dict[str, Any]) -> str:
        return http.client.post("/v1/score", json={**SCORE, **body}).json()["error"]["message"]

    assert message(user(id="a\nb")) == "expected one line without control characters"
    assert message({"user": {}}) == "expected an id, a profile or a history"
    assert message(user(history=[{"item_id": "i0", "rating": 9}])) == "expected 1 to 5"
    assert message(user(profile={"shoe_size": 1})) == "expected fields of the data set (mood), got another one"
    assert message({"surname": 1}) == "expected no field of this name"


@pytest.mark.parametrize(
    ("field", "stranger", "shown"),
    [
        ("candidates.3.release date", None, "candidates.3.release date"),
        ("user.profile", "shoe_size", "user.profile.shoe_size"),
        ("user.profile", f"{MARK} {MARK}", "user.profile"),
        ("user.profile", "", "user.profile"),
    ],
)
def test_names_of_the_data_set_are_shown_whatever_they_look_like_and_others_where_they_are_plain(
    field: str, stranger: str | None, shown: str
) -> None:
    app = FastAPI()
    add_errors(app)

    @app.get("/")
    async def fail() -> None:
        raise FieldError(field, "expected a text", stranger)

    refused(TestClient(app).get("/"), 422, shown)


def test_an_error_that_nobody_foresaw_is_told_in_the_same_shape(http: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError(MARK)

    monkeypatch.setattr(http.service.arm, "score", fail)
    monkeypatch.setattr(http.client._transport, "raise_server_exceptions", False)
    refused(http.client.post("/v1/score", json=SCORE), 500, None)
    assert refused(http.client.get("/readyz"), 503, None) == "the CRM does not answer"


@pytest.mark.parametrize("attack", ["\n\x1b[31mERROR", "\r\nINFO ok", "\u2028", "%0aERROR"])
def test_nothing_that_is_sent_reaches_the_log(http: Called, caplog: pytest.LogCaptureFixture, attack: str) -> None:
    text = MARK + attack
    with caplog.at_level(logging.INFO):
        http.client.post("/v1/score", json={"user": {"id": text}, "candidates": [{"id": text}]})
        http.client.post("/v1/score", json={"user": {"profile": {"mood": text}}, "candidates": [{"id": "x", "title": text}]})
        http.client.post("/v1/score", json={"user": {text: 1}, "candidates": [{"id": "x", text: text}]})
        http.client.post("/v1/events", json={**EVENT, "event_id": text, "user_id": text})
    mine = [record for record in caplog.records if not record.name.startswith("httpx")]
    assert not any(MARK in record.getMessage() or "\x1b" in record.getMessage() for record in mine)
