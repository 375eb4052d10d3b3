"""Training in a packed row against transformers, which reads one prompt after the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel

from components.llm import backbone, packed_training
from components.llm.answer import ClickLlm
from components.llm.packed_training import Row, understood
from components.llm.tokens import collate
from components.types import LlmOutput, TokenBatch
from tests.components.llm import families

NAMES = ("llama", "qwen2", "qwen3", "mistral")
LENGTHS = (9, 1, 30, 4)
LABEL_B = torch.tensor([1.0, 0.0, 0.0, 1.0])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], str]:
    root = tmp_path_factory.mktemp("models")
    made = {(name, tied): str(families.save(name, root / f"{name}-{tied}", tied)) for name in NAMES[:3] for tied in (True, False)}
    return {**made, **{("mistral", tied): mistral(root / f"mistral-{tied}", tied) for tied in (True, False)}}


def mistral(folder: Path, tied: bool) -> str:
    tokenizer = families.TOKENIZERS["llama2"]()
    tokenizer.save_pretrained(folder)
    shape = MistralConfig(
        vocab_size=len(tokenizer),
        num_key_value_heads=1,
        num_hidden_layers=2,
        sliding_window=None,
        tie_word_embeddings=tied,
        **families.WIDTH,
    )
    torch.manual_seed(1)
    MistralForCausalLM(shape).save_pretrained(folder)
    return str(folder)


def open_(path: str, **options) -> ClickLlm:
    return backbone.load(backbone.Config(path=path, **options))[0].train()


def batch(llm: ClickLlm) -> TokenBatch:
    random = np.random.default_rng(0)
    return collate([random.integers(5, 250, length) for length in LENGTHS], llm.layout)


def loss_of(output: LlmOutput) -> Tensor:
    """Something that every output takes part in."""
    click = nn.functional.binary_cross_entropy_with_logits(output.logits_B.float(), LABEL_B)
    return click + sum(states.float().square().mean() for states in output.hidden)


def gradients(llm: ClickLlm, loss: Tensor) -> dict[str, Tensor]:
    llm.zero_grad()
    loss.backward()
    return {name: parameter.grad.float() for name, parameter in llm.named_parameters() if parameter.grad is not None}


def one_by_one(llm: ClickLlm, tokens: TokenBatch) -> LlmOutput:
    """What transformers finds at each prompt's end, with no other prompt beside it."""
    logits, hidden = [], []
    for row, last in enumerate(tokens.answer_B.tolist()):
        output = llm.language_model(tokens.token_ids_BT[row : row + 1, : last + 1], use_cache=False, output_hidden_states=True)
        logits.append(output.logits[0, last])
        hidden.append([states[0, last] for states in output.hidden_states[1:]])
    return LlmOutput(torch.stack(logits), tuple(torch.stack(states) for states in zip(*hidden, strict=True)))


def furthest(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the largest distance of a gradient from what it should be, as a share of its norm."""
    assert found.keys() == expected.keys()
    return max(float((found[name] - value).norm() / value.norm().clamp_min(1e-6)) for name, value in expected.items())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_answers_hidden_states_and_gradients_are_those_of_each_prompt_alone(folders, name: str, tied: bool) -> None:
    llm = open_(folders[name, tied])
    tokens = batch(llm)
    expected, found = one_by_one(llm, tokens), llm(tokens)
    torch.testing.assert_close(found.logits_B2, expected.logits_B2, atol=1e-5, rtol=0)
    assert len(found.hidden) == len(expected.hidden) == llm.blocks
    for states, other in zip(found.hidden, expected.hidden, strict=True):
        torch.testing.assert_close(states, other, atol=2e-5, rtol=1e-5)
    assert furthest(gradients(llm, loss_of(found)), gradients(llm, loss_of(expected))) < 1e-5


def test_what_is_not_asked_for_is_not_computed(folders) -> None:
    llm = open_(folders["llama", True])
    tokens = batch(llm)
    rows: dict[str, int] = {}
    for name, module in llm.named_modules():
        if name.endswith(("layers.2.mlp", "layers.2.self_attn.q_proj", "layers.2.self_attn.k_proj", "layers.1.mlp", "lm_head")):
            module.register_forward_pre_hook(lambda _, given, name=name: rows.__setitem__(name.split("model.", 2)[-1], len(given[0])))
    lean = llm(tokens, with_hidden=False)
    assert lean.hidden == ()
    torch.testing.assert_close(lean.logits_B2, llm(tokens).logits_B2, atol=0, rtol=0)
    whole = sum(LENGTHS)  # no padding
    assert {name.split("layers.")[-1].removeprefix("language_model."): count for name, count in rows.items()} == {
        "1.mlp": whole,
        "2.self_attn.k_proj": whole,
        "2.self_attn.q_proj": 4,
        "2.mlp": 4,
        "lm_head": 4,
    }


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_gradients_are_as_near_to_exact_ones_as_those_of_transformers(folders, name: str) -> None:
    llm, exact = open_(folders[name, True], dtype="bfloat16"), open_(folders[name, True])
    exact.load_state_dict(llm.state_dict())  # the same rounded weights
    tokens = batch(llm)
    expected = gradients(exact, loss_of(one_by_one(exact, tokens)))
    theirs = furthest(gradients(llm, loss_of(one_by_one(llm, tokens))), expected)
    ours = furthest(gradients(llm, loss_of(llm(tokens))), expected)
    assert theirs > 1e-3
    assert ours < 1.5 * theirs


def test_adapters_are_trained(folders) -> None:
    llm = open_(folders["llama", True], finetune="lora", lora_dropout=0.0)
    with torch.no_grad():
        for name, weight in llm.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(weight, std=0.2, generator=torch.Generator().manual_seed(1))
    assert understood(llm.language_model) is not None
    tokens = batch(llm)
    found, expected = (gradients(llm, loss_of(output)) for output in (llm(tokens), one_by_one(llm, tokens)))
    assert found
    assert all("lora_" in name for name in found)
    assert furthest(found, expected) < 1e-5


def test_no_weight_is_read_outside_the_forward_of_its_module(folders) -> None:
    llm = open_(folders["qwen3", False])
    tokens = batch(llm)
    expected = llm(tokens).logits_B2
    whole = {parameter: parameter.data for parameter in llm.parameters()}

    def fill(module: nn.Module, values) -> None:
        for parameter in module.parameters(recurse=False):
            parameter.data = values(parameter)

    for module in llm.modules():
        module.register_forward_pre_hook(lambda module, _: fill(module, whole.__getitem__))
        module.register_forward_hook(lambda module, *_: fill(module, lambda _: torch.empty(0)))
        fill(module, lambda _: torch.empty(0))  # as ZeRO-3 leaves it
    torch.testing.assert_close(llm(tokens).logits_B2, expected, atol=0, rtol=0)


def test_other_models_and_settings_are_read_as_transformers_reads_them(folders, tmp_path: Path) -> None:
    assert understood(open_(folders["llama", True]).language_model) is not None
    assert understood(open_(folders["llama", True], attention="eager").language_model) is None
    assert understood(open_(folders["llama", True], gradient_checkpointing=True).language_model) is None
    assert understood(open_(str(families.save("gpt2", tmp_path / "gpt2"))).language_model) is None
    for changed in ({"sliding_window": 8}, {"attention_dropout": 0.1}):
        model = open_(folders["mistral", True]).language_model
        assert isinstance(model, PreTrainedModel)
        model.config.update(changed)
        assert understood(model) is None


def test_padding_is_left_out_and_places_start_anew_in_each_prompt() -> None:
    tokens = TokenBatch(torch.tensor([[5, 6, 0], [7, 8, 9]]), torch.tensor([[1, 1, 0], [1, 1, 1]]), torch.tensor([1, 2]))
    row = Row.of(tokens)
    assert row.tokens_S.tolist() == [5, 6, 7, 8, 9]
    assert row.positions_S.tolist() == [0, 1, 0, 1, 2]
    assert row.lengths == [2, 3]
    assert row.answers_B.tolist() == [1, 4]


def test_validation_is_read_as_it_ever_was(folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_training, "answer", lambda *_: pytest.fail("packed"))
    llm = open_(folders["llama", True])
    validated = llm.eval()(batch(llm)).logits_B
    with torch.no_grad():
        scored = llm.train()(batch(llm)).logits_B
    torch.testing.assert_close(scored, validated, atol=0, rtol=0)
