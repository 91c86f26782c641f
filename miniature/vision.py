"""Train the vision tower further, against the finished text tower, so that it names pictures well.

The UNet's training needs only the text tower, so the vision tower can be trained longer. Text features do not change
here, so they are computed once and a step costs a third. Besides the contrastive loss in a batch, the loss has two
parts: name every picture among all concepts, and find it by its name in the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from transformers import CLIPModel, CLIPTokenizer

from etude.core.files import replace_folder, write_json
from etude.core.params import Schema, pick
from etude.training.fit import fit
from etude.training.plan import Optimization
from miniature.clip import Distortion, measure, read_clip, save_clip, show, shrink
from miniature.draws import randomiser
from miniature.earlier import as_published
from miniature.stage import in_parts, make_report
from miniature.world import FOLDER, OUT, Words, World, read_pictures, read_world
from tasks.shell import run


class Vision(Schema):
    """The ``vision`` block of params.yaml."""

    names_weight: float
    distortion: Distortion
    threads: int
    training: Optimization


class StageParams(Schema):
    """The part of params.yaml that this stage reads."""

    vision: Vision
    words: Words


@dataclass(frozen=True)
class Seen:
    """Pictures [B, 3, S, S], their captions' text features [B, d] before the projection, and their concepts [B]."""

    names: list[str]
    images: Tensor
    text: Tensor
    concepts: Tensor


def train() -> None:
    """Write ``out/vision/``: the transformers folder of both towers, and ``metrics.json``."""
    if as_published("vision"):
        return
    stage_params = pick(FOLDER / "params.yaml", StageParams)
    settings, world = stage_params.vision, read_world()
    report = make_report("vision", settings.threads)
    tokenizer = CLIPTokenizer.from_pretrained(OUT / "tokenizer")
    model = read_clip().to(report.device)
    pictures = shrink(read_pictures().trained(world), model.config.vision_config.image_size)
    read = reader(model, tokenizer)
    names = name_features(read, world)
    concepts = list(world.concepts)

    def batches(step: int) -> Seen:
        draw = randomiser(report.seed, "vision", step)
        indices = draw.sample(range(len(pictures)), settings.training.batch_size)
        images, captions = show(pictures, indices, world, stage_params.words, settings.distortion, draw)
        truth = torch.tensor([concepts.index(pictures.concept[i]) for i in indices])
        labels = [f"{pictures.style[i]} {pictures.concept[i]}" for i in indices]
        return Seen(labels, images.to(report.device), read(captions), truth.to(report.device))

    moving = {name: value for name, value in model.named_parameters() if not name.startswith("text_model.")}
    for value in moving.values():
        value.requires_grad_(True)
    fit(moving, lambda batch: seen_loss(model, batch, names, settings.names_weight), batches, settings.training, report)
    model.cpu().eval()
    with replace_folder(OUT / "vision") as folder:
        save_clip(model, folder)
        write_json(folder / "metrics.json", measure(model, tokenizer, pictures, world))
    report.discard()


def reader(model: CLIPModel, tokenizer: CLIPTokenizer) -> Callable[[list[str]], Tensor]:
    """Texts → the text tower's pooled features [B, d], each text read once."""
    known: dict[str, Tensor] = {}

    def read(texts: list[str]) -> Tensor:
        new = sorted({text for text in texts if text not in known})
        if new:
            tokens = tokenizer(new, padding=True, truncation=True, return_tensors="pt").input_ids.to(model.device)
            with torch.no_grad():
                pooled = [model.text_model(input_ids=part).pooler_output.float() for part in in_parts(tokens, 256)]
            known.update(zip(new, torch.cat(pooled), strict=True))
        return torch.stack([known[text] for text in texts])

    return read


def name_features(read: Callable[[list[str]], Tensor], world: World) -> Tensor:
    """[templates, concepts, d]: every concept by its bare name and in every style."""
    templates = ["{}", "a {}", "a picture of a {}", *(f"{style} {{}}" for style in world.styles)]
    features = []
    for template in templates:
        features.append(read([template.format(name) for name in world.concepts]))
    return torch.stack(features)


def seen_loss(model: CLIPModel, batch: Seen, names: Tensor, weight: float) -> Tensor:
    """Contrast within the batch, naming among all concepts, and finding a name's picture in the batch."""
    seen = normalize(
        model.visual_projection(model.vision_model(pixel_values=batch.images).pooler_output).float(), dim=1
    )
    scale = model.logit_scale.exp().clamp(max=100)
    logits = scale * seen @ normalize(model.text_projection(batch.text).float(), dim=1).T
    own = torch.arange(len(logits), device=logits.device)
    contrast = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
    called = normalize(normalize(model.text_projection(names).float(), dim=-1).mean(0), dim=1)
    named = scale * seen @ called.T
    shown = batch.concepts[:, None] == batch.concepts  # other pictures of the same concept do not count as wrong
    shown.fill_diagonal_(False)
    found = named[:, batch.concepts].T.masked_fill(shown, float("-inf"))
    return contrast + weight * (cross_entropy(named, batch.concepts) + cross_entropy(found, own)) / 2


if __name__ == "__main__":
    run(train)
