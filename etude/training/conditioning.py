"""From a batch's captions to the conditioning of the loss: templates, dropout, cached or live encoding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from shutil import disk_usage

import torch
from torch import Tensor

from etude.base.base import Base
from etude.base.conditioning import Conditioning
from etude.base.text import encode_prompts
from etude.base.waiting import present, sent
from etude.core.errors import FormatError, InputError, TrainingError
from etude.core.files import read_json, replace_folder, write_json
from etude.core.mixins import TrainsText
from etude.core.placeholder import CAPTION, FILEWORDS, insert_name
from etude.core.shards import Shards, text_entry, write_shards
from etude.core.store import key as key_of
from etude.training.batches import Batch, Batches, Captions, Images, captions_of
from etude.training.processes import is_main
from etude.training.report import CONSOLE, Report
from etude.training.tags import LearnsCaptions, vary

PLAIN = CAPTION
LARGE = 10**9  # bytes: if encoded texts need more, their number and size are printed
MADE = "made.json"  # a file beside the shards: the key of the base, settings and texts that they were made from


def captioned(
    base: Base, images: Images, captions: Captions, params: LearnsCaptions, report: Report
) -> tuple[Batches, Captions, Callable[[Batch], Conditioning]]:
    """Batches of captioned pictures, the captions as they are learned, and the function from a batch to its texts.

    Texts are encoded once, or again for each batch if the text encoders are trained.
    """
    live = isinstance(params, TrainsText) and params.text_encoder_rate > 0
    wording = (params.caption, params.word, params.clip_skip)
    varied = vary(captions, params.tags, report.seed)
    learned = apply_wording(base, varied, *wording, report.texts, encoded=not live)
    batches = Batches(
        images,
        learned,
        batch_size=params.training.batch_size,
        seed=report.seed,
        device=str(base.device),
        encoded=not live,
    )

    def read(batch: Batch) -> Conditioning:
        if live:
            return encode_live(base, batch, params.caption_dropout, params.clip_skip)
        return use_cached(batch, learned.empty, params.caption_dropout)

    return batches, learned, read


def apply_wording(
    base: Base, captions: Captions, wording: str, name: str, clip_skip: int, folder: Path, *, encoded: bool = True
) -> Captions:
    """Captions, and their variants, in the form of ``wording``: [caption] (or A1111's [filewords]) is replaced by the
    picture's caption, [name] by ``name``.

    The encode stage has already encoded the form "[caption]" without ``clip_skip``; any other is encoded here, each
    text once, and written to shards in ``folder``. With ``encoded`` False, captions have texts only.
    """
    template = insert_name(wording, name).replace(FILEWORDS, CAPTION)

    def worded(form: Captions) -> Captions:
        return Captions({key: template.replace(CAPTION, text) for key, text in form.texts.items()}, {}, captions.empty)

    others = template != PLAIN or clip_skip or captions.variants
    if others or not encoded:
        variants = tuple(worded(variant) for variant in captions.variants)
        captions = replace(worded(captions), variants=variants)
    if not encoded:
        return captions
    if others:
        captions = encode_texts(base, captions, clip_skip, folder)
    return replace(captions, empty=captions.empty.to(base.device))


@torch.no_grad()
def encode_texts(base: Base, captions: Captions, clip_skip: int, folder: Path) -> Captions:
    """The captions with the encodings of their forms, each text encoded once and written to shards in ``folder``.

    A resumed run reads them from there.
    """
    texts = {""}.union(*(form.texts.values() for form in captions.forms))
    entries = {text_entry(text): text for text in texts}

    def read(entry: str) -> dict[str, Tensor]:
        state = encode_prompts(base, [entries[entry]], clip_skip)
        named = {"hidden": state.hidden, "pooled": state.pooled}
        return {key: tensor[0] for key, tensor in named.items() if tensor is not None}

    place = [str(base.path), str(base.device), str(base.dtype)]
    made = key_of(place, clip_skip, base.reading.model_dump(), sorted(entries))
    if base.words or (shards := _written(folder, made)) is None:
        with present(base, "text"), replace_folder(folder) as draft:
            _refuse_too_many(draft, len(entries), read(text_entry("")), varied=bool(captions.variants))
            write_shards(draft, entries, read)
            write_json(draft / MADE, made)
        shards = Shards(("", folder))
    forms = tuple(captions_of(shards, form.texts) for form in captions.forms)
    return replace(captions, empty=forms[0].empty, variants=forms) if captions.variants else forms[0]


def _refuse_too_many(folder: Path, count: int, encoding: Mapping[str, Tensor], *, varied: bool) -> None:
    """Raise TrainingError if the disk of ``folder`` has no room for ``count`` encodings; print their size if large.

    Encodings of other processes of the run are not counted, because some may be on the disk already.
    """
    size, free = count * sum(tensor.nbytes for tensor in encoding.values()), disk_usage(folder).free
    if size > free:
        fault = f"{count:,} encoded texts need {size / 1e9:.1f} GB on this disk, and {free / 1e9:.1f} GB are free"
        action = "free disk space, or lower `tags.variants`" if varied else "free disk space"
        raise TrainingError(folder.parent, fault, action)
    if size > LARGE and is_main():
        told = f"encoding {count:,} texts once, {size / 1e9:.1f} GB in {folder.parent}"
        CONSOLE.print(told, highlight=False, soft_wrap=True)


def _written(folder: Path, made: str) -> Shards | None:
    """The shards in ``folder``; None if they have another key than ``made``, or are incomplete."""
    try:
        return Shards(("", folder)) if read_json(folder / MADE) == made else None
    except (FormatError, InputError):
        return None


def choose_dropped(batch: Batch, share: float) -> torch.Tensor:
    """Which samples lose their caption, so that the unconditional prediction is trained too: bool [B], random (CPU)."""
    return torch.rand(len(batch.names)) < share


def use_cached(batch: Batch, empty: Conditioning, share: float) -> Conditioning:
    """The cached encodings of the batch's captions, a ``share`` of them replaced by the empty text."""
    assert batch.conditioning is not None
    hidden, pooled = batch.conditioning.hidden, batch.conditioning.pooled
    if share:
        mask = sent(choose_dropped(batch, share), hidden.device)[:, None, None]
        hidden = torch.where(mask, empty.hidden.to(hidden), hidden)
        if pooled is not None and empty.pooled is not None:
            pooled = torch.where(mask[:, 0], empty.pooled.to(pooled), pooled)
    return Conditioning(hidden, pooled)


def encode_live(base: Base, batch: Batch, share: float, clip_skip: int) -> Conditioning:
    """The batch's captions encoded now, because the text encoders are being trained; a ``share`` of them is empty."""
    drops = choose_dropped(batch, share).tolist() if share else [False] * len(batch.texts)
    texts = ["" if drop else text for drop, text in zip(drops, batch.texts, strict=True)]
    return encode_prompts(base, texts, clip_skip=clip_skip)
