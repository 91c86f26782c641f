"""Encode every caption that can be drawn once, so that the UNet trains without the text encoder."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from etude.core.files import replace_folder, write_json
from etude.core.params import Schema, pick
from etude.core.randomness import make_deterministic
from etude.core.tensors import write_tensors
from miniature.clip import read_clip
from miniature.draws import randomiser
from miniature.world import FOLDER, OUT, Words, World, background, read_world
from tasks.shell import run

BATCH = 64  # captions at a time: only speed depends on it


class Encode(Schema):
    """The ``encode`` block of params.yaml."""

    threads: int


class StageParams(Schema):
    """The part of params.yaml that this stage reads."""

    encode: Encode
    words: Words


def encode() -> None:
    """Write ``out/texts/`` with the text tower of the stage *clip*."""
    stage_params = pick(FOLDER / "params.yaml", StageParams)
    make_deterministic(stage_params.encode.threads)
    write_texts(read_clip(), read_world(), stage_params.words)


def write_texts(clip: CLIPModel, world: World, words: Words) -> None:
    """Write ``out/texts/``: hidden, float16 [captions, 77, d], and the key of each caption."""
    captions = all_captions(world, words)
    tokenizer = CLIPTokenizer.from_pretrained(OUT / "tokenizer")
    with replace_folder(OUT / "texts") as folder:
        write_tensors(folder / "texts.safetensors", {"hidden": texts(clip, tokenizer, list(captions.values()))})
        write_json(folder / "index.json", list(captions))


def all_captions(world: World, words: Words) -> dict[str, str]:
    """The caption of each key ``style|concept|colour`` (parts left out are empty), and the empty caption first.

    Some have an opening, the same one every time, so the UNet sees openings without many more captions to encode.
    """
    captions = {"||": ""}
    for style in ("", *world.styles):
        for concept in world.concepts:
            for colour in ("", *world.colours):
                key = f"{style}|{concept}|{colour}"
                draw = randomiser("opening", key)
                opening = draw.choice(words.openings) if draw.random() < words.opening else ""
                end = background(colour) if colour else ""
                captions[key] = " ".join(filter(None, (opening, style, concept, end)))
    return captions


@torch.no_grad()
def texts(clip: CLIPModel, tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """The text tower's last states, float16 [N, 77, d]."""
    parts = []
    for start in range(0, len(captions), BATCH):
        batch = captions[start : start + BATCH]
        tokens = tokenizer(batch, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        parts.append(clip.text_model(input_ids=tokens.to(clip.device)).last_hidden_state.half().cpu())
    return torch.cat(parts)


if __name__ == "__main__":
    run(encode)
