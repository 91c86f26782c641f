from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from etude.base.text import encode_prompts
from etude.core.errors import InputError
from etude.core.randomness import generator
from etude.core.shards import write_shards
from etude.diffusion.noise import add_noise, predict
from etude.evaluation.settings import Validation
from etude.evaluation.validation import curve, loss_table
from etude.rendering.candidates import UNTOUCHED, candidates
from etude.rendering.renderer import Renderer
from etude.training.batches import load_images
from tests.finished import enter, project

LATENTS = Path("data/concept/latents")
NAMES = [f"{number:016x}" for number in range(3)]
ASKED = Validation(prompt="[name]", images=2, timesteps=[100, 900], seed=0)


@pytest.fixture
def renderer(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Renderer:
    project(tmp_path, tiny_base)
    enter(monkeypatch, tmp_path)
    return Renderer(tiny_base, "lora", device="cpu", precision="fp32", threads=1)


def test_the_loss_is_the_squared_error_of_the_predicted_noise(renderer: Renderer) -> None:
    (value,) = curve(renderer, UNTOUCHED, {}, loss_table(LATENTS, NAMES[:1], asked(timesteps=[300]), "sks", 0))
    base = renderer.base
    images = load_images(LATENTS)
    latents = images.mean[images.names.index(NAMES[0])][None] * base.scaling_factor
    noise = torch.randn((4, 8, 8), generator=generator(0, "validation", NAMES[0], 300))[None]
    t = torch.tensor([300])
    with torch.inference_mode():
        told = predict(base, add_noise(base, latents, noise, t), t, encode_prompts(base, ["sks"]))
    assert value == pytest.approx(float((told - noise).square().mean()), rel=1e-5)


def asked(**changes: object) -> Validation:
    return ASKED.model_copy(update=changes)


def test_the_same_table_gives_the_same_loss_and_another_seed_another(renderer: Renderer, tmp_path: Path) -> None:
    first = curve(renderer, UNTOUCHED, {}, loss_table(LATENTS, NAMES, ASKED, "sks", 0))
    (tmp_path / ".cache").rename(tmp_path / "old")
    assert curve(renderer, UNTOUCHED, {}, loss_table(LATENTS, NAMES, ASKED, "sks", 0)) == first
    assert curve(renderer, UNTOUCHED, {}, loss_table(LATENTS, NAMES, asked(seed=1), "sks", 0)) != first
    assert len(first) == 2


def test_another_picture_leaves_the_noise_of_the_first_alone(renderer: Renderer) -> None:
    one = curve(renderer, UNTOUCHED, {}, loss_table(LATENTS, NAMES[:1], ASKED, "sks", 0))
    two = curve(renderer, UNTOUCHED, {}, loss_table(LATENTS, NAMES[1:2], ASKED, "sks", 0))
    both = curve(renderer, UNTOUCHED, {}, loss_table(LATENTS, NAMES[:2], ASKED, "sks", 0))
    assert both == pytest.approx([(a + b) / 2 for a, b in zip(one, two, strict=True)], rel=1e-6)


def test_a_checkpoint_has_its_own_loss_and_changed_latents_are_seen(renderer: Renderer) -> None:
    table = loss_table(LATENTS, NAMES, ASKED, "sks", 0)
    untouched = curve(renderer, UNTOUCHED, {}, table)
    assert curve(renderer, candidates(Path("artifacts/lora/build"))[1], {"strength": 1.0}, table) != untouched
    shutil.rmtree(LATENTS)
    LATENTS.mkdir()
    write_shards(LATENTS, NAMES, lambda _: {"mean": torch.zeros(4, 8, 8)})
    assert curve(renderer, UNTOUCHED, {}, loss_table(LATENTS, NAMES, ASKED, "sks", 0)) != untouched


def test_missing_latents_are_named(renderer: Renderer) -> None:
    with pytest.raises(InputError, match="0000000000000009"):
        loss_table(LATENTS, ["0000000000000009"], ASKED, "sks", 0)
