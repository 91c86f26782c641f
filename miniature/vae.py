"""Train the autoencoder: 128 × 128 pixels to 16 × 16 × 4 latents and back, in SD 1.5's architecture.

The loss is L1 and squared error on the pixels, L1 on their differences to the right and lower neighbour (edges), and a
very small Kullback–Leibler term that keeps the latents near zero (Rombach et al., 2021, arXiv:2112.10752). From random
weights, most steps use pictures of half the size, which cost a quarter.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, l1_loss, mse_loss

from etude.core.files import replace_folder, write_json
from etude.core.params import Schema, pick
from etude.core.tensors import read_tensors, write_tensors
from etude.training.fit import fit
from etude.training.plan import Optimization
from miniature.draws import Examples, place, random_colours, randomiser
from miniature.earlier import as_published, begin
from miniature.stage import in_parts, make_report, pixels_to_picture, tile
from miniature.start import carry_colours
from miniature.world import FOLDER, OUT, Pictures, colour_table, read_pictures, read_world
from tasks.shell import run


class Vae(Schema):
    """The ``vae`` block of params.yaml."""

    widths: list[int]
    groups: int
    kl: float
    edges: float
    squares: float
    first_logvar: float
    half_size_steps: int
    shift: int
    free_colours: float
    threads: int
    training: Optimization


class StageParams(Schema):
    """The part of params.yaml that this stage reads."""

    vae: Vae


def build_vae(widths: list[int], groups: int, size: int = 128) -> AutoencoderKL:
    """SD 1.5's autoencoder with other widths; untrained."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=tuple(widths),
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=groups,
        sample_size=size,
    )


def train() -> None:
    """Write ``out/vae/``: a diffusers folder, with the scaling factor measured, and ``metrics.json``."""
    if as_published("vae"):
        return
    settings = pick(FOLDER / "params.yaml", StageParams).vae
    world = read_world()
    pictures = read_pictures()
    seen, unseen = pictures.trained(world), pictures.held_out(world)
    table = colour_table(world)
    report = make_report("vae", settings.threads)
    torch.manual_seed(report.seed)
    model = build_vae(settings.widths, settings.groups, seen.rgba.shape[-1])
    if not begin(model, "vae"):
        carry_colours(model, settings.first_logvar)
    model.to(report.device)
    report.preview = lambda: preview(model, unseen, table)

    def batches(step: int) -> Examples:
        draw = randomiser(report.seed, "vae", step)
        indices = [draw.randrange(len(seen)) for _ in range(settings.training.batch_size)]
        colours = random_colours(table, len(indices), settings.free_colours, draw)
        examples = place(seen, indices, colours, draw, settings.shift)
        small = step < settings.half_size_steps
        return Examples(examples.names, avg_pool2d(examples.images, 2)) if small else examples

    def loss(batch: Examples) -> Tensor:
        return reconstruction_loss(model, batch.images.to(report.device), settings)

    fit(dict(model.named_parameters()), loss, batches, settings.training, report)
    finish(model.cpu(), seen, unseen, table)
    report.discard()


def reconstruction_loss(model: AutoencoderKL, images: Tensor, settings: Vae) -> Tensor:
    """L1 and squared error on pixels, L1 on their differences, the KL term; ``images`` [B, 3, H, W] from -1 to 1."""
    posterior = model.encode(images).latent_dist
    made = model.decode(posterior.sample()).sample.float()
    across = l1_loss(made.diff(dim=-1), images.diff(dim=-1)) + l1_loss(made.diff(dim=-2), images.diff(dim=-2))
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum() / len(images)
    pixels = l1_loss(made, images) + settings.squares * mse_loss(made, images)
    total: Tensor = pixels + settings.edges * across + settings.kl * kl
    return total


@torch.no_grad()
def reconstruct(model: AutoencoderKL, images: Tensor) -> Tensor:
    """Images through the latents' mean and back, from -1 to 1."""
    parts = [model.decode(model.encode(part.to(model.device)).latent_dist.mean).sample for part in in_parts(images, 32)]
    return torch.cat(parts).clamp(-1, 1).cpu()


def on_colours(pictures: Pictures, table: Tensor) -> Tensor:
    """Every picture once, on the colours in turn, for measurements and previews."""
    colours = table[torch.arange(len(pictures)) % len(table)]
    return place(pictures, range(len(pictures)), colours, randomiser("fixed")).images


def psnr(made: Tensor, true: Tensor) -> float:
    """Mean peak signal-to-noise ratio of images from -1 to 1, in dB."""
    error = (made - true).square().mean(dim=(1, 2, 3))
    return float((10 * torch.log10(4 / error)).mean())


def preview(model: AutoencoderKL, unseen: Pictures, table: Tensor) -> Image.Image:
    """Held-out pictures above their reconstructions."""
    true = on_colours(unseen, table)[:32]
    pairs = zip(in_parts(true, 16), in_parts(reconstruct(model, true), 16), strict=True)
    rows = torch.cat([part for pair in pairs for part in pair])
    return tile(pixels_to_picture(rows), 16)


def finish(model: AutoencoderKL, seen: Pictures, unseen: Pictures, table: Tensor) -> None:
    """Measure, set the scaling factor (1 / std of the latents) and save."""
    model.eval()
    true, known = on_colours(unseen, table), on_colours(seen, table)
    with torch.no_grad():
        latents = torch.cat([model.encode(part).latent_dist.sample() for part in in_parts(known, 32)])
    model.register_to_config(scaling_factor=round(float(1 / latents.std()), 5))
    metrics = {
        "psnr_unseen": round(psnr(reconstruct(model, true), true), 3),
        "psnr_seen": round(psnr(reconstruct(model, known[:96]), known[:96]), 3),
        "scaling_factor": model.config.scaling_factor,
    }
    with replace_folder(OUT / "vae") as folder:
        save_weights(model, folder)
        write_json(folder / "metrics.json", metrics)


def save_weights(model: AutoencoderKL, folder: Path) -> None:
    """The diffusers folder of the model, with bytes that depend only on the weights."""
    model.save_config(folder)
    write_tensors(folder / "diffusion_pytorch_model.safetensors", model.state_dict(), {"format": "pt"})


def read_vae(folder: Path = OUT / "vae") -> AutoencoderKL:
    """The trained autoencoder, frozen."""
    model = AutoencoderKL.from_config(AutoencoderKL.load_config(folder))
    model.load_state_dict(read_tensors(folder / "diffusion_pytorch_model.safetensors")[0])
    return model.eval().requires_grad_(False)


if __name__ == "__main__":
    run(train)
