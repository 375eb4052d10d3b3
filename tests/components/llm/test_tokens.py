import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.errors import ConfigError
from components.llm.tokens import PlainText, PromptEncoder, TokenLayout, collate
from components.prompts import click
from components.types import Prompt
from tests.components.llm import families

TOKENIZERS = {name: make() for name, make in families.TOKENIZERS.items()}
NAMES = sorted(TOKENIZERS)


def encoder(name: str, max_tokens: int = 512, tail_tokens: int = 0) -> PromptEncoder:
    return PromptEncoder(TOKENIZERS[name], max_tokens, name in families.MASKED, tail_tokens)


@pytest.mark.parametrize("name", NAMES)
def test_segments_encoded_apart_give_the_tokens_of_the_whole_text(name: str) -> None:
    prompt = click.render(families.example())
    blank = f" {TOKENIZERS[name].mask_token}" if name in families.MASKED else ""
    expected = TOKENIZERS[name](prompt.text + blank)["input_ids"]
    found = encoder(name).encode(prompt).token_ids.tolist()
    assert found == expected


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_follows_where_the_tokens_end(name: str) -> None:
    prompt = click.render(families.example(answer=True))
    found, (no, yes) = encoder(name).encode(prompt).token_ids.tolist(), encoder(name).layout.answer_ids
    if name not in families.MASKED:
        assert TOKENIZERS[name](prompt.text + prompt.target)["input_ids"][: len(found) + 1] == [*found, yes]
    first_letters = [TOKENIZERS[name].convert_ids_to_tokens(token).strip("Ġ▁")[:1].lower() for token in (no, yes)]
    assert first_letters == ["n", "y"]


@pytest.mark.parametrize(
    ("name", "opening", "closing"), [("gpt2", [], []), ("llama2", ["<s>"], []), ("bert", ["[CLS]"], ["[MASK]", "[SEP]"])]
)
def test_special_tokens_stand_only_where_the_layout_puts_them(name: str, opening: list[str], closing: list[str]) -> None:
    layout = encoder(name).layout
    assert TOKENIZERS[name].convert_ids_to_tokens(list(layout.opening)) == opening
    assert TOKENIZERS[name].convert_ids_to_tokens(list(layout.closing)) == closing


def test_a_space_token_before_both_answers_becomes_part_of_the_prompt() -> None:
    encoded = PromptEncoder(TOKENIZERS["gpt2"], 512, answers=(" Q", " Z"))
    tokens = TOKENIZERS["gpt2"].convert_ids_to_tokens
    assert tokens(list(encoded.layout.closing)) == ["Ġ"]
    assert tokens(list(encoded.layout.answer_ids)) == ["Q", "Z"]


def test_answers_that_begin_alike_are_refused() -> None:
    with pytest.raises(ConfigError, match="different tokens"):
        PromptEncoder(TOKENIZERS["gpt2"], 512, answers=(" No", " No"))


def test_a_masked_model_without_a_mask_token_is_refused() -> None:
    with pytest.raises(ConfigError, match="mask token"):
        PromptEncoder(TOKENIZERS["gpt2"], 512, masked=True)


@settings(deadline=None)
@given(
    history=st.integers(0, 40),
    max_tokens=st.integers(60, 400),
    tail_tokens=st.integers(0, 60),
    name=st.sampled_from(["gpt2", "llama2", "bert"]),
)
def test_the_budget_drops_the_oldest_lines_and_nothing_else(history: int, max_tokens: int, tail_tokens: int, name: str) -> None:
    prompt = click.render(families.example(history))
    try:
        encoded = encoder(name, max_tokens, tail_tokens).encode(prompt)
    except ConfigError:
        whole = encoder(name, 10_000, tail_tokens).encode(Prompt(prompt.head, (), prompt.tail, ""))
        assert max(len(whole.token_ids), whole.prefix_length + tail_tokens) + 3 > max_tokens
        return
    assert len(encoded.token_ids) <= max_tokens
    kept = prompt.history[history - encoded.kept_history :]
    unlimited = encoder(name, 10_000).encode(Prompt(prompt.head, kept, prompt.tail, ""))
    assert encoded.token_ids.tolist() == unlimited.token_ids.tolist()
    assert encoded.kept_history == history or _one_more(name, prompt, kept, tail_tokens) > max_tokens


def _one_more(name: str, prompt: Prompt, kept: tuple[str, ...], tail_tokens: int) -> int:
    lines = prompt.history[len(prompt.history) - len(kept) - 1 :]
    whole = encoder(name, 10_000).encode(Prompt(prompt.head, lines, prompt.tail, ""))
    return whole.prefix_length + max(tail_tokens, len(whole.token_ids) - whole.prefix_length) + 2


def test_candidates_of_one_user_share_a_prefix_when_room_is_kept_for_the_longest_tail() -> None:
    short, long = (click.render(families.example(30, title)) for title in ("Heat", "Twelve Monkeys (1995) " * 3))
    first, second = (encoder("gpt2", 200, tail_tokens=70).encode(prompt) for prompt in (short, long))
    assert first.kept_history == second.kept_history > 0
    assert first.token_ids[: first.prefix_length].tolist() == second.token_ids[: second.prefix_length].tolist()


def test_a_question_over_budget_names_the_number_needed() -> None:
    prompt = click.render(families.example(0))
    needed = len(encoder("gpt2").encode(prompt).token_ids)
    with pytest.raises(ConfigError, match=f"at least {needed} "):
        encoder("gpt2", needed - 1).encode(prompt)
    assert len(encoder("gpt2", needed).encode(prompt).token_ids) == needed


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(text=st.text(max_size=60), limit=st.integers(1, 12))
def test_a_shortened_text_is_a_start_of_the_text_and_within_its_limit(name: str, text: str, limit: int) -> None:
    (short,) = encoder(name).shorten([text], limit)
    assert text.startswith(short)
    assert len(TOKENIZERS[name](short, add_special_tokens=False, split_special_tokens=True)["input_ids"]) <= limit


def test_a_text_within_its_limit_is_not_shortened() -> None:
    assert encoder("gpt2").shorten(["Toy Story (1995)"], 50) == ["Toy Story (1995)"]


def test_an_encoder_travels_to_another_process() -> None:
    prompt = click.render(families.example())
    copy = pickle.loads(pickle.dumps(encoder("llama2")))
    assert copy.encode(prompt).token_ids.tolist() == encoder("llama2").encode(prompt).token_ids.tolist()


@pytest.mark.parametrize("text", ["</s>", "a</s> b", "<pad></s>", "<unk>"])
def test_words_that_a_tokenizer_holds_as_special_never_come_from_text(text: str) -> None:
    tokenizer = families.unigram()
    found = PlainText(tokenizer).encode(text)
    assert not {tokenizer.pad_token_id, tokenizer.eos_token_id} & set(found)


def test_an_added_token_that_is_a_plain_word_too_stays_a_word() -> None:
    tokenizer = families.byte_level()
    tokenizer.add_tokens(["\n"])  # as Gemma does
    prompt = click.render(families.example())
    encoded = PromptEncoder(tokenizer, 512).encode(prompt)
    assert tokenizer.decode(encoded.token_ids) == prompt.text


def test_a_batch_is_padded_on_the_right_and_knows_its_answer_positions() -> None:
    batch = collate([np.array([5, 6, 7], np.int32), np.array([8, 9], np.int32)], TokenLayout((), (), 0, (1, 2), pad_id=3))
    assert batch.token_ids_BT.tolist() == [[5, 6, 7], [8, 9, 3]]
    assert batch.mask_BT.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch.answer_B.tolist() == [2, 1]


def test_a_masked_models_answer_position_is_its_blank() -> None:
    encoded = encoder("bert").encode(click.render(families.example()))
    batch = collate([encoded.token_ids], encoder("bert").layout)
    assert batch.token_ids_BT[0, batch.answer_B[0]] == TOKENIZERS["bert"].mask_token_id
