"""Drawing pictures, against diffusers' own pipelines in float64."""

from __future__ import annotations

import copy
import inspect
import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from etude.base.base import Base
from etude.base.conditioning import Conditioning
from etude.base.loading import load_base
from etude.base.settings import SAMPLERS, Sampling
from etude.base.text import encode_prompts
from etude.core.errors import InputError, ParamsError
from etude.core.params import validate
from etude.diffusion.hooks import added_tokens
from etude.diffusion.sample import denoise, draw_noise, generate, generators, guided, make_scheduler
from tests.etude.conftest import change

PROMPTS = ["a photo of a red cat", "a blue dog"]
SETTINGS: dict[str, Any] = {"negative": "sad", "steps": 4, "guidance": 4.0, "sampler": "ddim"}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # NumPy 2 about diffusers' own code
@pytest.mark.parametrize(("sampler", "guidance"), [*((name, 4.0) for name in SAMPLERS), ("ddim", 1.0)])
def test_pictures_equal_those_of_diffusers_own_pipeline(
    base: Base, family: str, sampler: Any, guidance: float, pipeline_of: Callable[[str], DiffusionPipeline]
) -> None:
    scheduler = make_scheduler(base, sampler, 4)
    randomness = generators([1, 2])
    noise = draw_noise(base, randomness, 64, 64)
    twins = [source.clone_state() for source in randomness]

    pipeline = copy.copy(pipeline_of(family))
    pipeline.scheduler = type(scheduler).from_config(pipeline.scheduler.config)
    shared = {"num_inference_steps": 4, "guidance_scale": guidance, "width": 64, "height": 64}
    theirs = pipeline(
        PROMPTS, negative_prompt=["sad", "sad"], latents=noise, generator=twins, output_type="np", **shared
    ).images
    positive, negative = encode_prompts(base, PROMPTS), encode_prompts(base, ["sad", "sad"])

    def model(latents: torch.Tensor, t: torch.Tensor, _index: int) -> torch.Tensor:
        return guided(base, latents, t, positive, negative if guidance > 1 else None, guidance)

    latents = denoise(model, scheduler, noise, randomness)
    ours = (base.vae.decode(latents / base.scaling_factor).sample / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    assert np.abs(ours.detach().numpy() - theirs).max() < 1e-6

    whole = generate(base, PROMPTS, seeds=[1, 2], **SETTINGS | {"sampler": sampler, "guidance": guidance})
    assert whole.shape == (2, 64, 64, 3)
    assert np.abs(whole.numpy() - (theirs * 255).round()).max() <= 1


def test_a_picture_does_not_depend_on_its_neighbours_seeds(sd1: Base) -> None:
    alone = [draw_noise(sd1, generators([seed]), 64, 64) for seed in (1, 2)]
    assert torch.equal(draw_noise(sd1, generators([1, 2]), 64, 64), torch.cat(alone))
    for sampler in ("ddim", "euler_a"):
        settings = SETTINGS | {"sampler": sampler}
        together = generate(sd1, PROMPTS, seeds=[1, 2], **settings).int()
        for number, seed in enumerate((1, 2)):
            one = generate(sd1, [PROMPTS[number]], seeds=[seed], **settings).int()
            assert int((one[0] - together[number]).abs().max()) <= 1


def test_noise_is_the_same_in_every_precision(sd1: Base) -> None:
    double = draw_noise(sd1, generators([3]), 64, 64)
    half = draw_noise(replace(sd1, dtype=torch.bfloat16), generators([3]), 64, 64)
    assert (double.dtype, half.dtype) == (torch.float64, torch.float32)
    assert torch.equal(double.float(), half)


def test_equal_calls_give_equal_pictures_and_other_seeds_or_words_others(sd1: Base) -> None:
    first = generate(sd1, PROMPTS, seeds=[1, 2], **SETTINGS)
    assert torch.equal(first, generate(sd1, PROMPTS, seeds=[1, 2], **SETTINGS))
    assert not torch.equal(first, generate(sd1, PROMPTS, seeds=[1, 3], **SETTINGS))
    assert not torch.equal(first, generate(sd1, [PROMPTS[0], "a bird"], seeds=[1, 2], **SETTINGS))
    assert not torch.equal(first, generate(sd1, PROMPTS, seeds=[1, 2], **SETTINGS | {"negative": "happy"}))


@pytest.mark.parametrize(("guidance", "rows"), [(4.0, 4), (1.0, 2), (0.0, 2)])
def test_guidance_of_one_or_less_costs_no_unconditional_half(sd1: Base, guidance: float, rows: int) -> None:
    seen: list[int] = []
    hook = sd1.unet.register_forward_pre_hook(lambda _module, arguments: seen.append(len(arguments[0])))
    with hook:
        generate(sd1, PROMPTS, seeds=[1, 2], **SETTINGS | {"guidance": guidance})
    assert seen == [rows] * 4


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_conditioning_may_take_the_place_of_texts(base: Base) -> None:
    positive, negative = encode_prompts(base, PROMPTS), encode_prompts(base, ["sad"])
    settings = SETTINGS | {"steps": 2}
    expected = generate(base, PROMPTS, seeds=[1, 2], **settings)
    assert torch.equal(generate(base, positive, seeds=[1, 2], **settings | {"negative": negative}), expected)
    both = Conditioning.cat([negative, negative])
    assert torch.equal(generate(base, positive, seeds=[1, 2], **settings | {"negative": both}), expected)


def test_an_added_word_acts_on_both_sides_of_guidance(sd1: Base) -> None:
    plain = generate(sd1, ["a sks"], seeds=[1], **SETTINGS)
    rows = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    with added_tokens(sd1, {"sks": rows}):
        positive = generate(sd1, ["a sks"], seeds=[1], **SETTINGS)
        negative = generate(sd1, ["a cat"], seeds=[1], **SETTINGS | {"negative": "sks"})
    assert not torch.equal(plain, positive)
    assert not torch.equal(generate(sd1, ["a cat"], seeds=[1], **SETTINGS | {"negative": "sks"}), negative)
    assert torch.equal(generate(sd1, ["a sks"], seeds=[1], **SETTINGS), plain)


def test_clip_skip_reaches_both_halves(sd1: Base) -> None:
    positive, negative = (encode_prompts(sd1, texts, clip_skip=2) for texts in (PROMPTS, ["sad"]))
    expected = generate(sd1, positive, seeds=[1, 2], **SETTINGS | {"negative": negative})
    assert torch.equal(generate(sd1, PROMPTS, seeds=[1, 2], clip_skip=2, **SETTINGS), expected)


@pytest.mark.parametrize(("family", "sampler"), [("sd1", "euler"), ("sd2", "dpm++"), ("sdxl", "ddim")])
def test_sampling_never_makes_the_host_wait_for_the_device(base: Base, sampler: Any) -> None:
    """On the meta device there are no values: whatever reads one, as a waiting host would, fails."""
    far = replace(base, unet=copy.deepcopy(base.unet).to("meta"), device=torch.device("meta"))
    positive, negative = (encode_prompts(base, texts).to("meta") for texts in (PROMPTS, ["sad", "sad"]))
    noise = draw_noise(far, generators([1, 2]), 64, 64)
    latents = denoise(
        lambda latents, t, _index: guided(far, latents, t, positive, negative, 4.0),
        make_scheduler(far, sampler, 2),
        noise,
        generators([1, 2]),
    )
    assert latents.shape == (2, 4, 8, 8)


def test_every_step_is_announced(sd1: Base) -> None:
    steps: list[tuple[int, int]] = []
    generate(sd1, ["a cat"], seeds=[1], progress=lambda done, all_: steps.append((done, all_)), **SETTINGS)
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_size_is_the_bases_or_as_asked(sd1: Base) -> None:
    assert generate(sd1, ["a cat"], seeds=[1], **SETTINGS).shape == (1, 64, 64, 3)
    assert generate(sd1, ["a cat"], seeds=[1], width=96, height=32, **SETTINGS).shape == (1, 32, 96, 3)


@pytest.mark.parametrize(("values", "says"), [({"seeds": [1, 2]}, "2 for 1 prompts"), ({"width": 60}, "60 × 64 px")])
def test_impossible_requests_are_refused(sd1: Base, values: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        generate(sd1, ["a cat"], **{"seeds": [1], **SETTINGS, **values})


def test_every_sampling_parameter_is_a_keyword_of_generate() -> None:
    assert set(Sampling.model_fields) <= set(inspect.signature(generate).parameters)


def test_an_unknown_sampler_is_refused_before_anything_is_loaded() -> None:
    values = {"sampler": "dpm", "steps": 20, "guidance": 4.0, "negative": "", "clip_skip": 0}
    with pytest.raises(ParamsError, match="sampler"):
        validate(values, Sampling, "params.yaml")
    assert {validate(values | {"sampler": name}, Sampling, "params.yaml").sampler for name in SAMPLERS} == set(SAMPLERS)


def test_the_samplers_differ(sd1: Base) -> None:
    pictures = [generate(sd1, ["a cat"], seeds=[1], **SETTINGS | {"sampler": name}) for name in SAMPLERS]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(pictures, 2))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_else_a_scheduler_of_a_base_says_changes_no_sampler(
    sampler: Any, folder_of: Callable[[str], Path], sd1: Base, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folder_of("sd1"), tmp_path / "base"))
    flags = dict.fromkeys(("use_karras_sigmas", "thresholding", "use_flow_sigmas", "use_dynamic_shifting"), True)
    others = {"algorithm_type": "sde-dpmsolver++", "timestep_type": "continuous", "solver_order": 3}
    change(folder / "scheduler" / "scheduler_config.json", **flags, **others)
    other, settings = load_base(folder, dtype=torch.float64), SETTINGS | {"sampler": sampler}
    found, before = (generate(base, ["a cat"], seeds=[0], **settings) for base in (other, sd1))
    assert torch.equal(found, before)
