"""A tiny language model made from the data itself, so that the whole chain runs without downloads on any machine."""

from __future__ import annotations

import json
from collections.abc import Iterator

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from components.llm.tiny_config import Config
from components.llm.tokens import special_id
from components.prompts import click

DEFAULT = Config()
PAD, END = "<|pad|>", "<|end|>"


def make(folder: str, texts: Iterator[str], config: Config = DEFAULT) -> None:
    """Train a tokenizer on the texts and write it with a randomly initialised model as an ordinary transformers folder.

    The same texts and configuration give the same bytes.
    """
    transformers.utils.logging.disable_progress_bar()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=_tokenizer(texts, config.vocabulary_size), pad_token=PAD, eos_token=END)
    tokenizer.save_pretrained(folder)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        max_position_embeddings=config.max_positions,
        tie_word_embeddings=config.tied,
        bos_token_id=None,
        eos_token_id=special_id(tokenizer, "eos"),
        pad_token_id=special_id(tokenizer, "pad"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        LlamaForCausalLM(shape).save_pretrained(folder)


def _tokenizer(texts: Iterator[str], vocabulary_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    spare = sum(map(len, click.ANSWERS))  # each missing merge of an answer word takes one token more
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - spare,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    for word in click.ANSWERS:
        tokenizer = _with_word(tokenizer, word)
    return tokenizer


def _with_word(tokenizer: Tokenizer, word: str) -> Tokenizer:
    """Add merges until the word is a single token."""
    while len(pieces := tokenizer.encode(word).tokens) > 1:
        state = json.loads(tokenizer.to_str())
        model = state["model"]
        model["merges"].append(pieces[:2])
        model["vocab"].setdefault(pieces[0] + pieces[1], len(model["vocab"]))
        tokenizer = Tokenizer.from_str(json.dumps(state))
    return tokenizer
