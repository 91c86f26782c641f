"""Train the denoiser: ε-prediction in latents, conditioned on captions, in SD 1.5's architecture.

Noise schedule and loss are Stable Diffusion 1.5's (Rombach et al., 2021, arXiv:2112.10752), weighted as in Min-SNR-5
(Hang et al., 2023, arXiv:2303.09556); some captions are dropped so that guidance works (Ho and Salimans, 2022,
arXiv:2207.12598).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor
from torch.nn.functional import mse_loss

from etude.core.files import read_json, replace_folder, write_json
from etude.core.params import Schema, pick
from etude.core.randomness import generator
from etude.core.tensors import read_tensors, write_tensors
from etude.training.fit import fit
from etude.training.plan import Optimization
from etude.training.processes import is_main
from miniature.draws import randomiser
from miniature.earlier import as_published, begin
from miniature.stage import in_parts, in_processes, make_report, pixels_to_picture, tile
from miniature.vae import read_vae
from miniature.world import FOLDER, OUT, Words, World, choose_colour, read_world
from tasks.shell import run

SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "prediction_type": "epsilon",
    "steps_offset": 1,
}


class Unet(Schema):
    """The ``unet`` block of params.yaml."""

    widths: list[int]
    groups: int
    heads: int
    caption_dropped: float
    snr_floor: float
    preview_concepts: list[str]
    preview_steps: int
    preview_guidance: float
    threads: int
    training: Optimization


class StageParams(Schema):
    """The part of params.yaml that this stage reads."""

    unet: Unet
    words: Words


@dataclass(frozen=True)
class Denoising:
    """Scaled latents [B, 4, h, w] and text states [B, 77, d]."""

    names: list[str]
    latents: Tensor
    hidden: Tensor


@dataclass(frozen=True)
class Encoded:
    """What the encode stages wrote, and where each caption is in it."""

    mean: Tensor
    hidden: Tensor
    style: list[str]
    concept: list[str]
    row: dict[str, int]


def build_unet(widths: list[int], groups: int, heads: int, text_width: int, size: int = 16) -> UNet2DConditionModel:
    """SD 1.5's UNet with other widths; untrained."""
    return UNet2DConditionModel(
        sample_size=size,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=tuple(widths),
        layers_per_block=2,
        cross_attention_dim=text_width,
        attention_head_dim=heads,  # in SD 1.x this setting is the number of heads
        norm_num_groups=groups,
    )


def train() -> None:
    """Write ``out/unet/``: a diffusers folder, and ``metrics.json``."""
    if as_published("unet"):
        return
    in_processes()
    stage_params = pick(FOLDER / "params.yaml", StageParams)
    settings, world = stage_params.unet, read_world()
    encoded = read_encoded()
    vae = read_vae()
    scale = float(vae.config.scaling_factor)
    report = make_report("unet", settings.threads)
    torch.manual_seed(report.seed)
    model = build_unet(settings.widths, settings.groups, settings.heads, encoded.hidden.shape[-1])
    begin(model, "unet")
    model.to(report.device)
    model.set_attn_processor(AttnProcessor())  # torch's fused attention takes twice the step's time on CPU in bf16
    report.preview = lambda: tile(
        pixels_to_picture(decode(sample(model, encoded, preview_keys(settings, world), settings), vae)),
        len(settings.preview_concepts),
    )

    def batches(step: int) -> Denoising:
        batch = draw_batch(encoded, world, stage_params, scale, randomiser(report.seed, "unet", step))
        return Denoising(batch.names, batch.latents.to(report.device), batch.hidden.to(report.device))

    def loss(batch: Denoising) -> Tensor:
        return denoising_loss(model, batch, settings.training.min_snr, settings.snr_floor)

    fit(dict(model.named_parameters()), loss, batches, settings.training, report)
    if not is_main():
        return
    curve = [value for _, value, _ in report.history][-20:]
    with replace_folder(OUT / "unet") as folder:
        save_unet(model, folder)
        write_json(folder / "metrics.json", {"loss": round(sum(curve) / len(curve), 5)})
    report.discard()


def read_encoded(folder: Path = OUT) -> Encoded:
    """The encoded latents and text states."""
    index = read_json(folder / "latents" / "index.json")
    mean = read_tensors(folder / "latents" / "latents.safetensors")[0]["mean"]
    hidden = read_tensors(folder / "texts" / "texts.safetensors")[0]["hidden"]
    keys = read_json(folder / "texts" / "index.json")
    return Encoded(mean, hidden, index["style"], index["concept"], {key: i for i, key in enumerate(keys)})


def encoded_on(encoded: Encoded, device: str) -> Encoded:
    """The encoded latents and text states moved to ``device``, so that batches are drawn there."""
    return replace(encoded, mean=encoded.mean.to(device), hidden=encoded.hidden.to(device))


def draw_batch(
    encoded: Encoded, world: World, stage_params: StageParams, scale: float, draw: random.Random
) -> Denoising:
    """Random pictures on random colours, each with a caption that fits."""
    colours, words = list(world.colours), stage_params.words
    names, latents, rows = [], [], []
    for _ in range(stage_params.unet.training.batch_size):
        i = draw.randrange(len(encoded.style))
        colour = choose_colour(colours, words, draw)
        named = draw.random() < (words.white_named if colour == "white" else words.colour_named)
        style = encoded.style[i] if draw.random() < words.style_named else ""
        key = f"{style}|{encoded.concept[i]}|{colour if named else ''}"
        rows.append(encoded.row["||" if draw.random() < stage_params.unet.caption_dropped else key])
        latents.append(encoded.mean[i, colours.index(colour)])
        names.append(f"{encoded.style[i]} {encoded.concept[i]} {colour}")
    return Denoising(names, torch.stack(latents).float() * scale, encoded.hidden[rows].float())


SCHEDULER = DDPMScheduler(**SCHEDULE)
RAREST = 0.25  # the smallest density that weights make up for: below it, single pictures would count too much


def denoising_loss(
    model: Callable[..., object], batch: Denoising, gamma: float, floor: float, power: float = 1.0
) -> Tensor:
    """Mean squared error of the noise, weighted by min(SNR + floor, γ) / SNR: the weight of the picture's error is then
    ``floor`` where all is noise, and γ at most. Where all is noise only the caption determines what to draw; with a
    floor, backgrounds are drawn as named much sooner than with Min-SNR's own weights (floor 0).

    With ``power`` above 1, noisy timesteps are drawn more often, and weighted less in the same measure: the same mean
    (except for the rarest, see `RAREST`), but less of it depends on chance where only the caption determines what to
    draw.
    """
    noise, noisy, t = add_noise(batch.latents, power)
    made = model(noisy, t, batch.hidden).sample.float()  # type: ignore[attr-defined]
    return weighted_error(made, noise, t, gamma, floor, power)


def add_noise(latents: Tensor, power: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, ``latents`` with it, and the timesteps: one from each of as many equal ranges as there are pictures; the
    mean loss varies less than with independent draws. The density of timesteps is proportional to t ** (power - 1).
    """
    noise, ranges = torch.randn_like(latents), torch.arange(len(latents), device=latents.device)
    share = (ranges + torch.rand(len(latents), device=latents.device)) / len(latents)
    count = SCHEDULER.config.num_train_timesteps
    t = (share ** (1 / power) * count).long().clamp(max=count - 1)  # in float32, (31 + 0.9999999) / 32 is 1
    return noise, SCHEDULER.add_noise(latents, noise, t), t


def weighted_error(made: Tensor, aim: Tensor, t: Tensor, gamma: float, floor: float, power: float = 1.0) -> Tensor:
    """Mean squared error of the noise at timesteps ``t``, weighted as in :func:`denoising_loss`."""
    each = mse_loss(made, aim, reduction="none").mean(dim=(1, 2, 3))
    kept = SCHEDULER.alphas_cumprod.to(t.device)[t]
    ratio = kept / (1 - kept)
    weight: Tensor = (ratio + floor).clamp(max=gamma) / ratio
    if power != 1:
        density = power * ((t + 0.5) / SCHEDULER.config.num_train_timesteps) ** (power - 1)
        weight = weight / density.clamp(min=RAREST)
    return (each * weight).mean()


def preview_keys(settings: Unet, world: World) -> list[str]:
    """Captions to draw: a row for each style, the colours taking turns."""
    colours = list(world.colours)
    return [
        f"{style}|{concept}|{colours[(row + column) % len(colours)]}"
        for row, style in enumerate(world.styles)
        for column, concept in enumerate(settings.preview_concepts)
    ]


@torch.no_grad()
def sample(model: UNet2DConditionModel, encoded: Encoded, keys: list[str], settings: Unet) -> Tensor:
    """Latents of ``keys``, drawn with DPM-Solver++ and classifier-free guidance from noise that is always the same."""
    solver = DPMSolverMultistepScheduler(**{k: v for k, v in SCHEDULE.items() if k != "clip_sample"})
    solver.set_timesteps(settings.preview_steps)
    size = encoded.mean.shape[-1]
    made = torch.randn(len(keys), 4, size, size, generator=generator("preview"))
    hidden = encoded.hidden[[encoded.row[key] for key in keys]].float()
    both = torch.cat([encoded.hidden[:1].float().expand_as(hidden), hidden]).to(model.device)
    for t in solver.timesteps:
        with torch.autocast(model.device.type, torch.bfloat16):
            without, towards = model(torch.cat([made, made]).to(model.device), t, both).sample.float().cpu().chunk(2)
        made = solver.step(without + settings.preview_guidance * (towards - without), t, made).prev_sample
    return made


@torch.no_grad()
def decode(latents: Tensor, vae: AutoencoderKL) -> Tensor:
    """Scaled latents → images from -1 to 1."""
    return torch.cat([vae.decode(part / vae.config.scaling_factor).sample for part in in_parts(latents, 16)])


def read_unet(folder: Path = OUT / "unet") -> UNet2DConditionModel:
    """The trained denoiser, frozen."""
    model = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder))
    model.load_state_dict(read_tensors(folder / "diffusion_pytorch_model.safetensors")[0])
    return model.eval().requires_grad_(False)


def save_unet(model: UNet2DConditionModel, folder: Path) -> None:
    """The diffusers folder of the model, with bytes that depend only on the weights."""
    model.save_config(folder)
    write_tensors(folder / "diffusion_pytorch_model.safetensors", model.state_dict(), {"format": "pt"})


if __name__ == "__main__":
    run(train)
