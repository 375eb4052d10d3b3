"""A Llama as one plain torch graph that reads a user's prefix once for all candidates: what other engines are given. Needs torch alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class SharedPrefixLlama(nn.Module):
    """forward(prefix [P], suffixes [C, T] padded on the right, last [C]) -> the logits of No and Yes at each suffix's last token."""

    def __init__(self, weights: dict[str, Tensor], config: dict[str, Any], answer_ids: tuple[int, int]) -> None:
        """`weights` and `config` are those of a transformers folder."""
        super().__init__()
        self.heads, self.eps = config["num_attention_heads"], config["rms_norm_eps"]
        self.width = config["hidden_size"] // self.heads
        theta = config["rope_parameters"]["rope_theta"]
        self.register_buffer("turns", 1.0 / theta ** (torch.arange(0, self.width, 2) / self.width))
        self.register_buffer("embeddings", weights["model.embed_tokens.weight"])
        self.register_buffer("head", weights.get("lm_head.weight", weights["model.embed_tokens.weight"])[list(answer_ids)])
        self.register_buffer("norm", weights["model.norm.weight"])
        self.layers = nn.ModuleList(_Layer(weights, f"model.layers.{number}.") for number in range(config["num_hidden_layers"]))

    def forward(self, prefix: Tensor, suffixes: Tensor, last: Tensor) -> Tensor:
        p = functional.embedding(prefix[None], self.embeddings)
        s = functional.embedding(suffixes, self.embeddings)
        length, steps = p.shape[1], s.shape[1]
        to_prefix, to_suffix = self._turns(0, length), self._turns(length, steps)
        future_P, future_T = (torch.ones(count, count, dtype=torch.bool).triu(1) for count in (length, steps))
        for layer in self.layers:
            q, k, v = self._projected(layer, p, to_prefix)
            scores = (q @ k.transpose(-1, -2)).masked_fill(future_P, float("-inf"))
            p = self._rest(layer, p, scores.softmax(-1) @ v)
            sq, sk, sv = self._projected(layer, s, to_suffix)
            # The prefix's keys and values, [1, H, P, E], meet all candidates in one product and are not repeated.
            flat = sq.transpose(0, 1).flatten(1, 2)
            by_prefix = (flat @ k[0].transpose(-1, -2)).unflatten(1, (-1, steps)).transpose(0, 1)
            weights = torch.cat([by_prefix, (sq @ sk.transpose(-1, -2)).masked_fill(future_T, float("-inf"))], -1).softmax(-1)
            seen = (weights[..., :length].transpose(0, 1).flatten(1, 2) @ v[0]).unflatten(1, (-1, steps)).transpose(0, 1)
            s = self._rest(layer, s, seen + weights[..., length:] @ sv)
        answers = s[torch.arange(s.shape[0]), last]
        return functional.linear(self._normed(answers, self.norm), self.head)

    def _turns(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        angles = torch.arange(start, start + count).float()[:, None] * self.turns
        angles = torch.cat([angles, angles], -1)
        return angles.cos(), angles.sin()

    def _projected(self, layer: Any, x: Tensor, turns: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        x = self._normed(x, layer.input_layernorm)
        q, k, v = (
            functional.linear(x, each).unflatten(-1, (self.heads, self.width)).transpose(1, 2) for each in (layer.q, layer.k, layer.v)
        )
        return _turned(q, turns) * self.width**-0.5, _turned(k, turns), v

    def _rest(self, layer: Any, x: Tensor, seen: Tensor) -> Tensor:
        x = x + functional.linear(seen.transpose(1, 2).flatten(2), layer.o)
        inner = self._normed(x, layer.post_attention_layernorm)
        return x + functional.linear(functional.silu(functional.linear(inner, layer.gate)) * functional.linear(inner, layer.up), layer.down)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return x * (x.pow(2).mean(-1, keepdim=True) + self.eps).rsqrt() * weight


class _Layer(nn.Module):
    def __init__(self, weights: dict[str, Tensor], start: str) -> None:
        super().__init__()
        names = {name: f"self_attn.{name}_proj" for name in "qkvo"} | {name: f"mlp.{name}_proj" for name in ("gate", "up", "down")}
        for name, place in {**names, **{name: name for name in ("input_layernorm", "post_attention_layernorm")}}.items():
            self.register_buffer(name, weights[f"{start}{place}.weight"])


def _turned(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * turns[0] + torch.cat([-second, first], -1) * turns[1]
