"""Described fields that a data set lacks or can't hold: the error names the field and never what was sent."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from components.errors import FieldError
from components.features.store import FeatureStore, fit_store
from components.features.visit import Candidate, Resolver, Visit
from components.types import Schema
from tests.components.features.test_store import CONTEXT, ITEMS, SCHEMA, USERS

SECRET = "hunter2"


@pytest.fixture(scope="module")
def store() -> FeatureStore:
    return fit_store(SCHEMA, USERS, ITEMS, CONTEXT, history_length=3, tag_width=2)


def refused(store: FeatureStore, profile: Any = None, described: Any = None, context: Any = None) -> FieldError:
    candidates = (Candidate("i1"), Candidate("i2", described or {}))
    with pytest.raises(FieldError) as found:
        Resolver(store).resolve(Visit("ann", profile or {}, (), 0, candidates, context or {}))
    return found.value


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"age": SECRET}, "user.profile.age: expected a finite number"),
        ({"age": "20"}, "user.profile.age: expected a finite number"),
        ({"age": True}, "user.profile.age: expected a finite number"),
        ({"age": float("nan")}, "user.profile.age: expected a finite number"),
        ({"age": float("-inf")}, "user.profile.age: expected a finite number"),
        ({"age": 10**400}, "user.profile.age: expected a finite number"),
        ({"age": [20]}, "user.profile.age: expected a finite number"),
        ({"gender": [SECRET]}, "user.profile.gender: expected a text or a number"),
        ({"gender": {"a": SECRET}}, "user.profile.gender: expected a text or a number"),
        ({"gender": False}, "user.profile.gender: expected a text or a number"),
        ({"gender": SECRET + "\ud800"}, "user.profile.gender: expected a text or a number"),
        ({"about": [SECRET]}, "user.profile.about: expected a text or a number"),
        ({"about": SECRET + "\udfff"}, "user.profile.about: expected a text or a number"),
        ({SECRET: 1}, "user.profile: expected fields of the data set (gender, age, about), got another one"),
        ({"gender": "m", "title": SECRET}, "user.profile: expected fields of the data set (gender, age, about), got another one"),
        ({"user_id": SECRET}, "user.profile: expected fields of the data set (gender, age, about), got another one"),
        ({"train_count": 5}, "user.profile: expected fields of the data set (gender, age, about), got another one"),
    ],
)
def test_a_profile_that_the_data_set_cannot_hold_is_refused(store: FeatureStore, given: dict[str, Any], expected: str) -> None:
    error = refused(store, profile=given)
    assert str(error) == expected
    assert SECRET not in repr(error)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"genres": SECRET}, "candidates.1.genres: expected a list of texts"),
        ({"genres": ["Drama", 3]}, "candidates.1.genres: expected a list of texts"),
        ({"genres": ["Drama", None]}, "candidates.1.genres: expected a list of texts"),
        ({"genres": [SECRET + "\ud800"]}, "candidates.1.genres: expected a list of texts"),
        ({"genres": {"Drama": 1}}, "candidates.1.genres: expected a list of texts"),
        ({"title": [SECRET]}, "candidates.1.title: expected a text or a number"),
        ({"year": "1999", SECRET: 1}, "candidates.1: expected fields of the data set (title, genres, year), got another one"),
    ],
)
def test_a_description_that_the_data_set_cannot_hold_is_refused(store: FeatureStore, given: dict[str, Any], expected: str) -> None:
    error = refused(store, described=given)
    assert str(error) == expected
    assert SECRET not in repr(error)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"wait": SECRET}, "context.wait: expected a finite number"),
        ({"moods": SECRET}, "context.moods: expected a list of texts"),
        ({"device": [SECRET]}, "context.device: expected a text or a number"),
        ({SECRET: 1}, "context: expected fields of the data set (device, wait, moods), got another one"),
    ],
)
def test_a_context_that_the_data_set_cannot_hold_is_refused(store: FeatureStore, given: dict[str, Any], expected: str) -> None:
    error = refused(store, context=given)
    assert str(error) == expected
    assert SECRET not in repr(error)


def test_a_data_set_without_fields_says_so() -> None:
    bare = fit_store(
        Schema(0.0, 1.0, 0.5),
        USERS.loc[:, ["user_id", "train_count"]],
        ITEMS.loc[:, ["item_id", "train_count", "train_rating_mean"]],
        {},
        history_length=2,
        tag_width=1,
    )
    for sent in ({"profile": {"age": 1}}, {"described": {"title": "x"}}, {"context": {"device": "x"}}):
        assert refused(bare, **sent).message == "expected fields of the data set (no field at all), got another one"


def test_a_description_can_be_checked_before_it_is_resolved(store: FeatureStore) -> None:
    resolver = Resolver(store)
    found = resolver.described(Candidate("x", {"genres": ("War",), "year": 1999, "title": None}), "candidates.7")
    assert (found["genres"], found["year"], found["title"] != found["title"]) == (["War"], "1999", True)
    with pytest.raises(FieldError, match=r"^candidates\.7\.year: expected a text or a number$"):
        resolver.described(Candidate("x", {"year": True}), "candidates.7")


def test_the_error_crosses_processes(store: FeatureStore) -> None:
    error = pickle.loads(pickle.dumps(refused(store, profile={"age": "x"})))
    assert (error.field, error.message) == ("user.profile.age", "expected a finite number")
