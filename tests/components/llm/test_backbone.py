import json
import shutil
import tempfile
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, BertModel, T5Config, T5ForConditionalGeneration

from components.errors import ConfigError
from components.llm import backbone
from components.llm.answer import AnswerHead, ClickLlm
from components.llm.tokens import collate
from components.prompts import click
from components.types import LlmOutput, TokenBatch
from tests.components.llm import families
from tests.object_store import upload

NAMES = sorted(families.MODELS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], str]:
    root = tmp_path_factory.mktemp("models")
    return {(name, tied): str(families.save(name, root / f"{name}-{tied}", tied)) for name in NAMES for tied in (True, False)}


def open_(path: str, **options) -> ClickLlm:
    return backbone.load(backbone.Config(path=path, **options))[0]


def batch(path: str, lengths: tuple[int, ...] = (4, 1, 7)) -> TokenBatch:
    encoder = backbone.load_encoder(backbone.Config(path=path), 500)
    return collate([encoder.encode(click.render(families.example(lines))).token_ids for lines in lengths], encoder.layout)


def answered(llm: nn.Module, tokens: TokenBatch) -> LlmOutput:
    llm.eval()
    with torch.no_grad():
        return llm(tokens)


def reference(path: str, tokens: TokenBatch) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Full logits and hidden states at the answer position, from transformers alone, one prompt at a time."""
    auto = AutoModelForMaskedLM if Path(path).name.split("-")[0] in families.MASKED else AutoModelForCausalLM
    model = auto.from_pretrained(path).eval()
    logits, hidden = [], []
    for row, answer in enumerate(tokens.answer_B.tolist()):
        ids = tokens.token_ids_BT[row : row + 1, : int(tokens.mask_BT[row].sum())]
        with torch.no_grad():
            output = model(ids, output_hidden_states=True)
        logits.append(output.logits[0, answer])
        hidden.append([state[0, answer] for state in output.hidden_states[1:]])
    return torch.stack(logits), tuple(torch.stack(states) for states in zip(*hidden, strict=True))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_two_rows_equal_the_full_vocabularys_logits_and_padding_changes_nothing(folders, name: str, tied: bool) -> None:
    path = folders[name, tied]
    tokens, llm = batch(path), open_(path)
    expected_BV, expected_hidden = reference(path, tokens)
    found = answered(llm, tokens)
    assert expected_BV.std() > 0.1
    torch.testing.assert_close(found.logits_B2, expected_BV[:, list(llm.layout.answer_ids)], atol=1e-5, rtol=0)
    assert len(found.hidden) == llm.blocks == 3
    for state, expected in zip(found.hidden, expected_hidden, strict=True):
        assert state.shape == (3, llm.hidden_size)
        torch.testing.assert_close(state, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_tied_head_shares_the_parameter_object_of_the_embeddings(folders, name: str) -> None:
    for tied in (True, False):
        model = open_(folders[name, tied]).language_model
        assert isinstance(model.get_output_embeddings(), AnswerHead)
        assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "roberta"])
def test_no_weight_is_read_outside_the_forward_of_its_module(folders, name: str, tied: bool) -> None:
    tokens, llm = batch(folders[name, tied]), open_(folders[name, tied])
    expected = answered(llm, tokens)
    _partition(llm)
    found = answered(llm, tokens)
    assert all(parameter.numel() == 0 for parameter in llm.parameters())
    torch.testing.assert_close(found.logits_B2, expected.logits_B2, atol=0, rtol=0)


def _partition(model: nn.Module) -> None:
    """Empty every parameter, as ZeRO-3 does, but while a module that owns it runs."""
    whole = {parameter: parameter.data for parameter in model.parameters()}

    def gather(module: nn.Module, *_) -> None:
        for parameter in module.parameters(recurse=False):
            parameter.data = whole[parameter]

    def release(module: nn.Module, *_) -> None:
        for parameter in module.parameters(recurse=False):
            parameter.data = torch.empty(0)

    for module in model.modules():
        module.register_forward_pre_hook(gather)
        module.register_forward_hook(release)
        release(module)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_a_saved_model_is_an_ordinary_folder_with_the_same_logits(folders, tmp_path: Path, name: str, tied: bool) -> None:
    tokens = batch(folders[name, tied])
    llm, tokenizer = backbone.load(backbone.Config(path=folders[name, tied]))
    with torch.no_grad():
        for parameter in llm.parameters():
            parameter.mul_(1.1)
    folder = tmp_path / f"{name}-saved"
    backbone.save(llm, tokenizer, str(folder))
    expected_BV, _ = reference(str(folder), tokens)
    found = answered(llm, tokens).logits_B2
    torch.testing.assert_close(found, expected_BV[:, list(llm.layout.answer_ids)], atol=2e-5, rtol=0)
    torch.testing.assert_close(answered(open_(str(folder)), tokens).logits_B2, found, atol=0, rtol=0)
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_gathered_weights_are_saved_once_although_tied(folders, tmp_path: Path, name: str) -> None:
    llm, tokenizer = backbone.load(backbone.Config(path=folders[name, True]))
    gathered = {key: weight.clone() * 2 for key, weight in llm.state_dict().items()}
    gathered["crm.weight"] = torch.zeros(1)
    backbone.save(llm, tokenizer, str(tmp_path / name), gathered)
    backbone.save(llm, tokenizer, str(tmp_path / "plain"))
    written, plain = load_file(tmp_path / name / "model.safetensors"), load_file(tmp_path / "plain/model.safetensors")
    assert written.keys() == plain.keys()
    assert all(torch.equal(weight, plain[key] * 2) for key, weight in written.items())


@pytest.mark.parametrize("name", NAMES)
def test_lora_trains_adapters_alone_and_starts_as_the_base_model(folders, name: str) -> None:
    path = folders[name, True]
    llm = open_(path, finetune="lora")
    trained = [key for key, parameter in llm.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in key for key in trained)
    tokens = batch(path)
    torch.testing.assert_close(answered(llm, tokens).logits_B2, answered(open_(path), tokens).logits_B2, atol=0, rtol=0)


def test_new_adapters_depend_on_the_seed_alone(folders) -> None:
    torch.manual_seed(7)
    adapters = [
        [parameter for key, parameter in open_(folders["llama", True], finetune="lora", seed=seed).named_parameters() if "lora_A" in key]
        for seed in (3, 3, 4)
    ]
    assert all(torch.equal(one, other) for one, other in zip(adapters[0], adapters[1], strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(adapters[0], adapters[2], strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_adapters_that_fit_no_module_are_refused_without_a_look_at_the_weights(folders, tmp_path: Path, name: str) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(folders[name, True], bare, ignore=shutil.ignore_patterns("*.safetensors"))
    backbone.require_adaptable(backbone.Config(path=str(bare), finetune="lora"))
    backbone.require_adaptable(backbone.Config(path=str(bare), lora_targets=("q_prj",)))
    with pytest.raises(ConfigError, match=r"no adapter fits the model: .*q_prj"):
        backbone.require_adaptable(backbone.Config(path=str(bare), finetune="lora", lora_targets=("q_prj",)))


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("gathered", [True, False])
def test_a_saved_adapter_is_an_ordinary_peft_folder_and_loads_back(folders, tmp_path: Path, name: str, gathered: bool) -> None:
    path = folders[name, True]
    llm, tokenizer = backbone.load(backbone.Config(path=path, finetune="lora"))
    with torch.no_grad():
        for key, parameter in llm.named_parameters():
            if "lora_B" in key:
                parameter.normal_()
    backbone.save(llm, tokenizer, str(tmp_path), dict(llm.state_dict()) if gathered else None)
    tokens = batch(path)
    expected = answered(llm, tokens).logits_B2
    assert (expected - answered(open_(path), tokens).logits_B2).abs().max() > 0.01
    again = open_(str(tmp_path), finetune="lora")
    torch.testing.assert_close(answered(again, tokens).logits_B2, expected, atol=0, rtol=0)
    assert [key for key, parameter in again.named_parameters() if parameter.requires_grad]
    assert json.loads((tmp_path / "base.json").read_text()) == {"path": path, "revision": "", "dtype": "float32"}
    auto = AutoModelForMaskedLM if name in families.MASKED else AutoModelForCausalLM
    ordinary = peft.PeftModel.from_pretrained(auto.from_pretrained(path), str(tmp_path)).eval()
    with torch.no_grad():
        logits_BTV = ordinary(tokens.token_ids_BT, attention_mask=tokens.mask_BT).logits
    torch.testing.assert_close(logits_BTV[torch.arange(3), tokens.answer_B][:, list(llm.layout.answer_ids)], expected, atol=1e-5, rtol=0)


def test_a_model_in_a_bucket_loads_as_one_on_a_disk_and_its_adapters_name_it_there(
    folders, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where copies lie
    path, there = folders["llama", True], f"{bucket}/models/llama"
    upload(path, there)
    tokens = batch(there)
    torch.testing.assert_close(answered(open_(there), tokens).logits_B2, answered(open_(path), batch(path)).logits_B2, atol=0, rtol=0)

    llm, tokenizer = backbone.load(backbone.Config(path=there, finetune="lora"))
    with torch.no_grad():
        for key, parameter in llm.named_parameters():
            if "lora_B" in key:
                parameter.normal_()
    backbone.save(llm, tokenizer, str(tmp_path / "adapter"))
    assert json.loads((tmp_path / "adapter" / "base.json").read_text())["path"] == there
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == there
    upload(tmp_path / "adapter", f"{bucket}/adapter")
    again = open_(f"{bucket}/adapter", finetune="lora")
    torch.testing.assert_close(answered(again, tokens).logits_B2, answered(llm, tokens).logits_B2, atol=0, rtol=0)


def test_a_base_of_an_unknown_type_of_numbers_is_refused(folders, tmp_path: Path) -> None:
    base = {"path": folders["bert", True], "revision": "", "dtype": "load"}
    (tmp_path / "base.json").write_text(json.dumps(base))
    with pytest.raises(ConfigError, match=r"expected a type of numbers in base\.json, got 'load'"):
        backbone.load_encoder(backbone.Config(path=str(tmp_path)), 500)


def test_an_encoder_reads_the_base_of_an_adapter(folders, tmp_path: Path) -> None:
    llm, tokenizer = backbone.load(backbone.Config(path=folders["bert", True], finetune="lora"))
    backbone.save(llm, tokenizer, str(tmp_path))
    assert backbone.load_encoder(backbone.Config(path=str(tmp_path)), 500).layout == llm.layout


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
@pytest.mark.parametrize("finetune", ["full", "lora"])
def test_gradient_checkpointing_changes_no_gradient_not_even_that_of_hidden_states(folders, name: str, finetune) -> None:
    gradients = []
    for checkpointing in (False, True):
        llm = open_(folders[name, True], finetune=finetune, gradient_checkpointing=checkpointing).train().double()
        for dropout in (module for module in llm.modules() if isinstance(module, nn.Dropout)):
            dropout.p = 0.0
        output = llm(batch(folders[name, True]))
        (output.logits_B.sum() + sum(state.square().sum() for state in output.hidden)).backward()
        gradients.append({key: parameter.grad for key, parameter in llm.named_parameters() if parameter.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() != set()
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, atol=1e-5 * float(gradient.abs().max()), rtol=1e-4)


def test_casting_to_bfloat16_keeps_the_positions_of_a_model_loaded_in_bfloat16(folders) -> None:
    path = folders["llama", True]
    tokens = batch(path, (20, 30))
    cast = open_(path).bfloat16()
    assert all(parameter.dtype == torch.bfloat16 for parameter in cast.parameters())
    loaded = open_(path, dtype="bfloat16")
    torch.testing.assert_close(answered(cast, tokens).logits_B2, answered(loaded, tokens).logits_B2, atol=0, rtol=0)


def test_logits_of_a_bfloat16_model_are_not_rounded_to_bfloat16(folders) -> None:
    logits = answered(open_(folders["llama", True], dtype="bfloat16"), batch(folders["llama", True])).logits_B2
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())


def test_an_output_without_hidden_states_has_the_same_logits(folders) -> None:
    tokens, llm = batch(folders["llama", True]), open_(folders["llama", True]).eval()
    with torch.no_grad():
        lean = llm(tokens, with_hidden=False)
    assert lean.hidden == ()
    torch.testing.assert_close(lean.logits_B2, answered(llm, tokens).logits_B2, atol=0, rtol=0)


def test_pickled_weights_are_refused_unopened(folders, tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    class Trap:
        def __reduce__(self):
            return (marker.touch, ())

    folder = tmp_path / "model"
    shutil.copytree(folders["llama", True], folder)
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        open_(str(folder))
    assert not marker.exists()


@pytest.mark.parametrize("model_type", ["llama", "unheard-of"])
def test_code_that_comes_with_a_model_is_never_run(folders, tmp_path: Path, model_type: str) -> None:
    folder, marker = tmp_path / "model", tmp_path / "marker"
    shutil.copytree(folders["llama", True], folder)
    (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\nclass C: pass\n")
    for file in ("config.json", "tokenizer_config.json"):
        plain = json.loads((folder / file).read_text())
        plain["auto_map"] = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C", "AutoTokenizer": ["evil.C", "evil.C"]}
        (folder / file).write_text(json.dumps(plain | ({"model_type": model_type} if file == "config.json" else {})))
    if model_type == "llama":
        open_(str(folder))
    else:
        with pytest.raises(ConfigError):
            open_(str(folder))
    assert not marker.exists()


@pytest.mark.parametrize("damage", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_folder_is_named(folders, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(folders["llama", True], folder)
    (folder / damage).write_bytes((folder / damage).read_bytes()[:100])
    with pytest.raises(ConfigError, match=str(folder)):
        open_(str(folder))


def test_a_pickled_adapter_is_refused_unopened(folders, tmp_path: Path) -> None:
    llm, tokenizer = backbone.load(backbone.Config(path=folders["llama", True], finetune="lora"))
    backbone.save(llm, tokenizer, str(tmp_path))
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        open_(str(tmp_path))


def test_adapters_of_modules_that_do_not_exist_are_refused(folders) -> None:
    with pytest.raises(ConfigError, match="no_such_projection"):
        open_(folders["llama", True], finetune="lora", lora_targets=("no_such_projection",))


def test_lost_weights_are_not_replaced_by_random_ones(folders, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(folders["llama", True], folder)
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="up_proj"):
        open_(str(folder))


def test_an_encoder_without_its_prediction_head_is_trained_whole_or_not_at_all(folders, tmp_path: Path) -> None:
    BertModel.from_pretrained(folders["bert", True]).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folders["bert", True]).save_pretrained(tmp_path)
    assert open_(str(tmp_path)).layout.masked
    with pytest.raises(ConfigError, match="missing"):
        open_(str(tmp_path), finetune="lora")


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    T5ForConditionalGeneration(T5Config(vocab_size=50, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)).save_pretrained(tmp_path)
    families.unigram().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="encoder-decoder"):
        open_(str(tmp_path))


def test_prompts_longer_than_the_models_positions_are_refused(folders) -> None:
    with pytest.raises(ConfigError, match="at most 512"):
        backbone.load_encoder(backbone.Config(path=folders["gpt2", True]), 513)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "tiny"}, "made from the data"),
        ({"path": "gpt2"}, "commit"),
        ({"path": "gpt2", "revision": "main"}, "40 hex digits"),
        ({"lora_rank": 0}, "lora_rank"),
        ({"lora_dropout": 1.0}, "lora_dropout"),
        ({"path": ""}, "path"),
    ],
)
def test_a_wrong_configuration_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        backbone.load(backbone.Config(**options))
