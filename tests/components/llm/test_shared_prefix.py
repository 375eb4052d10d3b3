from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from components.errors import ConfigError
from components.llm import backbone, scorer
from components.llm.answer import AnswerHead, ClickLlm
from components.llm.prefix_cache import PrefixCache
from components.llm.shared_prefix import score_shared
from components.llm.tokens import PromptEncoder, SharedPrompts
from components.prompts import click
from components.types import Prompt
from tests.components.llm import families

NAMES = ("llama", "qwen2", "qwen3", "gpt2", "bert")
CAUSAL = ("llama", "qwen3", "gpt2")
HISTORIES = (9, 0, 3, 17)  # prefixes of four lengths


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    return {name: str(families.save(name, root / name)) for name in NAMES}


def open_(path: str, **options) -> ClickLlm:
    return backbone.load(backbone.Config(path=path, **options))[0]


def prompts_of(path: str, candidates: tuple[int, ...] = (3, 1, 0, 6)) -> list[SharedPrompts]:
    encoder = backbone.load_encoder(backbone.Config(path=path), 500)
    tails = [click.render(families.example(0, title)).tail for title in families.TITLES]
    return [
        encoder.encode_shared(click.render(families.example(lines)), tails[-count:] if count else [])
        for lines, count in zip(HISTORIES, candidates, strict=True)
    ]


def alone(llm: ClickLlm, users: list[SharedPrompts]) -> list[NDArray[np.float64]]:
    """Each whole prompt in a forward of its own."""
    return [np.array([scorer.score(llm, [np.concatenate([user.prefix, each])])[0] for each in user.suffixes]) for user in users]


def furthest(found: list[NDArray[np.float64]], expected: list[NDArray[np.float64]]) -> float:
    assert [len(each) for each in found] == [len(each) for each in expected]
    assert all(each.dtype == np.float64 for each in found)
    return float(np.abs(np.concatenate(found) - np.concatenate(expected)).max())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", NAMES)
def test_candidates_of_several_users_score_as_their_whole_prompts_do(folders, name: str, attention: str) -> None:
    llm, users = open_(folders[name], attention=attention), prompts_of(folders[name])
    assert len({len(user.prefix) for user in users}) == len(users)
    assert len({len(suffix) for suffix in users[-1].suffixes}) > 1
    expected = alone(llm, users)
    assert np.concatenate(expected).std() > 0.01
    llm.train()
    found = score_shared(llm, users)
    assert llm.training
    assert furthest(found, expected) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_scores_are_as_near_to_exact_ones_as_those_of_whole_prompts(folders, name: str) -> None:
    llm, users = open_(folders[name], dtype="bfloat16"), prompts_of(folders[name], (6, 6, 6, 6))
    exact = open_(folders[name])
    exact.load_state_dict(llm.state_dict())  # the same rounded weights
    expected, whole, found = (np.concatenate(each) for each in (alone(exact, users), alone(llm, users), score_shared(llm, users)))
    # With weights this large rounding moves a score by 0.007 on average, and by up to 0.05.
    assert np.abs(found - expected).mean() < np.abs(whole - expected).mean() + 2e-3
    assert np.abs(found - expected).max() < 0.05


def test_adapters_take_part(folders) -> None:
    llm, users = open_(folders["llama"], finetune="lora"), prompts_of(folders["llama"])
    plain = score_shared(llm, users)
    with torch.no_grad():
        for name, weight in llm.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.2, generator=torch.Generator().manual_seed(1))
    found = score_shared(llm, users)
    assert furthest(found, plain) > 0.01
    assert furthest(found, alone(llm, users)) < 1e-5


@pytest.mark.parametrize("max_batch_tokens", [1, 200, 600, 1500])
@pytest.mark.parametrize("name", CAUSAL)
def test_the_size_of_batches_changes_no_score(folders, name: str, max_batch_tokens: int) -> None:
    llm, users = open_(folders[name]), prompts_of(folders[name])
    assert furthest(score_shared(llm, users, max_batch_tokens), score_shared(llm, users, 100_000)) < 1e-5


def tokens_read(llm: ClickLlm, users: list[SharedPrompts], max_batch_tokens: int, cache: PrefixCache | None = None) -> list[int]:
    """Return the tokens of each forward pass, padding included."""
    read: list[int] = []
    within = llm.language_model.model.layers[0].post_attention_layernorm
    with within.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].shape[:-1].numel())):
        score_shared(llm, users, max_batch_tokens, cache=cache)
    return read


def test_each_token_is_read_once(folders) -> None:
    llm = open_(folders["llama"])
    words = np.arange(100, dtype=np.int32)
    users = [
        SharedPrompts(words[:40], (words[50:58], words[60:63], words[70:71])),
        SharedPrompts(words[:9], ()),
        SharedPrompts(words[:5], (words,)),
    ]
    assert tokens_read(llm, users, 10_000) == [40 + 8 + 3 + 1 + 5 + 100]


def test_what_all_suffixes_begin_with_is_read_once_too(folders) -> None:
    llm = open_(folders["llama"])
    words = np.arange(100, dtype=np.int32)
    same, cut = (words[50:58],) * 3, (words[50:60], words[50:53], np.r_[words[50:53], 7, 9].astype(np.int32))
    assert tokens_read(llm, [SharedPrompts(words[:40], same)], 10_000) == [40 + 7 + 3], "a suffix keeps the token that answers"
    assert tokens_read(llm, [SharedPrompts(words[:40], cut)], 10_000) == [40 + 2 + 8 + 1 + 3]


@pytest.mark.parametrize("name", CAUSAL)
def test_known_prefixes_change_no_score(folders, name: str) -> None:
    llm, users, cache = open_(folders[name]), prompts_of(folders[name], (6, 6, 6, 6)), PrefixCache(1 << 20)
    expected = alone(llm, users)
    assert furthest(score_shared(llm, users, cache=cache), expected) < 1e-5
    assert len(cache) == len(users)
    assert furthest(score_shared(llm, users, cache=cache), expected) < 1e-5
    assert furthest(score_shared(llm, users, 100, cache=cache), expected) < 1e-5
    for few in (slice(2, 3), slice(0, 2)):  # a single candidate shares all but its end with the prefix
        some = [replace(user, suffixes=user.suffixes[few]) for user in users]
        assert furthest(score_shared(llm, some, cache=cache), [each[few] for each in expected]) < 1e-5


def test_a_known_prefix_is_not_read_again(folders) -> None:
    llm, cache = open_(folders["llama"]), PrefixCache(1 << 20)
    words = np.arange(100, dtype=np.int32)
    user = SharedPrompts(words[:40], (words[50:58], words[[50, 51, 70]]))
    assert tokens_read(llm, [user], 10_000, cache) == [40 + 2 + 6 + 1]
    assert tokens_read(llm, [user], 10_000, cache) == [6 + 1]
    assert tokens_read(llm, [replace(user, suffixes=(words[50:53], words[60:62]))], 10_000, cache) == [3 + 2], "known up to where they part"
    assert tokens_read(llm, [replace(user, suffixes=(words[50:58],))], 10_000, cache) == [6], "what is known ends before the suffix does"
    assert tokens_read(llm, [replace(user, prefix=words[:39])], 10_000, cache) == [39 + 2 + 6 + 1]


def test_prompts_read_whole_leave_nothing_in_the_cache(folders) -> None:
    llm, users, cache = open_(folders["llama"], attention="eager"), prompts_of(folders["llama"]), PrefixCache(1 << 20)
    assert furthest(score_shared(llm, users, cache=cache), alone(llm, users)) < 1e-5
    assert len(cache) == 0


def test_no_batch_holds_more_tokens_than_allowed(folders) -> None:
    llm, users = open_(folders["llama"]), prompts_of(folders["llama"], (6, 6, 6, 6))
    longest = max(len(user.prefix) + len(suffix) for user in users for suffix in user.suffixes)
    read = tokens_read(llm, users, 2 * longest)
    assert max(read) <= 2 * longest
    assert len(read) > 2
    assert len(tokens_read(llm, users, 1)) == 4 * 6, "what is too long makes a batch of its own"


def test_one_candidates_words_change_no_others_score(folders) -> None:
    for name in CAUSAL:
        llm, (user, *_) = open_(folders[name]), prompts_of(folders[name], (6, 0, 0, 0))
        first, *others = user.suffixes
        (before,) = score_shared(llm, [user])
        (changed,) = score_shared(llm, [replace(user, suffixes=(np.roll(first, 7), *others))])
        (fewer,) = score_shared(llm, [replace(user, suffixes=tuple(others))])
        assert abs(before[0] - changed[0]) > 1e-4
        np.testing.assert_allclose(changed[1:], before[1:], atol=1e-6, rtol=0)
        np.testing.assert_allclose(fewer, before[1:], atol=1e-6, rtol=0)


def test_candidates_keep_their_order(folders) -> None:
    llm, (user, *_) = open_(folders["llama"]), prompts_of(folders["llama"], (6, 0, 0, 0))
    (forth,), (back,) = score_shared(llm, [user], 300), score_shared(llm, [replace(user, suffixes=user.suffixes[::-1])], 300)
    assert len(set(forth.round(4))) == 6
    np.testing.assert_allclose(back[::-1], forth, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_users_without_candidates_have_no_scores(folders, name: str) -> None:
    llm, users = open_(folders[name]), prompts_of(folders[name], (0, 0, 0, 0))
    assert score_shared(llm, []) == []
    assert [len(p) for p in score_shared(llm, users)] == [0, 0, 0, 0]


@pytest.mark.parametrize("name", CAUSAL)
def test_a_suffix_may_follow_no_prefix(folders, name: str) -> None:
    llm, (user, *_) = open_(folders[name]), prompts_of(folders[name])
    users = [SharedPrompts(np.zeros(0, np.int32), user.suffixes), user]
    assert furthest(score_shared(llm, users), alone(llm, users)) < 1e-5
    assert furthest(score_shared(llm, users[:1]), alone(llm, users[:1])) < 1e-5


def test_prompts_as_long_as_the_models_positions_are_scored_beside_longer_suffixes(folders) -> None:
    llm, positions = open_(folders["gpt2"]), 512
    words = np.arange(positions, dtype=np.int32) % 300
    users = [SharedPrompts(words[:500], (words[:12],)), SharedPrompts(words[100:300], (words[:90], words[5:10]))]
    assert furthest(score_shared(llm, users), alone(llm, users)) < 1e-5


def answering(model: PreTrainedModel, path: str) -> ClickLlm:
    """A model of another family that reads the tokens of the one at `path`."""
    layout = backbone.load_encoder(backbone.Config(path=path), 500).layout
    model.set_output_embeddings(AnswerHead(model.get_output_embeddings(), layout.answer_ids))
    return ClickLlm(model, layout, model.config.hidden_size, model.config.num_hidden_layers)


def test_a_window_of_attention_reaches_as_far_as_in_the_whole_prompt(folders) -> None:
    torch.manual_seed(1)
    shape = MistralConfig(vocab_size=600, num_key_value_heads=2, num_hidden_layers=3, sliding_window=12, **families.WIDTH)
    llm, users = answering(MistralForCausalLM(shape), folders["llama"]), prompts_of(folders["llama"])
    expected = alone(llm, users)
    assert furthest(score_shared(llm, users), expected) < 1e-5
    llm.language_model.config.sliding_window = None
    assert furthest(score_shared(llm, users), expected) > 1e-3


def test_a_model_that_remembers_a_state_instead_of_keys_reads_whole_prompts(folders) -> None:
    torch.manual_seed(1)
    shape = MambaConfig(vocab_size=600, hidden_size=32, state_size=8, num_hidden_layers=2, initializer_range=0.3)
    llm, users = answering(MambaForCausalLM(shape), folders["llama"]), prompts_of(folders["llama"])
    assert furthest(score_shared(llm, users), alone(llm, users)) < 1e-5


@pytest.mark.parametrize("name", sorted(families.TOKENIZERS))
@pytest.mark.parametrize("max_tokens", [300, 3000])
def test_prompts_encoded_together_have_the_tokens_of_those_encoded_one_by_one(name: str, max_tokens: int) -> None:
    prompt = click.render(families.example(60))
    tails = [click.render(families.example(0, title)).tail for title in families.TITLES]
    encoder = PromptEncoder(families.TOKENIZERS[name](), max_tokens, name in families.MASKED, tail_tokens=120)
    shared = encoder.encode_shared(prompt, tails)
    one_by_one = [encoder.encode(replace(prompt, tail=tail)) for tail in tails]
    assert one_by_one[0].kept_history > 0
    assert (one_by_one[0].kept_history < 60) == (max_tokens == 300)
    assert [len(shared.prefix)] * len(tails) == [each.prefix_length for each in one_by_one]
    for suffix, each in zip(shared.suffixes, one_by_one, strict=True):
        assert np.concatenate([shared.prefix, suffix]).tolist() == each.token_ids.tolist()
    assert shared.prefix.dtype == shared.suffixes[0].dtype == np.int32


def test_the_longest_tail_decides_how_much_history_all_candidates_keep() -> None:
    prompt = click.render(families.example(30))
    short, long = (click.render(families.example(0, title)).tail for title in ("Heat", "Twelve Monkeys (1995) " * 3))
    encoder = PromptEncoder(families.byte_level(), 250, tail_tokens=4)
    shared = encoder.encode_shared(prompt, [short, long])
    assert np.concatenate([shared.prefix, shared.suffixes[1]]).tolist() == encoder.encode(replace(prompt, tail=long)).token_ids.tolist()
    assert len(shared.prefix) < encoder.encode(replace(prompt, tail=short)).prefix_length


def test_without_candidates_the_room_kept_for_a_tail_decides() -> None:
    prompt = click.render(families.example(30))
    encoder = PromptEncoder(families.byte_level(), 250, tail_tokens=60)
    shared = encoder.encode_shared(prompt, [])
    assert shared.suffixes == ()
    assert shared.prefix.tolist() == encoder.encode(replace(prompt, tail="")).token_ids.tolist()


def test_a_tail_over_budget_names_the_number_needed() -> None:
    prompt = Prompt("User\n", (), "", "")
    with pytest.raises(ConfigError, match="at least"):
        PromptEncoder(families.byte_level(), 20).encode_shared(prompt, ["Yes?", "x " * 100])
