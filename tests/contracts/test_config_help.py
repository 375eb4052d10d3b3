"""Every key of the command line explains itself: a docstring under each field of each Config."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
from tyro.conf import Suppress

from pipelines.config import RunConfig


def parts(annotation: Any) -> Iterator[Any]:
    """Yield the classes that an annotation names, however nested."""
    yield annotation
    for argument in get_args(annotation):
        yield from parts(argument)


def reachable(config: type) -> Iterator[type]:
    yield config
    for annotation in get_type_hints(config, include_extras=True).values():
        for part in parts(annotation):
            if inspect.isclass(part) and dataclasses.is_dataclass(part) and part.__module__.partition(".")[0] != "tyro":
                yield from reachable(part)


def explained(config: type) -> set[str]:
    """Return the fields that have a string under them, here or in the class that they are inherited from."""
    return {name for owner in config.__mro__ if dataclasses.is_dataclass(owner) for name in documented(owner)}


def documented(config: type) -> set[str]:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    assert isinstance(tree, ast.ClassDef)
    pairs = zip(tree.body, tree.body[1:], strict=False)
    return {
        field.target.id
        for field, below in pairs
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and str(below.value.value).strip()
    }


def keys(config: type) -> set[str]:
    """Return the fields that a user types a value for: not those that are hidden, or configurations of their own."""
    hints = get_type_hints(config, include_extras=True)
    hidden = {name for name, hint in hints.items() if get_origin(hint) is Annotated and get_args(Suppress[str])[1] in get_args(hint)}
    nested = {name for name, hint in hints.items() if any(inspect.isclass(p) and dataclasses.is_dataclass(p) for p in parts(hint))}
    return {field.name for field in dataclasses.fields(config)} - hidden - nested


CONFIGS = sorted(set(reachable(RunConfig)), key=lambda config: (config.__module__, config.__qualname__))
named = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.__module__}.{config.__qualname__}")


def test_all_parts_of_a_run_are_looked_at() -> None:
    names = {f"{config.__module__.rpartition('.')[2]}.{config.__qualname__}" for config in CONFIGS}
    parts = {"prepare.Config", "tabular.Tabular.Config", "plan.StageConfig", "model.LossWeights", "tiny_config.Config"}
    assert names >= {"config.RunConfig", *parts}


@named
def test_every_key_has_its_help(config: type) -> None:
    assert keys(config) - explained(config) == set()


@named
def test_every_configuration_says_what_it_configures(config: type) -> None:
    assert config.__doc__
    assert not config.__doc__.startswith(f"{config.__name__}("), "that is the text a dataclass writes itself"


@named
def test_a_configuration_cannot_be_changed_after_it_was_checked(config: type) -> None:
    assert config.__dataclass_params__.frozen  # pyright: ignore[reportAttributeAccessIssue]
