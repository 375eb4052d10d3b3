import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.prompts import click

EXAMPLE = click.ClickExample(
    profile="gender: male; age: 24",
    history=(("Toy Story (1995)", 4.0), ("Heat (1995)", 2.5)),
    target="Twelve Monkeys (1995); genres: Drama, Sci-Fi",
    answer=True,
    item_noun="movie",
    rating_min=1.0,
    rating_max=5.0,
)

texts = st.text(max_size=40)
examples = st.builds(
    click.ClickExample,
    profile=texts,
    history=st.lists(st.tuples(texts, st.floats(1, 5)), max_size=5).map(tuple),
    target=texts,
    answer=st.sampled_from([True, False, None]),
    rating_min=st.sampled_from([0.0, 1.0]),
    rating_max=st.sampled_from([1.0, 5.0]),
)


def test_the_prompt_reads_in_the_published_order() -> None:
    assert click.render(EXAMPLE).text + click.render(EXAMPLE).target == (
        "User: gender: male; age: 24\n"
        "Movies this user rated from 1 to 5, oldest first:\n"
        "- Toy Story (1995): 4\n"
        "- Heat (1995): 2.5\n"
        "Will the user like this movie, judged by this history and its quality?\n"
        "- Twelve Monkeys (1995); genres: Drama, Sci-Fi\n"
        "Reply only No or Yes.\n"
        "Answer: Yes"
    )


@given(examples)
def test_the_answer_is_read_back_from_the_target(example: click.ClickExample) -> None:
    assert click.parse(click.render(example).target) == example.answer


@pytest.mark.parametrize(
    ("text", "expected"), [(" Yes", True), ("no", False), (" YES\n", True), ("", None), ("Yes, but", None), ("maybe", None)]
)
def test_only_yes_and_no_are_answers(text: str, expected: bool | None) -> None:
    assert click.parse(text) is expected


@given(examples)
def test_segments_end_with_their_line_and_the_question_stays_open(example: click.ClickExample) -> None:
    prompt = click.render(example)
    assert len(prompt.history) == len(example.history)
    assert all(segment.endswith("\n") and not segment[0].isspace() for segment in (prompt.head, *prompt.history))
    assert all(line.count("\n") == 1 and line.startswith("- ") for line in prompt.history)
    assert prompt.tail.endswith("\nAnswer:")
    assert prompt.tail.count("\n") == 3


def test_no_profile_leaves_no_profile_line() -> None:
    assert click.render(click.ClickExample("", (), "Heat", None, "movie")).head == "This user rated no movie before.\n"


def test_feedback_of_zero_or_one_is_written_in_words() -> None:
    prompt = click.render(click.ClickExample("", (("Heat", 0.0), ("Se7en", 1.0)), "Fargo", None, "movie", 0.0, 1.0))
    assert prompt.head == "Movies this user rated, oldest first:\n"
    assert prompt.history == ("- Heat: disliked\n", "- Se7en: liked\n")


def test_feedback_that_is_always_the_same_is_not_written() -> None:
    prompt = click.render(click.ClickExample("", (("Heat", 1.0),), "Fargo", None, "song", 1.0, 1.0))
    assert prompt.head + prompt.history[0] == "Songs this user rated, oldest first:\n- Heat\n"


def test_braces_in_a_title_are_text() -> None:
    prompt = click.render(click.ClickExample("{item}", (("{rating}", 4.0),), "{noun}{0}", None, "movie", 1.0, 5.0))
    assert prompt.head.startswith("User: {item}\n")
    assert prompt.history == ("- {rating}: 4\n",)
    assert "- {noun}{0}\n" in prompt.tail
