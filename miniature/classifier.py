"""Train the classifier of concept, style and background. It only evaluates: no model is conditioned on it.

Only the classifier sees the held-out concepts and the held-out style. It should name drawn pictures as well as real
ones, so it learns on pictures with the faults of drawn ones: moved, blurred, noisy, off-colour, and some through the
autoencoder, with errors in their latents.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn.functional import cross_entropy

from etude.core.files import replace_folder, write_json
from etude.core.params import Schema, pick
from etude.core.tensors import write_tensors
from etude.evaluation.network import Network
from etude.training.fit import fit
from etude.training.plan import Optimization
from miniature.clip import Distortion, distort
from miniature.draws import may_flip, randomiser
from miniature.earlier import as_published
from miniature.softness import Softness, soften
from miniature.stage import in_parts, make_report
from miniature.vae import read_vae, reconstruct
from miniature.world import FOLDER, OUT, Pictures, World, background, colour_table, compose, read_pictures, read_world
from tasks.shell import run

UNKNOWN = -100  # cross_entropy ignores this label


class Classifier(Schema):
    """The ``classifier`` block of params.yaml."""

    widths: list[int]
    blocks: int
    groups: int
    grid: int
    rank: int
    given: dict[str, str]
    label_smoothing: float
    shade: float
    distortion: Distortion
    softness: Softness
    threads: int
    training: Optimization


class StageParams(Schema):
    """The part of params.yaml that this stage reads."""

    classifier: Classifier


@dataclass(frozen=True)
class Shown:
    """Pictures [B, 3, S, S] from −1 to 1 and the number of the right label of each part [B]."""

    names: list[str]
    images: Tensor
    labels: dict[str, Tensor]


def labels(world: World) -> dict[str, list[str]]:
    """What a picture can show, worded as in captions; held-out words are among the rest."""
    return {
        "concept": [*world.concepts, *world.held_out_concepts],
        "style": [*world.styles, *world.held_out_styles],
        "background": [background(colour) for colour in world.colours],
    }


def build_network(settings: Classifier, world: World) -> Network:
    """The classifier's network, untrained."""
    parts = {part: len(known) for part, known in labels(world).items()}
    shape = settings.widths, settings.blocks, settings.groups, settings.grid, settings.rank, settings.given
    return Network(*shape, parts)


def train() -> None:
    """Write ``out/classifier/``: ``config.json``, ``model.safetensors`` (float16) and ``metrics.json``."""
    if as_published("classifier"):
        return
    settings, world = pick(FOLDER / "params.yaml", StageParams).classifier, read_world()
    pictures, vae = read_pictures(), read_vae()
    report = make_report("classifier", settings.threads)
    torch.manual_seed(report.seed)
    network = build_network(settings, world).to(report.device)
    vae.to(report.device)

    def batches(step: int) -> Shown:
        draw = randomiser(report.seed, "judge", step)  # the name with which the published weights were trained
        indices = draw.sample(range(len(pictures)), min(settings.training.batch_size, len(pictures)))
        shown = show(pictures, indices, world, settings, draw)
        images = soften(shown.images.to(report.device), vae, settings.softness, draw)
        return Shown(shown.names, images, {part: label.to(report.device) for part, label in shown.labels.items()})

    def loss(batch: Shown) -> Tensor:
        return naming_loss(network, batch, settings.label_smoothing)

    fit(dict(network.named_parameters()), loss, batches, settings.training, report)
    with replace_folder(OUT / "classifier") as folder:
        save_classifier(folder, network.cpu(), settings, world, pictures.rgba.shape[-1])
        write_json(folder / "metrics.json", measure(network.eval(), vae.cpu(), pictures, world))
    report.discard()


def show(pictures: Pictures, indices: Sequence[int], world: World, settings: Classifier, draw: random.Random) -> Shown:
    """Pictures ``indices``, distorted; backgrounds differ a little from the twelve colours, or have any colour."""
    names = list(world.colours)
    chosen, colours = [], []
    for _ in indices:
        number = draw.randrange(len(names))
        free = draw.random() < settings.distortion.free_colours
        shade = [draw.uniform(-settings.shade, settings.shade) for _ in range(3)]
        plain = [c + s for c, s in zip(world.colours[names[number]], shade, strict=True)]
        colours.append([draw.uniform(0, 255) for _ in range(3)] if free else plain)
        chosen.append(UNKNOWN if free else number)
    ground = torch.tensor(colours).clamp(0, 255)
    flips = [may_flip(pictures.concept[i]) and draw.random() < 0.5 for i in indices]
    images = distort(compose(pictures.rgba[list(indices)], ground), ground, flips, settings.distortion, draw)
    labelled = [f"{pictures.style[i]} {pictures.concept[i]}" for i in indices]
    return Shown(labelled, images, numbers(pictures, indices, chosen, world))


def numbers(pictures: Pictures, indices: Sequence[int], colours: Sequence[int], world: World) -> dict[str, Tensor]:
    """The number of the right label of each part [B], for pictures ``indices`` on ``colours``."""
    known = labels(world)
    concepts = {label: number for number, label in enumerate(known["concept"])}
    styles = {label: number for number, label in enumerate(known["style"])}
    return {
        "concept": torch.tensor([concepts[pictures.concept[i]] for i in indices]),
        "style": torch.tensor([styles[pictures.style[i]] for i in indices]),
        "background": torch.tensor(list(colours)),
    }


def naming_loss(network: Network, batch: Shown, smoothing: float) -> Tensor:
    """Sum of the cross-entropies of concept, of style where the concept is known, and of background."""
    logits = network(batch.images, batch.labels)
    losses = [
        cross_entropy(logits[part].float(), label, ignore_index=UNKNOWN, label_smoothing=smoothing)
        for part, label in batch.labels.items()
    ]
    return torch.stack(losses).sum()


@torch.no_grad()
def measure(network: Network, vae: AutoencoderKL, pictures: Pictures, world: World) -> dict[str, float]:
    """How often each part is named rightly, for real pictures and for the same pictures through the autoencoder.

    Backgrounds are the colours in turn; ``held_out`` are the concepts that no other part of the miniature has seen.
    """
    table = colour_table(world)
    colours = [i % len(table) for i in range(len(pictures))]
    label = numbers(pictures, range(len(pictures)), colours, world)
    right: dict[str, list[Tensor]] = {}
    for rows in in_parts(torch.arange(len(pictures)), 64):
        images = compose(pictures.rgba[rows], table[label["background"][rows]])
        for end, seen in {"": images, "_reconstructed": reconstruct(vae, images)}.items():
            for part, logits in network(seen).items():
                right.setdefault(f"{part}{end}", []).append((logits.argmax(1) == label[part][rows]).float())
    hits = {name: torch.cat(parts) for name, parts in right.items()}
    held_out = torch.tensor([concept in world.held_out_concepts for concept in pictures.concept])
    hits["concept_held_out"] = hits["concept"][held_out]
    return {name: round(float(found.mean()), 4) for name, found in hits.items() if len(found)}


def save_classifier(folder: Path, network: Network, settings: Classifier, world: World, size: int) -> None:
    """Write the folder that ``etude.evaluation.classifier`` opens: labels, size, shape, and the weights in float16."""
    shape = settings.model_dump(include={"widths", "blocks", "groups", "grid", "rank", "given"})
    write_json(folder / "config.json", {"labels": labels(world), "size": size, **shape})
    write_tensors(folder / "model.safetensors", {name: value.half() for name, value in network.state_dict().items()})


if __name__ == "__main__":
    run(train)
