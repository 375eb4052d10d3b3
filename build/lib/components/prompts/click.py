"""The click-rating prompt: will this user like this item? (CoReLLa, arXiv 2403.16378, in its order of content.)"""

from __future__ import annotations

from dataclasses import dataclass

from components.prompts.textualize import MAX_CHARACTERS, clean
from components.types import Prompt

PROFILE = "User: {profile}\n"
HISTORY = "{noun}s this user rated{scale}, oldest first:\n"
NO_HISTORY = "This user rated no {noun} before.\n"
LINE = "- {item}{rating}\n"
QUESTION = """\
Will the user like this {noun}, judged by this history and its quality?
- {item}
Reply only No or Yes.
Answer:"""
ANSWERS = (" No", " Yes")  # indexed by the answer; the space belongs to the word, so that "Answer:" ends on a token boundary

PROFILE_CHARACTERS = 2 * MAX_CHARACTERS
ITEM_CHARACTERS = 2 * MAX_CHARACTERS


@dataclass(frozen=True)
class ClickExample:
    """One question, as texts from `textualize`; `answer` is None when it is asked for."""

    profile: str  # empty when nothing is known of the user
    history: tuple[tuple[str, float], ...]  # (item text, rating), oldest first
    target: str
    answer: bool | None
    item_noun: str = "item"
    rating_min: float = 0.0
    rating_max: float = 1.0


def render(example: ClickExample) -> Prompt:
    """Write the prompt. Every line with text from outside begins with a fixed mark, and no such text holds a line break."""
    profile = clean(example.profile, PROFILE_CHARACTERS)
    head = PROFILE.format(profile=profile) if profile else ""
    heading = HISTORY if example.history else NO_HISTORY
    head += _sentence(heading.format(noun=example.item_noun, scale=_scale(example)))
    binary = (example.rating_min, example.rating_max) == (0.0, 1.0)
    single = example.rating_min >= example.rating_max
    history = tuple(
        LINE.format(item=clean(item), rating="" if single else f": {rating_text(rating, binary)}") for item, rating in example.history
    )
    tail = QUESTION.format(noun=example.item_noun, item=clean(example.target, ITEM_CHARACTERS))
    return Prompt(head, history, tail, "" if example.answer is None else ANSWERS[example.answer])


def parse(text: str) -> bool | None:
    """Read an answer; None where the text is none."""
    word = text.strip().casefold()
    return None if word not in ("no", "yes") else word == "yes"


def rating_text(rating: float, binary: bool) -> str:
    """Write a rating: `4`, `3.5`; for 0/1 feedback `disliked` or `liked`."""
    if binary:
        return "liked" if rating > 0.5 else "disliked"
    return f"{rating:g}"


def _scale(example: ClickExample) -> str:
    if example.rating_min >= example.rating_max or (example.rating_min, example.rating_max) == (0.0, 1.0):
        return ""
    return f" from {example.rating_min:g} to {example.rating_max:g}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
