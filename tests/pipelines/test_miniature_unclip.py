"""The miniature's unCLIP: what it tells its UNet is what diffusers' pipeline tells, and it begins as the miniature."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_unclip_img2img import StableUnCLIPImg2ImgPipeline
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from torch import Tensor

from etude.params import pick
from pipelines.miniature import embeddings, unclip, unet
from pipelines.miniature.world import FOLDER

WIDTH = 8


@pytest.fixture
def settings() -> unclip.Unclip:
    return pick(FOLDER / "params.yaml", unclip.Dials).unclip


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UNet2DConditionModel:
    """A small trained denoiser in the place of out/unet."""
    torch.manual_seed(0)
    model = unet.build_unet([16, 16, 32, 32], 4, 2, 16, size=4)
    unet.save_unet(model, tmp_path)
    monkeypatch.setattr(unclip, "START", tmp_path)
    monkeypatch.setattr(unclip, "WEIGHTS", tmp_path / "diffusion_pytorch_model.safetensors")
    return model.eval()


def batch(count: int = 2) -> unclip.Told:
    latents, hidden, seen = torch.randn(count, 4, 4, 4), torch.randn(count, 77, 16), torch.randn(count, WIDTH)
    return unclip.Told(["x"] * count, latents, hidden, seen, torch.ones(count, 1))


def norm() -> embeddings.Normaliser:
    return embeddings.normaliser(torch.randn(5, 3, WIDTH, generator=torch.Generator().manual_seed(1)) * 3 + 1)


@pytest.mark.parametrize("level", [0, 40, 999])
def test_labels_are_those_of_diffusers_pipeline(level: int) -> None:
    seen, noise, own = torch.randn(3, WIDTH), torch.randn(3, WIDTH), norm()
    pipeline = StableUnCLIPImg2ImgPipeline.__new__(StableUnCLIPImg2ImgPipeline)
    theirs = StableUnCLIPImageNormalizer(WIDTH)
    theirs.mean.data, theirs.std.data = own.mean, own.std
    object.__setattr__(pipeline, "image_normalizer", theirs)
    object.__setattr__(pipeline, "image_noising_scheduler", DDPMScheduler(**embeddings.NOISING))
    with torch.no_grad():
        expected = pipeline.noise_image_embeddings(seen, noise_level=level, noise=noise)
    made = own.labels(seen, noise, torch.full((3,), level))
    assert made.shape == (3, 2 * WIDTH)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-6)


def test_training_begins_with_the_miniature_as_it_is(start: UNet2DConditionModel) -> None:
    model, noisy, hidden = unclip.build_unclip(WIDTH).eval(), torch.randn(2, 4, 4, 4), torch.randn(2, 77, 16)
    with torch.no_grad():
        before = start(noisy, 500, hidden).sample
        after = model(noisy, 500, hidden, class_labels=torch.randn(2, 2 * WIDTH)).sample
    torch.testing.assert_close(before, after, rtol=0, atol=1e-5)


def test_only_the_named_layers_learn_and_they_do(start: UNet2DConditionModel, settings: unclip.Unclip) -> None:
    model = unclip.build_unclip(WIDTH)
    moving = unclip.select(model, settings.trained)
    unclip.told_loss(model, norm(), batch(), settings).backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == set(moving)
    assert moving["class_embedding.linear_2.weight"].grad.abs().max() > 0
    assert not [name for name in moving if moving[name].ndim == 4 and moving[name].shape[-1] > 1]
    assert sum(p.numel() for p in moving.values()) < sum(p.numel() for p in model.parameters()) / 2


def test_a_dropped_embedding_is_all_zeros(start: UNet2DConditionModel, settings: unclip.Unclip) -> None:
    told: list[Tensor] = []

    def model(noisy: Tensor, t: Tensor, hidden: Tensor, class_labels: Tensor) -> unet.UNet2DConditionModel:
        told.append(class_labels)
        return start(noisy, t, hidden)

    dropped = unclip.Told(**{**vars(batch()), "kept": torch.tensor([[0.0], [1.0]])})
    unclip.told_loss(model, norm(), dropped, settings)
    assert told[0][0].abs().max() == 0
    assert told[0][1].abs().max() > 0
