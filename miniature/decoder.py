"""Train the autoencoder's decoder further, while the UNet is trained: the encoder stays, so every latent stays valid.

Stable Diffusion's own later decoders were made this way (`sd-vae-ft-mse`); the loss is the autoencoder's without KL.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn.functional import l1_loss, mse_loss

from etude.core.files import replace_folder, write_json
from etude.core.params import Schema, pick
from etude.training.fit import fit
from etude.training.plan import Optimization
from miniature.draws import Examples, place, random_colours, randomiser
from miniature.earlier import as_published
from miniature.stage import make_report
from miniature.vae import on_colours, preview, psnr, read_vae, reconstruct, save_weights
from miniature.world import FOLDER, OUT, colour_table, read_pictures, read_world
from tasks.shell import run


class Decoder(Schema):
    """The ``decoder`` block of params.yaml."""

    edges: float
    squares: float
    shift: int
    free_colours: float
    threads: int
    training: Optimization


class StageParams(Schema):
    """The part of params.yaml that this stage reads."""

    decoder: Decoder


def train() -> None:
    """Write ``out/decoder/``: the whole autoencoder as a diffusers folder, and ``metrics.json``."""
    if as_published("decoder"):
        return
    settings, world = pick(FOLDER / "params.yaml", StageParams).decoder, read_world()
    pictures, table = read_pictures(), colour_table(world)
    seen, unseen = pictures.trained(world), pictures.held_out(world)
    report = make_report("decoder", settings.threads)
    model = read_vae().to(report.device)
    report.preview = lambda: preview(model, unseen, table)

    def batches(step: int) -> Examples:
        draw = randomiser(report.seed, "decoder", step)
        indices = [draw.randrange(len(seen)) for _ in range(settings.training.batch_size)]
        colours = random_colours(table, len(indices), settings.free_colours, draw)
        return place(seen, indices, colours, draw, settings.shift)

    def loss(batch: Examples) -> Tensor:
        return decoding_loss(model, batch.images.to(report.device), settings)

    fit(decoding_parameters(model), loss, batches, settings.training, report)
    model.cpu()
    true, known = on_colours(unseen, table), on_colours(seen, table)[:96]
    metrics = {
        "psnr_unseen": round(psnr(reconstruct(model, true), true), 3),
        "psnr_seen": round(psnr(reconstruct(model, known), known), 3),
    }
    with replace_folder(OUT / "decoder") as folder:
        save_weights(model, folder)
        write_json(folder / "metrics.json", metrics)
    report.discard()


def decoding_parameters(model: AutoencoderKL) -> dict[str, Tensor]:
    """The parameters that turn latents into pictures, set to be trained; the encoder stays frozen."""
    names = ("decoder.", "post_quant_conv.")
    chosen = {name: value for name, value in model.named_parameters() if name.startswith(names)}
    return {name: value.requires_grad_() for name, value in chosen.items()}


def decoding_loss(model: AutoencoderKL, images: Tensor, settings: Decoder) -> Tensor:
    """L1 and squared error on pixels, L1 on their differences; ``images`` [B, 3, H, W] from -1 to 1."""
    with torch.no_grad():
        latents = model.encode(images).latent_dist.mean
    made = model.decode(latents).sample.float()
    across = l1_loss(made.diff(dim=-1), images.diff(dim=-1)) + l1_loss(made.diff(dim=-2), images.diff(dim=-2))
    total: Tensor = l1_loss(made, images) + settings.squares * mse_loss(made, images) + settings.edges * across
    return total


if __name__ == "__main__":
    run(train)
