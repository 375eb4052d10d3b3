import hashlib
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from components.errors import ConfigError
from components.llm import backbone, tiny
from components.prompts import click
from tests.components.llm import families

SMALL = tiny.Config(hidden_size=32, layers=2, heads=2, intermediate=64, vocabulary_size=400)


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        tiny.make(str(tmp_path / name), iter(families.corpus()), SMALL)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert "model.safetensors" in digests(tmp_path / "one")


def test_another_seed_gives_other_weights_and_leaves_the_callers_randomness_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    for seed in (0, 1):
        tiny.make(str(tmp_path / str(seed)), iter(families.corpus()), tiny.Config(**{**vars(SMALL), "seed": seed}))
    assert torch.equal(torch.rand(1), expected)
    assert digests(tmp_path / "0")["model.safetensors"] != digests(tmp_path / "1")["model.safetensors"]
    assert digests(tmp_path / "0")["tokenizer.json"] == digests(tmp_path / "1")["tokenizer.json"]


@pytest.mark.parametrize("texts", [families.corpus(), ["no answer word in here"], []])
def test_a_tiny_model_loads_as_any_other_and_its_answers_are_single_tokens(tmp_path: Path, texts: list[str]) -> None:
    tiny.make(str(tmp_path), iter(texts), SMALL)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(model, LlamaForCausalLM)
    assert model.config.vocab_size == len(tokenizer) <= 400
    for word in click.ANSWERS:
        assert tokenizer.tokenize(word) == ["Ġ" + word.strip()]
    prompt = click.render(families.example())
    encoded = backbone.load_encoder(backbone.Config(path=str(tmp_path)), 500).encode(prompt)
    assert tokenizer(prompt.text)["input_ids"] == encoded.token_ids.tolist()
    assert tokenizer.decode(encoded.token_ids) == prompt.text


def test_answer_words_keep_the_tokens_of_other_texts_readable(tmp_path: Path) -> None:
    tiny.make(str(tmp_path), iter(families.corpus()), SMALL)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = "Nothing, Yesterday, No Yes yes Amélie 漢字"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize(("tied", "parameters"), [(True, 398 * 32), (False, 2 * 398 * 32)])
def test_tied_weights_are_stored_once(tmp_path: Path, tied: bool, parameters: int) -> None:
    tiny.make(str(tmp_path), iter(families.corpus()), tiny.Config(**{**vars(SMALL), "tied": tied}))
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    vocabulary = {id(weight): weight for weight in (model.get_input_embeddings().weight, model.get_output_embeddings().weight)}
    assert sum(weight.numel() for weight in vocabulary.values()) == parameters // 398 * model.config.vocab_size


@pytest.mark.parametrize("options", [{"hidden_size": 100, "heads": 8}, {"vocabulary_size": 100}])
def test_an_impossible_shape_is_refused(options: dict) -> None:
    with pytest.raises(ConfigError):
        tiny.Config(**options)
