"""The errors that Tandem raises for the person who runs it: one picklable hierarchy, one exit code each, one line of text."""

from __future__ import annotations

from collections.abc import Iterator


def one_line(text: object) -> str:
    """Replace what does not print (line ends, ANSI escapes, text directions, lone surrogates) by blanks.

    For whatever goes to a log or a terminal and may come from data: it can neither end its line nor colour it.
    """
    return "".join(sign if sign.isprintable() else " " for sign in str(text))


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and what it comes of; Ray keeps the error of another process as `cause`."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop(0)
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, one.__context__, getattr(one, "cause", None)]


class TandemError(Exception):
    """Anything a user can mend; the message says what was expected, what was received and where."""

    exit_code = 1


class ConfigError(TandemError, ValueError):
    """A key or a value of the configuration is wrong; nothing was started."""

    exit_code = 2


class DataError(TandemError):
    """Raw data is missing, empty, or bad beyond what the run accepts."""


class FieldError(DataError):
    """A field of a request is wrong; the message never repeats what was sent."""

    def __init__(self, field: str, message: str, stranger: str | None = None) -> None:
        """`stranger` is the name of a field below `field` that nobody expected; it stays out of the error's text."""
        super().__init__(field, message)
        self.field, self.message, self.stranger = field, message, stranger

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class ArtifactError(TandemError):
    """An artifact is missing, incomplete or damaged."""


class DiskFullError(TandemError):
    """A disk has no room for what a run writes."""


class ResourceError(TandemError):
    """The cluster can never place what the configuration asks for."""


class OutputBusyError(TandemError):
    """Another run owns the output folder."""

    exit_code = 75
