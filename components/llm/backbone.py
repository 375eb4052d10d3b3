"""Language models, in folders of any store or on the hub: loading one with an answer head and perhaps LoRA, and saving it again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from components import artifacts, storage
from components.errors import ConfigError
from components.llm.answer import AnswerHead, ClickLlm
from components.llm.config import BASE_FILE, TINY, Config
from components.llm.tokens import PlainText, PromptEncoder, token_layout
from components.local_copy import local_copy
from components.prompts import click

_BROKEN = (OSError, ValueError, RuntimeError, KeyError, SafetensorError)


def load(config: Config) -> tuple[ClickLlm, PreTrainedTokenizerBase]:
    """Load a model that answers, and its tokenizer, also from a folder that `save` wrote; raise ConfigError when it cannot be.

    Only safetensors are read, and no code that comes with a model is run.
    """
    transformers.utils.logging.disable_progress_bar()  # a bar a second, in every worker, would bury what a run says
    tokenizer = load_tokenizer(config)
    base = _base(config)
    architecture = _architecture(base)
    masked = is_masked(architecture)
    layout = token_layout(tokenizer, PlainText(tokenizer), masked, click.ANSWERS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = _load_model(base, architecture, masked)
        _cut_head(model, layout.answer_ids)
        if config.gradient_checkpointing:
            model.activation_checkpointing_enable()
        adapted = _adapt(model, config) if config.finetune == "lora" or base.path != config.path else model
    text_config = architecture.get_text_config()
    return ClickLlm(adapted, layout, text_config.hidden_size, text_config.num_hidden_layers), tokenizer


def load_tokenizer(config: Config) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer alone."""
    try:
        return AutoTokenizer.from_pretrained(_place(config), **_source(config))
    except _BROKEN as error:
        raise _unusable(config, "tokenizer", error) from error


def load_encoder(config: Config, max_tokens: int) -> PromptEncoder:
    """Make the prompt encoder of a model without loading its weights; raise ConfigError when prompts may outgrow the model."""
    architecture = _architecture(_base(config))
    tokenizer = load_tokenizer(config)
    # A RoBERTa has fewer usable positions than its configuration says; its tokenizer knows.
    positions = min(getattr(architecture.get_text_config(), "max_position_embeddings", max_tokens), tokenizer.model_max_length)
    if max_tokens > positions:
        raise ConfigError(f"prompts.max_tokens: expected at most {positions}, which {config.path} can read, got {max_tokens}")
    return PromptEncoder(tokenizer, max_tokens, is_masked(architecture))


def blocks(config: Config) -> int:
    """Return how many blocks a model has, without loading its weights."""
    return _architecture(_base(config)).get_text_config().num_hidden_layers


def require_adaptable(config: Config) -> None:
    """Raise ConfigError where the adapters that are asked for fit no module of the model; reads no weights."""
    base = _base(config)
    if config.finetune == "lora" and base.path == config.path:  # an adapter's folder says itself what it adapts
        architecture = _architecture(base)
        try:
            with torch.device("meta"):
                model = _auto(is_masked(architecture)).from_config(architecture)
        except _BROKEN as error:
            raise _unusable(config, "model", error) from error
        model.name_or_path = config.path
        _cut_head(model, (0, 1))
        _adapt(model, config)


def save(llm: ClickLlm, tokenizer: PreTrainedTokenizerBase, folder: str, state_dict: Mapping[str, Tensor] | None = None) -> None:
    """Write an ordinary transformers folder, or with LoRA an ordinary peft folder and the name of its base.

    `state_dict` has the names of `llm.state_dict()`: weights gathered elsewhere, where the model's own are partitioned.
    """
    model = llm.language_model
    weights = None if state_dict is None else _below("language_model.", state_dict)
    assert weights is None or weights, "state_dict has no weight of the language model"
    if isinstance(model, peft.PeftModel):
        # "auto" would ask the hub whether the vocabulary has grown.
        model.save_pretrained(folder, state_dict=weights, save_embedding_layers=False)
        lora = model.peft_config["default"]
        base = {"path": lora.base_model_name_or_path, "revision": lora.revision or "", "dtype": _name(next(model.parameters()).dtype)}
        artifacts.write_json(artifacts.join(folder, BASE_FILE), base)
    elif isinstance(model, transformers.PreTrainedModel):
        again = model.all_tied_weights_keys  # second names of tied weights
        model.save_pretrained(folder, state_dict=weights and {name: value for name, value in weights.items() if name not in again})
    tokenizer.save_pretrained(folder)


def is_masked(architecture: PreTrainedConfig) -> bool:
    """Tell an encoder that fills blanks (BERT) from a decoder that continues text; a BERT may also be configured as a decoder."""
    names = architecture.architectures or [""]
    causal = getattr(architecture, "is_decoder", False) or names[0].endswith(("ForCausalLM", "LMHeadModel"))
    return type(architecture) in MODEL_FOR_MASKED_LM_MAPPING and not causal


def _below(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): weight for name, weight in weights.items() if name.startswith(prefix)}


def _base(config: Config) -> Config:
    """Return the configuration of the model itself: of an adapter's folder, that of its base."""
    base_file = Path(_place(config)) / BASE_FILE
    if not base_file.is_file():
        return config
    base = artifacts.read_json(str(base_file))
    if not isinstance(getattr(torch, str(base["dtype"]), None), torch.dtype):
        raise ConfigError(f"{config.path}: expected a type of numbers in {BASE_FILE}, got {base['dtype']!r}")
    dtype = base["dtype"] if config.dtype == "auto" else config.dtype
    return dataclasses.replace(config, path=base["path"], revision=base["revision"], dtype=dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _place(config: Config) -> str:
    """Return where the libraries find a model: a hub id, or a folder on this machine."""
    return local_copy(config.path) if storage.is_uri(config.path) else config.path


def _source(config: Config) -> dict[str, Any]:
    local = Path(_place(config)).is_dir()
    if not local and config.path == TINY:
        raise ConfigError("llm.path: 'tiny' stands for a model made from the data; expected the folder where it was made")
    if not local and not config.revision:
        raise ConfigError(f"llm.revision: expected the commit (40 hex digits) of {config.path}, which is no local folder, got none")
    return {"revision": config.revision or None, "local_files_only": local, "trust_remote_code": False}


def _architecture(config: Config) -> PreTrainedConfig:
    try:
        architecture = AutoConfig.from_pretrained(_place(config), **_source(config))
    except _BROKEN as error:
        raise _unusable(config, "model", error) from error
    if architecture.is_encoder_decoder:
        raise ConfigError(f"{config.path}: expected a decoder or an encoder, got an encoder-decoder ({architecture.model_type})")
    return architecture


def _auto(masked: bool) -> Any:
    return AutoModelForMaskedLM if masked else AutoModelForCausalLM


def _load_model(config: Config, architecture: PreTrainedConfig, masked: bool) -> transformers.PreTrainedModel:
    options = {
        "dtype": "auto" if config.dtype == "auto" else getattr(torch, config.dtype),
        "attn_implementation": config.attention,
        "use_safetensors": True,
    }
    try:
        model, info = _auto(masked).from_pretrained(
            _place(config), config=architecture, output_loading_info=True, **options, **_source(config)
        )
    except _BROKEN as error:
        raise _unusable(config, "model", error) from error
    model.name_or_path = config.path  # what an adapter notes as its base: another machine's copy lies elsewhere
    lost = sorted(name for name in info["missing_keys"] if name.startswith(model.base_model_prefix + ".") or config.finetune == "lora")
    if lost:
        raise ConfigError(f"{config.path}: expected all weights of {type(model).__name__}, {len(lost)} are missing, first {lost[0]}")
    return model


def _cut_head(model: transformers.PreTrainedModel, answer_ids: tuple[int, int]) -> None:
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise ConfigError(f"{model.name_or_path}: expected a vocabulary head that is one linear layer, got {type(head).__name__}")
    # Not by set_output_embeddings: BERT's would also tie two biases that an untied model keeps apart.
    name = next(name for name, module in model.named_modules() if module is head)
    model.set_submodule(name, AnswerHead(head, answer_ids))


def _adapt(model: transformers.PreTrainedModel, config: Config) -> nn.Module:
    folder = Path(_place(config))
    if (folder / BASE_FILE).is_file() and not (folder / "adapter_model.safetensors").is_file():
        raise ConfigError(f"{config.path}: expected adapter_model.safetensors, found none")
    try:
        if (folder / BASE_FILE).is_file():
            return peft.PeftModel.from_pretrained(model, str(folder), is_trainable=True, local_files_only=True)
        return peft.get_peft_model(model, _lora(config))
    except _BROKEN as error:
        raise ConfigError(f"{config.path}: no adapter fits the model: {error}") from error


def _lora(config: Config) -> peft.LoraConfig:
    return peft.LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=list(config.lora_targets) or None,
        base_model_name_or_path=config.path,
        revision=config.revision or None,
    )


def _unusable(config: Config, what: str, error: Exception) -> ConfigError:
    return ConfigError(f"{config.path}: expected a {what} in the ordinary format with safetensors weights: {error}")
