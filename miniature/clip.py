"""Train text encoder and vision encoder together: a caption gets an embedding similar to that of its picture.

Contrastive learning as for CLIP (Radford et al., 2021, arXiv:2103.00020). The text encoder then conditions the UNet, as
in SD 1.5; both encoders together name pictures and measure how well a picture fits its prompt.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, cross_entropy, grid_sample
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from etude.core.files import replace_folder, write_json
from etude.core.params import Schema, pick
from etude.core.tensors import read_tensors, write_tensors
from etude.training.fit import fit
from etude.training.plan import Optimization
from miniature.draws import may_flip, randomiser
from miniature.earlier import as_published, begin_clip
from miniature.stage import make_report
from miniature.world import (
    FOLDER,
    OUT,
    Pictures,
    Words,
    World,
    caption,
    choose_colour,
    colour_table,
    compose,
    read_pictures,
    read_world,
)
from tasks.shell import run


class Distortion(Schema):
    """How pictures are changed before the vision tower sees them."""

    free_colours: float
    moved: float
    zoom: float
    turn: float
    shift: float
    tint: float


class Clip(Schema):
    """The ``clip`` block of params.yaml."""

    text_width: int
    text_layers: int
    text_heads: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    image_size: int
    patch_size: int
    projection: int
    distortion: Distortion
    threads: int
    training: Optimization


class StageParams(Schema):
    """The part of params.yaml that this stage reads."""

    clip: Clip
    words: Words


@dataclass(frozen=True)
class Pairs:
    """Pictures [B, 3, S, S] from -1 to 1 and their captions' tokens [B, L]; L is the length of the longest caption."""

    names: list[str]
    images: Tensor
    tokens: Tensor


def build_clip(settings: Clip, entries: int) -> CLIPModel:
    """Both towers, untrained; the text tower has the architecture of SD 1.5's."""
    text = {
        "vocab_size": entries,
        "hidden_size": settings.text_width,
        "intermediate_size": 4 * settings.text_width,
        "num_hidden_layers": settings.text_layers,
        "num_attention_heads": settings.text_heads,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "projection_dim": settings.projection,
        "bos_token_id": entries - 2,
        "eos_token_id": entries - 1,
        "pad_token_id": entries - 1,
    }
    vision = {
        "hidden_size": settings.vision_width,
        "intermediate_size": 4 * settings.vision_width,
        "num_hidden_layers": settings.vision_layers,
        "num_attention_heads": settings.vision_heads,
        "image_size": settings.image_size,
        "patch_size": settings.patch_size,
        "hidden_act": "quick_gelu",
        "projection_dim": settings.projection,
    }
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=settings.projection)
    model = CLIPModel(config)
    model.set_attn_implementation("eager")  # torch's fused attention takes twice the step's time on CPU in bf16
    return model


def train() -> None:
    """Write ``out/clip/``: a transformers folder of both towers, and ``metrics.json``."""
    if as_published("clip"):
        return
    stage_params = pick(FOLDER / "params.yaml", StageParams)
    settings, world = stage_params.clip, read_world()
    tokenizer = CLIPTokenizer.from_pretrained(OUT / "tokenizer")
    pictures = shrink(read_pictures().trained(world), settings.image_size)
    report = make_report("clip", settings.threads)
    torch.manual_seed(report.seed)
    model = build_clip(settings, len(tokenizer))
    begin_clip(model, tokenizer.get_vocab())
    model.to(report.device)

    def batches(step: int) -> Pairs:
        draw = randomiser(report.seed, "clip", step)
        return draw_pairs(pictures, world, stage_params, tokenizer, draw)

    fit(dict(model.named_parameters()), lambda batch: contrast(model, batch), batches, settings.training, report)
    model.cpu().eval()
    metrics = measure(model, tokenizer, pictures, world)
    with replace_folder(OUT / "clip") as folder:
        save_clip(model, folder)
        write_json(folder / "metrics.json", metrics)
    report.discard()


def shrink(pictures: Pictures, size: int) -> Pictures:
    """Pictures at the vision tower's size, averaged weighted by alpha, so that edges keep their colour."""
    factor = pictures.rgba.shape[-1] // size
    alpha = pictures.rgba[:, 3:].float() / 255
    small = avg_pool2d(torch.cat([pictures.rgba[:, :3].float() * alpha, alpha * 255], 1), factor)
    colour = small[:, :3] / (small[:, 3:] / 255).clamp_min(1e-3)
    rgba = torch.cat([colour.clamp(0, 255), small[:, 3:]], 1).round().to(torch.uint8)
    return Pictures(rgba, pictures.style, pictures.concept)


def draw_pairs(
    pictures: Pictures, world: World, stage_params: StageParams, tokenizer: CLIPTokenizer, draw: random.Random
) -> Pairs:
    """A batch of different pictures on random backgrounds, moved, turned and tinted a little."""
    indices = draw.sample(range(len(pictures)), stage_params.clip.training.batch_size)
    images, captions = show(pictures, indices, world, stage_params.words, stage_params.clip.distortion, draw)
    tokens = tokenizer(captions, padding=True, truncation=True, return_tensors="pt").input_ids
    return Pairs([f"{pictures.style[i]} {pictures.concept[i]}" for i in indices], images, tokens)


def show(
    pictures: Pictures, indices: list[int], world: World, words: Words, how: Distortion, draw: random.Random
) -> tuple[Tensor, list[str]]:
    """Pictures ``indices`` on backgrounds and distorted, float [B, 3, S, S] from -1 to 1, and their captions."""
    captions, colours = [], []
    for i in indices:
        colour = choose_colour(list(world.colours), words, draw)
        free = draw.random() < how.free_colours
        named = caption(pictures.style[i], pictures.concept[i], colour, words, draw)
        captions.append(named.split(" on a")[0] if free else named)
        colours.append([draw.uniform(0, 255) for _ in range(3)] if free else [float(c) for c in world.colours[colour]])
    ground = torch.tensor(colours)
    flips = [may_flip(pictures.concept[i]) and draw.random() < 0.5 for i in indices]
    return distort(compose(pictures.rgba[indices], ground), ground, flips, how, draw), captions


def distort(images: Tensor, colours: Tensor, flips: list[bool], how: Distortion, draw: random.Random) -> Tensor:
    """Flip where ``flips`` is true; shrink, turn and move a share of the pictures; tint every one a little."""
    rows = []
    for flip in flips:
        moved = draw.random() < how.moved
        scale = draw.uniform(0.95, how.zoom) if moved else 1.0
        angle = draw.uniform(-how.turn, how.turn) if moved else 0.0
        x, y = (draw.uniform(-how.shift, how.shift) if moved else 0.0 for _ in range(2))
        sine, cosine, sign = scale * math.sin(angle), scale * math.cos(angle), -1.0 if flip else 1.0
        rows.append([[sign * cosine, -sine, x], [sign * sine, cosine, y]])
    ground = (colours / 127.5 - 1)[:, :, None, None]
    grid = affine_grid(torch.tensor(rows), list(images.shape), align_corners=False)
    placed = grid_sample(images - ground, grid, align_corners=False) + ground
    gains = torch.tensor([draw.uniform(1 - how.tint, 1 + how.tint) for _ in range(3 * len(rows))])
    return (placed * gains.view(-1, 3, 1, 1)).clamp(-1, 1)


def contrast(model: CLIPModel, batch: Pairs) -> Tensor:
    """The symmetric cross-entropy over the batch, for matching each caption to its picture."""
    made = model(input_ids=batch.tokens.to(model.device), pixel_values=batch.images.to(model.device))
    logits = made.logits_per_text.float()
    target = torch.arange(len(logits), device=model.device)
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


@torch.no_grad()
def measure(model: CLIPModel, tokenizer: CLIPTokenizer, pictures: Pictures, world: World) -> dict[str, float]:
    """How often a picture, on a colour never named in training, is named rightly and is found by its caption."""
    concepts = list(world.concepts)
    names = tokenizer([f"a picture of a {c}" for c in concepts], padding=True, return_tensors="pt").input_ids
    text = model(input_ids=names, pixel_values=torch.zeros(1, 3, *pictures.rgba.shape[-2:])).text_embeds
    draw = randomiser("measure")
    table = colour_table(world)
    colours = torch.stack([(table[draw.randrange(12)] + table[draw.randrange(12)]) / 2 for _ in pictures.style])
    images = compose(pictures.rgba, colours)
    seen = model(input_ids=names[:1], pixel_values=images).image_embeds
    similarity = seen @ text.T
    right = similarity.argmax(1) == torch.tensor([concepts.index(c) for c in pictures.concept])
    return {"named_rightly": round(float(right.float().mean()), 4)}


def save_clip(model: CLIPModel, folder: Path) -> None:
    """Write the transformers folder of the model; its bytes depend only on the weights."""
    model.config.save_pretrained(folder)
    write_tensors(folder / "model.safetensors", model.state_dict(), {"format": "pt"})


def read_clip(folder: Path = OUT / "clip") -> CLIPModel:
    """The trained model, frozen."""
    model = CLIPModel(CLIPConfig.from_pretrained(folder))
    model.set_attn_implementation("eager")
    model.load_state_dict(read_tensors(folder / "model.safetensors")[0])
    return model.eval().requires_grad_(False)


if __name__ == "__main__":
    run(train)
