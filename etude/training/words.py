"""Initial values of the embedding rows of a new word."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from etude.base.base import Base


def starting_rows(base: Base, words: str, count: int) -> tuple[Tensor, ...]:
    """[count, d] float32 for each text encoder: row i is the embedding of token ⌊i·m/count⌋ of the m in ``words``.

    So one word is repeated, and several words are spread over the rows (A1111's rule); without words, rows are zero.
    """
    pairs = zip(base.tokenizers, base.text_encoders, strict=True)
    return tuple(_rows(tokenizer, encoder, words, count) for tokenizer, encoder in pairs)


def _rows(tokenizer: Any, encoder: Any, words: str, count: int) -> Tensor:
    table: Tensor = encoder.get_input_embeddings().weight.detach().float()
    ids = tokenizer(words, add_special_tokens=False)["input_ids"]
    if not ids:
        return torch.zeros(count, table.shape[1], device=table.device)
    return table[[ids[i * len(ids) // count] for i in range(count)]].clone()
