"""From a batch's captions to the conditioning of the loss: templates, dropout, cached or live encoding."""

from __future__ import annotations

import torch

from etude.base.base import Base
from etude.base.conditioning import Conditioning
from etude.base.text import encode_prompts
from etude.base.waiting import present
from etude.core.placeholder import insert_name
from etude.training.batches import Batch, Captions

PLAIN = "[caption]"


def apply_wording(base: Base, captions: Captions, wording: str, name: str, clip_skip: int) -> Captions:
    """Captions in the form of ``wording``: [caption] is replaced by the picture's caption, [name] by ``name``.

    The encode stage has already encoded the form "[caption]" without ``clip_skip``; any other is encoded here, each
    text once.
    """
    if wording == PLAIN and not clip_skip:
        return captions
    texts = {key: insert_name(wording, name).replace(PLAIN, text) for key, text in captions.texts.items()}
    with torch.no_grad(), present(base, "text"):
        encoded = {text: encode_prompts(base, [text], clip_skip) for text in sorted({"", *texts.values()})}
    return Captions(texts, {key: encoded[text] for key, text in texts.items()}, encoded[""])


def choose_dropped(batch: Batch, share: float) -> torch.Tensor:
    """Which samples lose their caption, so that the unconditional prediction is trained too: bool [B], random (CPU)."""
    return torch.rand(len(batch.names)) < share


def use_cached(batch: Batch, empty: Conditioning, share: float) -> Conditioning:
    """The cached encodings of the batch's captions, a ``share`` of them replaced by the empty text."""
    assert batch.conditioning is not None
    hidden, pooled = batch.conditioning.hidden, batch.conditioning.pooled
    if share:
        mask = choose_dropped(batch, share).to(hidden.device)[:, None, None]
        hidden = torch.where(mask, empty.hidden.to(hidden), hidden)
        if pooled is not None and empty.pooled is not None:
            pooled = torch.where(mask[:, 0], empty.pooled.to(pooled), pooled)
    return Conditioning(hidden, pooled)


def encode_live(base: Base, batch: Batch, share: float, clip_skip: int) -> Conditioning:
    """The batch's captions encoded now, because the text encoders are being trained; a ``share`` of them is empty."""
    drops = choose_dropped(batch, share).tolist() if share else [False] * len(batch.texts)
    texts = ["" if drop else text for drop, text in zip(drops, batch.texts, strict=True)]
    return encode_prompts(base, texts, clip_skip=clip_skip)
