"""Let the denoiser take a CLIP image embedding besides the caption, as Stable unCLIP does (after Ramesh et al., 2022,
arXiv:2204.06125; in the form of diffusers' ``StableUnCLIPImg2ImgPipeline``).

A small network adds the picture to the UNet's embedding of the timestep, which is widened so that both fit; training
begins with the miniature as it is, or with what an earlier edition of this stage learned beyond its own UNet. Then all
layers learn. Most of the target is the miniature's prediction with the caption of the same picture: it gives in one
step what the true noise gives only on average (Hinton et al., 2015, arXiv:1503.02531).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from diffusers import DPMSolverMultistepScheduler, UNet2DConditionModel
from diffusers.models import Transformer2DModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor
from torch.nn.functional import cosine_similarity, mse_loss
from transformers import CLIPModel

from etude.core.errors import InputError
from etude.core.files import replace_folder, sha256_file, write_json
from etude.core.params import Schema, pick
from etude.core.randomness import generator
from etude.core.tensors import read_tensors, write_tensors
from etude.training.fit import fit
from etude.training.plan import Optimization
from etude.training.processes import is_main
from etude.training.updates import Group
from miniature.clip import read_clip
from miniature.draws import randomiser
from miniature.earlier import earlier_weights
from miniature.embeddings import Normaliser, different, embed, normaliser, see
from miniature.stage import in_processes, make_report, pixels_to_picture, tile
from miniature.unet import (
    SCHEDULE,
    Denoising,
    Encoded,
    add_noise,
    decode,
    read_encoded,
    read_unet,
    save_unet,
    weighted_error,
)
from miniature.vae import read_vae
from miniature.world import FOLDER, OUT, Words, World, choose_colour, colour_table, read_pictures, read_world
from tasks.shell import run

START = OUT / "unet"
WEIGHTS = START / "diffusion_pytorch_model.safetensors"


class Unclip(Schema):
    """The ``unclip`` block of params.yaml."""

    width: int
    entrance_rate: float
    imitated: float
    layers: float
    caption_dropped: float
    embedding_dropped: float
    other_background: float
    noised: float
    snr_floor: float
    previews: int
    preview_steps: int
    preview_guidance: float
    threads: int
    training: Optimization


class StageParams(Schema):
    """The part of params.yaml that this stage reads."""

    unclip: Unclip
    words: Words


@dataclass(frozen=True)
class Told(Denoising):
    """Adds embeddings [B, d] of pictures, which of them the UNet gets (float [B, 1], 0 or 1), and text states
    [B, 77, d] that describe the same in words.
    """

    embeddings: Tensor
    kept: Tensor
    words: Tensor


class Teacher:
    """The finished UNet, conditioned on text only, and how much text changes in it: its prediction, and the output of
    each layer that text reaches.
    """

    def __init__(self, model: UNet2DConditionModel, batch: Denoising, empty: Tensor, settings: Unclip) -> None:
        """``empty`` [1, 77, d]: the text states of the empty caption."""
        model.set_attn_processor(AttnProcessor())  # torch's fused attention takes twice the step's time on CPU in bf16
        self.model = model
        self.after = listen(model)
        _, noisy, t = add_noise(batch.latents)
        with torch.no_grad():
            told, after = model(noisy, t, batch.hidden).sample, dict(self.after)
            untold = model(noisy, t, empty.expand_as(batch.hidden)).sample
            self.change = float(weighted_error(told, untold, t, settings.training.min_snr, settings.snr_floor))
            changes = {name: float((after[name] - self.after[name]).square().mean()) for name in after}
        self.changes = {name: change for name, change in changes.items() if change > 0}


def listen(model: UNet2DConditionModel) -> dict[str, Tensor]:
    """The output of each residual and each attention layer, updated whenever ``model`` is called."""
    heard: dict[str, Tensor] = {}

    def keep(name: str, answer: Tensor | tuple[Tensor, ...]) -> None:
        heard[name] = answer if isinstance(answer, Tensor) else answer[0]

    for name, layer in model.named_modules():
        if isinstance(layer, ResnetBlock2D | Transformer2DModel):
            layer.register_forward_hook(lambda _layer, _given, answer, name=name: keep(name, answer))
    return heard


@dataclass(frozen=True)
class Examples:
    """Pictures [n, 3, H, W] of the trained and of the held-out concepts, and the tower that sees them."""

    clip: CLIPModel
    known: Tensor
    held_out: Tensor

    def sheets(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Pictures with their embeddings [n, d]."""
        return tuple((images, see(self.clip, images)) for images in (self.known, self.held_out))


def train() -> None:
    """Write ``out/unclip/``: the UNet, the normaliser, the digest of the UNet it started from, and ``metrics.json``."""
    in_processes()
    stage_params = pick(FOLDER / "params.yaml", StageParams)
    settings, world, encoded, vae = stage_params.unclip, read_world(), read_encoded(), read_vae()
    report = make_report("unclip", settings.threads)
    embeddings, examples = look(world, encoded, settings.previews)
    norm, sheets, scale = normaliser(embeddings), examples.sheets(), float(vae.config.scaling_factor)
    torch.manual_seed(report.seed)
    model = build_unclip(embeddings.shape[-1], settings.width).to(report.device)
    heard, empty = listen(model), encoded.hidden[:1].float().to(report.device)

    def drawn() -> list[Tensor]:
        return [decode(sample(model, norm, seen, encoded.hidden[:1], settings), vae) for _, seen in sheets]

    def preview() -> list[Tensor]:
        return [rows for (images, _), made in zip(sheets, drawn(), strict=True) for rows in (images, made)]

    report.preview = lambda: tile(pixels_to_picture(torch.cat(preview())), settings.previews)

    def batches(step: int) -> Told:
        draw = randomiser(report.seed, "unclip", step)
        return draw_batch(encoded, embeddings, world, stage_params, scale, draw, report.device)

    def loss(batch: Told) -> Tensor:
        return told_loss(model, heard, norm, batch, settings, teacher)

    torch.manual_seed(report.seed)
    first = batches(0)
    teacher = Teacher(read_unet(START).to(report.device), replace(first, hidden=first.words), empty, settings)
    fit(groups(model, settings.entrance_rate), loss, batches, settings.training, report)
    if not is_main():
        return
    near = [cosine_similarity(see(examples.clip, made), seen) for made, (_, seen) in zip(drawn(), sheets, strict=True)]
    save(model, norm, dict(zip(("known", "held_out"), near, strict=True)))
    report.discard()


def save(model: UNet2DConditionModel, norm: Normaliser, near: Mapping[str, Tensor]) -> None:
    """Fill ``out/unclip``; ``near`` are cosines of given pictures and those drawn from their embeddings alone."""
    with replace_folder(OUT / "unclip") as folder:
        save_unet(model, folder)
        write_tensors(folder / "normaliser.safetensors", {"mean": norm.mean, "std": norm.std}, {"format": "pt"})
        write_json(folder / "origin.json", {"unet": sha256_file(WEIGHTS)})
        similarity = {name: round(float(cosines.mean()), 4) for name, cosines in near.items()}
        write_json(folder / "metrics.json", {"similarity": similarity})


def look(world: World, encoded: Encoded, count: int) -> tuple[Tensor, Examples]:
    """Embeddings [N, C, d] of all encoded pictures on all colours, and at most ``count`` examples of each kind."""
    clip, pictures, table = read_clip(OUT / "vision"), read_pictures(), colour_table(world)
    trained = pictures.trained(world)
    if (trained.style, trained.concept) != (encoded.style, encoded.concept):
        raise InputError(
            OUT / "latents",
            "were made from other pictures than those in out/render",
            "run `dvc repro latents` in miniature",
        )
    shown = (different(trained, count, table), different(pictures.held_out(world), count, table))
    return embed(clip, trained, table), Examples(clip, *shown)


def build_unclip(width: int, room: int) -> UNet2DConditionModel:
    """The trained UNet, with a new input for embeddings of ``width`` numbers that has no effect yet, and a timestep's
    embedding of ``room`` numbers. If there is an earlier edition, its input is used, and the difference between its
    layers and its own UNet is added to this UNet's weights.
    """
    config = UNet2DConditionModel.load_config(START)
    entrance = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 2 * width}
    model = UNet2DConditionModel.from_config(config, **entrance, time_embedding_dim=room)
    weights = {name: value.float() for name, value in read_tensors(WEIGHTS)[0].items()}
    began, learned = earlier_weights("unet"), earlier_weights("unclip")
    if began and learned:
        moved = {name: weights[name] - value.float() for name, value in began.items()}
        weights = {name: value.float() for name, value in learned.items()}
        for name, value in moved.items():
            weights[name][tuple(map(slice, value.shape))] += value
    else:
        shut = len(weights["time_embedding.linear_2.bias"])
        for parameter in model.class_embedding.linear_2.parameters():
            torch.nn.init.zeros_(parameter[:shut])
    model.load_state_dict(widened(weights, model.state_dict()))
    model.set_attn_processor(AttnProcessor())  # as for the teacher
    return model


def widened(known: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``known`` in the shapes of ``fresh``: new inputs of a layer have weight 0, new outputs are those of ``fresh``."""
    made = {name: value.clone() for name, value in fresh.items()}
    for name, value in known.items():
        made[name][: len(value)] = 0
        made[name][tuple(map(slice, value.shape))] = value
    return made


def groups(model: UNet2DConditionModel, rate: float) -> list[Group]:
    """All layers; those that carry the picture learn ``rate`` times as fast."""
    named = dict(model.named_parameters())
    carry = {name for name in named if name.startswith("class_embedding.") or ".time_emb_proj." in name}
    return [
        Group({name: named[name] for name in named if name in carry}, rate),
        Group({name: named[name] for name in named if name not in carry}),
    ]


def draw_batch(
    encoded: Encoded,
    embeddings: Tensor,
    world: World,
    stage_params: StageParams,
    scale: float,
    draw: random.Random,
    device: str,
) -> Told:
    """Random pictures on random colours; for each a caption that fits or none, and its embedding.

    If the caption names the background, the embedding is sometimes that of the same drawing on another background, so
    that the UNet learns to take the background from the caption.
    """
    colours, words, settings = list(world.colours), stage_params.words, stage_params.unclip
    names, latents, rows, seen, kept, full = [], [], [], [], [], []
    for _ in range(settings.training.batch_size):
        i = draw.randrange(len(encoded.style))
        colour = choose_colour(colours, words, draw)
        named = draw.random() < (words.white_named if colour == "white" else words.colour_named)
        style = encoded.style[i] if draw.random() < words.style_named else ""
        said, told = draw.random() >= settings.caption_dropped, draw.random() >= settings.embedding_dropped
        row = encoded.row[f"{style}|{encoded.concept[i]}|{colour if named else ''}" if said else "||"]
        elsewhere = said and named and draw.random() < settings.other_background
        behind = choose_colour(colours, words, draw) if elsewhere else colour
        rows.append(row)
        full.append(encoded.row[f"{encoded.style[i]}|{encoded.concept[i]}|{colour}"] if told else row)
        latents.append(encoded.mean[i, colours.index(colour)])
        seen.append(embeddings[i, colours.index(behind)])
        kept.append([float(told)])
        names.append(f"{encoded.style[i]} {encoded.concept[i]} {colour}")
    tensors = (torch.stack(latents).float() * scale, encoded.hidden[rows].float(), torch.stack(seen))
    words_said = encoded.hidden[full].float()
    return Told(names, *(tensor.to(device) for tensor in (*tensors, torch.tensor(kept), words_said)))


def told_loss(
    model: UNet2DConditionModel,
    heard: Mapping[str, Tensor],
    norm: Normaliser,
    batch: Told,
    settings: Unclip,
    teacher: Teacher,
) -> Tensor:
    """How far the UNet with the embeddings is from its target and from ``teacher``, in units of the change that text
    makes in the teacher. A share of the embeddings is noised at levels 0 to 999, the others at level 0; ``heard`` has
    the outputs of ``model``'s layers.
    """
    noise, noisy, t = add_noise(batch.latents)
    chance, level = torch.rand(2, len(batch.names), device=batch.embeddings.device)
    levels = (level * 1000 * (chance < settings.noised)).long()
    labels = batch.kept * norm.labels(batch.embeddings, torch.randn_like(batch.embeddings), levels)
    with torch.no_grad():
        answer = teacher.model(noisy, t, batch.words).sample.float()
    made = model(noisy, t, batch.hidden, class_labels=labels).sample.float()
    aim = noise + settings.imitated * (answer - noise)
    error = weighted_error(made, aim, t, settings.training.min_snr, settings.snr_floor) / teacher.change
    apart = [
        mse_loss(heard[name].float(), teacher.after[name].float()) / teacher.changes[name] for name in teacher.changes
    ]
    return error + settings.layers * torch.stack(apart).mean()


@torch.no_grad()
def sample(
    model: UNet2DConditionModel, norm: Normaliser, embeddings: Tensor, empty: Tensor, settings: Unclip
) -> Tensor:
    """Latents drawn from ``embeddings`` [B, d] alone, without text, with DPM-Solver++; the noise is always the same."""
    solver = DPMSolverMultistepScheduler(**{k: v for k, v in SCHEDULE.items() if k != "clip_sample"})
    solver.set_timesteps(settings.preview_steps)
    size, count = model.config.sample_size, len(embeddings)
    made = torch.randn(count, 4, size, size, generator=generator("preview"))
    labels = norm.labels(embeddings, torch.zeros_like(embeddings), torch.zeros(count, dtype=torch.long))
    both = torch.cat([torch.zeros_like(labels), labels]).to(model.device)
    hidden = empty.float().expand(2 * count, *empty.shape[1:]).to(model.device)
    for t in solver.timesteps:
        with torch.autocast(model.device.type, torch.bfloat16):
            answer = model(torch.cat([made, made]).to(model.device), t, hidden, class_labels=both).sample
        without, towards = answer.float().cpu().chunk(2)
        made = solver.step(without + settings.preview_guidance * (towards - without), t, made).prev_sample
    return made


if __name__ == "__main__":
    run(train)
