from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from components.llm import backbone, decoder
from components.llm.answer import ClickLlm
from components.llm.shared_prefix import score_shared
from tests.components.llm import families
from tests.components.llm.test_shared_prefix import answering, prompts_of

FAMILY = ("llama", "qwen2", "qwen3")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    return {name: str(families.save(name, root / name)) for name in (*FAMILY, "gpt2")}


def agrees(llm: ClickLlm, path: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Tell whether scores are those of transformers' own layers."""
    users = prompts_of(path)
    assert decoder.understood(llm.language_model) is not None
    found = np.concatenate(score_shared(llm, users))
    monkeypatch.setattr(decoder, "understood", lambda model: None)
    return bool(np.abs(found - np.concatenate(score_shared(llm, users))).max() < 1e-5)


@pytest.mark.parametrize("name", FAMILY)
def test_a_model_answers_as_its_own_layers_do(folders, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert agrees(backbone.load(backbone.Config(path=folders[name]))[0], folders[name], monkeypatch)


def test_mistral_answers_as_its_own_layers_do(folders, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    shape = MistralConfig(vocab_size=600, num_key_value_heads=2, num_hidden_layers=3, sliding_window=None, **families.WIDTH)
    assert agrees(answering(MistralForCausalLM(shape), folders["llama"]), folders["llama"], monkeypatch)


def test_the_last_layer_reads_the_answers_alone(folders) -> None:
    llm, users = backbone.load(backbone.Config(path=folders["llama"]))[0], prompts_of(folders["llama"])
    rows: list[int] = []
    for layer in llm.language_model.model.layers:
        layer.post_attention_layernorm.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    score_shared(llm, users)
    assert rows[0] == rows[1] > rows[2] == sum(len(user.suffixes) for user in users)


def test_a_single_layer_is_first_and_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(families.save("llama", tmp_path, layers=1))
    assert agrees(backbone.load(backbone.Config(path=path))[0], path, monkeypatch)


def test_other_families_and_other_activations_are_left_to_transformers(folders) -> None:
    assert decoder.understood(backbone.load(backbone.Config(path=folders["gpt2"]))[0].language_model) is None
    llm = backbone.load(backbone.Config(path=folders["llama"]))[0]
    assert decoder.understood(llm.language_model) is llm.language_model
    llm.language_model.config.hidden_act = "gelu"
    assert decoder.understood(llm.language_model) is None


def test_adapters_are_read_through(folders) -> None:
    llm = backbone.load(backbone.Config(path=folders["llama"], finetune="lora"))[0]
    assert type(decoder.understood(llm.language_model)).__name__ == "LlamaForCausalLM"
