"""Small tokenizers and models of each family, made on the spot and saved as ordinary transformers folders."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from components.prompts import click

TITLES = ("Toy Story (1995)", "Twelve Monkeys (1995)", "Se7en", "Heat (1995)", "Amélie (2001)", "GoldenEye (1995)")
PROFILE = "gender: male; age: 24; occupation: technician"
WIDTH = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "initializer_range": 0.3}


def example(history: int = 4, target: str = TITLES[1], answer: bool | None = True) -> click.ClickExample:
    lines = tuple((TITLES[i % len(TITLES)], float(i % 5 + 1)) for i in range(history))
    return click.ClickExample(PROFILE, lines, target, answer, "movie", 1.0, 5.0)


def corpus() -> list[str]:
    prompts = [click.render(example(i, title, bool(i % 2))) for i, title in enumerate(TITLES)]
    return [prompt.text + prompt.target for prompt in prompts] * 3


def byte_level(regex: str | None = None, bos: bool = False) -> PreTrainedTokenizerBase:
    """GPT-2's kind; with `regex` that of Llama 3 and Qwen, whose words may hold the line break after them."""
    tokenizer = Tokenizer(models.BPE())
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex is None)
    split = [pre_tokenizers.Split(Regex(regex), "isolated")] if regex else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, plain])
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=480, initial_alphabet=alphabet, show_progress=False))
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(["<tool_call>"])  # an added token that is not special
    if bos:
        start = ("<|im_start|>", tokenizer.token_to_id("<|im_start|>"))
        tokenizer.post_processor = processors.TemplateProcessing(single="<|im_start|> $A", special_tokens=[start])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


def sentencepiece(legacy: bool) -> PreTrainedTokenizerBase:
    """Llama 2's kind: spaces are part of words, a first word gets one too, bytes stand in for unknown characters.

    `legacy` writes the prefix as a normalizer, as older tokenizer.json files do.
    """
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    lines = [line for text in corpus() for line in text.splitlines()]
    trained.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    words, merges = trained.get_vocab(), _merges(trained)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocab = {word: row for row, word in enumerate([*special, *sorted(words, key=lambda word: words[word])])}
    if not legacy:
        return LlamaTokenizer(vocab=vocab, merges=merges, add_bos_token=True)
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", vocab["<s>"])])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def word_piece() -> PreTrainedTokenizerBase:
    trained = BertTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trained._tokenizer.train_from_iterator(corpus(), trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False))
    return BertTokenizer(vocab=trained.get_vocab())


def roberta() -> PreTrainedTokenizerBase:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True)]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=480, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": special[-1]}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, cls_token="<s>", sep_token="</s>", **names)


def unigram() -> PreTrainedTokenizerBase:
    """T5's kind, whose word list holds the special tokens, so that a text could spell them."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    special = ["<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(
        corpus(), trainers.UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


QWEN_WORDS = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
TOKENIZERS = {
    "gpt2": byte_level,
    "qwen": lambda: byte_level(QWEN_WORDS),
    "llama3": lambda: byte_level(QWEN_WORDS, bos=True),
    "llama2": lambda: sentencepiece(legacy=False),
    "llama2-legacy": lambda: sentencepiece(legacy=True),
    "bert": word_piece,
    "roberta": roberta,
}
MASKED = {"bert", "roberta"}


def model(name: str, tokenizer: PreTrainedTokenizerBase, tied: bool, layers: int) -> PreTrainedModel:
    size = {"vocab_size": len(tokenizer), "tie_word_embeddings": tied, **WIDTH, "num_hidden_layers": layers}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        if name == "gpt2":
            return GPT2LMHeadModel(GPT2Config(n_positions=512, **size))
        if name == "qwen2":
            return Qwen2ForCausalLM(Qwen2Config(num_key_value_heads=2, **size))
        if name == "qwen3":
            return Qwen3ForCausalLM(Qwen3Config(num_key_value_heads=2, head_dim=8, **size))
        if name == "bert":
            return _biased(BertForMaskedLM(BertConfig(pad_token_id=tokenizer.pad_token_id, **size)))
        if name == "roberta":
            positions = {"max_position_embeddings": 514, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
            return _biased(RobertaForMaskedLM(RobertaConfig(**positions, **size)))
        return LlamaForCausalLM(LlamaConfig(bos_token_id=None, eos_token_id=tokenizer.eos_token_id, **size))


MODELS = {"llama": "llama2", "qwen2": "qwen", "qwen3": "qwen", "gpt2": "gpt2", "bert": "bert", "roberta": "roberta"}


def save(name: str, folder: Path, tied: bool = True, layers: int = 3) -> Path:
    """Write a random model of this family and its tokenizer."""
    tokenizer = TOKENIZERS[MODELS[name]]()
    tokenizer.save_pretrained(folder)
    model(name, tokenizer, tied, layers).save_pretrained(folder)
    return folder


def _biased(model: PreTrainedModel) -> PreTrainedModel:
    torch.nn.init.normal_(model.get_output_embeddings().bias)
    return model


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    return [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
