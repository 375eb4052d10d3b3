"""A language model that answers Yes or No: any transformer, its vocabulary head cut down to two rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.llm import packed_training
from components.llm.tokens import TokenLayout
from components.types import LlmOutput, TokenBatch


class AnswerHead(nn.Linear):
    """The rows of a vocabulary head that belong to the answers, [..., H] -> [..., 2] (no, yes).

    It owns the whole weight and bias, the very parameters of the head it replaces and under the same names, so weight
    tying and checkpoints stay as they are. It selects the rows inside its own forward: that is where ZeRO-3 has gathered
    the weight; elsewhere it would be empty.
    """

    rows: Tensor

    def __init__(self, head: nn.Linear, answer_ids: tuple[int, int]) -> None:
        super().__init__(head.in_features, head.out_features, bias=head.bias is not None, device="meta")
        self.weight, self.bias = head.weight, head.bias
        self.register_buffer("rows", torch.tensor(answer_ids, device=head.weight.device), persistent=False)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that nn.Linear has
        # In float32 whatever the model's precision: the difference of two bfloat16 logits near 10 comes in steps of 0.06.
        with torch.autocast(input.device.type, enabled=False):
            bias = None if self.bias is None else self.bias[self.rows].float()
            return functional.linear(input.float(), self.weight[self.rows].float(), bias)


class ClickLlm(nn.Module):
    """A transformer and its answer: `forward` runs its blocks and two rows of its vocabulary head."""

    def __init__(self, language_model: nn.Module, layout: TokenLayout, hidden_size: int, blocks: int) -> None:
        """`language_model` is called as transformers' models are; its vocabulary head must be an AnswerHead already."""
        super().__init__()
        self.language_model = language_model
        self.layout, self.hidden_size, self.blocks = layout, hidden_size, blocks

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ClickLlm:
        """Move or cast the model, but leave its buffers in the precision they have.

        Rotary frequencies rounded to bfloat16 (as `bfloat16()` and DeepSpeed would) turn far positions by other angles, so
        that a model trained in bfloat16 would be scored with positions it never saw.
        """
        exact = {name: buffer for name, buffer in self.named_buffers() if buffer.is_floating_point()}
        super()._apply(fn, recurse)
        for name, buffer in exact.items():
            owner, _, leaf = name.rpartition(".")
            module = self.get_submodule(owner)
            setattr(module, leaf, buffer.to(getattr(module, leaf).device))
        return self

    def forward(self, batch: TokenBatch, with_hidden: bool = True) -> LlmOutput:
        """`with_hidden=False` leaves `hidden` empty and saves its memory."""
        if self.training and torch.is_grad_enabled() and batch.token_ids_BT.device.type == "cpu" and not self.layout.masked:
            model = packed_training.understood(self.language_model)
            if model is not None:
                return packed_training.answer(model, packed_training.Row.of(batch), with_hidden)
        row = torch.arange(len(batch.answer_B), device=batch.answer_B.device)
        if self.layout.masked:
            output = self.language_model(batch.token_ids_BT, attention_mask=batch.mask_BT, output_hidden_states=with_hidden)
        else:
            # A causal model never sees the padding on the right of the answer, and is faster without a mask.
            output = self.language_model(batch.token_ids_BT, use_cache=False, output_hidden_states=with_hidden)
        # The first hidden state is the embeddings, the last one is the last block's after the final norm.
        hidden = tuple(state[row, batch.answer_B] for state in output.hidden_states[1:]) if with_hidden else ()
        return LlmOutput(output.logits[row, batch.answer_B], hidden)
