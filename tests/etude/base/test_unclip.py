"""Bases that take a picture: against diffusers' pipelines for unCLIP (both families) and image variations."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionImageVariationPipeline, StableUnCLIPImg2ImgPipeline
from torch import Tensor

from etude.base.base import Base
from etude.base.conditioning import Conditioning
from etude.base.digest import part_digest
from etude.base.family import recognise
from etude.base.loading import load_base
from etude.base.text import encode_prompts, tokenise
from etude.base.unclip import with_image, without_image
from etude.core.errors import BaseError
from etude.core.tensors import read_tensors, write_tensors
from etude.diffusion.hooks import supplied_picture
from etude.diffusion.noise import predict
from etude.diffusion.sample import denoise, generate, guided, make_scheduler
from tests.etude.conftest import change
from tests.tiny import WIDTH, build_tiny

UNCLIP = ("sd1", "sd2")


@pytest.fixture(scope="session")
def unclip_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Family → folder of an unCLIP base. Read only."""
    root = tmp_path_factory.mktemp("unclip")

    @cache
    def build(family: str) -> Path:
        return build_tiny(root / family, family, unclip=True)

    return build


@pytest.fixture(params=UNCLIP)
def path(request: pytest.FixtureRequest, unclip_of: Callable[[str], Path]) -> Path:
    return unclip_of(request.param)


@cache
def load(path: Path) -> Base:
    return load_base(path, dtype=torch.float64)


@pytest.fixture
def picture_base(path: Path) -> Base:
    """Shared by all tests: leave it as it was."""
    return load(path)


def embedding(seed: int = 3) -> Tensor:
    return 2 * torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(seed))


def draw(base: Base, seeds: tuple[int, ...] = (1, 2), guidance: float = 3.0) -> Tensor:
    prompts = ["a photo of a cat"] * len(seeds)
    return generate(base, prompts, negative="dog", seeds=seeds, steps=2, guidance=guidance, sampler="ddim")


def test_its_family_is_that_of_its_architecture(path: Path) -> None:
    assert recognise(path) == path.name
    assert load_base(path, parts=("vae",)).unclip is None
    unclip = load_base(path).unclip
    assert unclip is not None
    assert unclip.width == WIDTH
    assert len(unclip.alphas_cumprod) == 1000


def test_other_bases_have_no_such_property(tiny_base: Path) -> None:
    assert load_base(tiny_base).unclip is None


@pytest.mark.parametrize("part", ["image_encoder", "feature_extractor", "image_normalizer", "image_noising_scheduler"])
def test_a_missing_part_is_named(unclip_of: Callable[[str], Path], part: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(unclip_of("sd1"), tmp_path / "base"))
    shutil.rmtree(copy / part)
    with pytest.raises(BaseError, match=f"unCLIP model without {part}"):
        recognise(copy)


@pytest.mark.parametrize("values", [{"beta_schedule": "foo"}, {"num_train_timesteps": 100}], ids=str)
def test_a_noise_schedule_of_embeddings_that_does_not_grow_is_refused(
    unclip_of: Callable[[str], Path], values: dict[str, object], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(unclip_of("sd1"), tmp_path / "base"))
    change(copy / "image_noising_scheduler/scheduler_config.json", **values)
    with pytest.raises(
        BaseError, match=r"image_noising_scheduler: its scheduler_config\.json (has no noise|must give noise)"
    ):
        load_base(copy)


def test_a_unet_for_pictures_of_another_width_is_refused(unclip_of: Callable[[str], Path], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(unclip_of("sd1"), tmp_path / "base"))
    change(copy / "unet/config.json", projection_class_embeddings_input_dim=16)
    fault = r"`unet\.class_embedding\.linear_1\.weight` is \[\d+, 64\], but its configuration asks for \[\d+, 16\]"
    with pytest.raises(BaseError, match=fault):
        load_base(copy)


@pytest.mark.parametrize("level", [300])
def test_diffusers_draws_the_same_picture(path: Path, picture_base: Base, level: int) -> None:
    """With the embedding's noise and the latents' handed over: each library draws them its own way."""
    pipe = StableUnCLIPImg2ImgPipeline.from_pretrained(path, local_files_only=True).to(torch.float64)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(make_scheduler(picture_base, "ddim", 2).config)
    z, latents, noise = (
        embedding().double(),
        torch.randn(1, 4, 8, 8, dtype=torch.float64),
        torch.randn(1, WIDTH).double(),
    )
    original = pipe.noise_image_embeddings
    pipe.noise_image_embeddings = lambda **given: original(**{**given, "noise": noise})
    asked = {"guidance_scale": 3.0, "num_inference_steps": 2, "output_type": "latent", "noise_level": level}
    theirs = pipe(image_embeds=z, prompt="a cat", negative_prompt="dog", latents=latents, **asked).images

    assert picture_base.unclip is not None
    labels = picture_base.unclip.labels(z, noise, torch.tensor([level]))
    with torch.no_grad():
        plain = encode_prompts(picture_base, ["a cat"])
        positive, negative = Conditioning(plain.hidden, None, labels), encode_prompts(picture_base, ["dog"])
        scheduler = make_scheduler(picture_base, "ddim", 2)
        ours = denoise(lambda x, t, _: guided(picture_base, x, t, positive, negative, 3.0), scheduler, latents)
    assert (ours - theirs).abs().max() < 1e-6


def test_without_a_picture_the_unet_is_told_zeros(picture_base: Base) -> None:
    noisy, t = torch.randn(2, 4, 8, 8, dtype=torch.float64), torch.tensor([900, 20])
    with torch.no_grad():
        text = encode_prompts(picture_base, ["a cat", "a dog"])
        made = predict(picture_base, noisy, t, text)
        zeros = torch.zeros(2, 2 * WIDTH, dtype=torch.float64)
        expected = picture_base.unet(noisy, t, text.hidden, class_labels=zeros).sample
    assert torch.equal(made, expected)


def test_a_picture_is_supplied_and_forgotten_and_the_innermost_counts(picture_base: Base) -> None:
    untouched = draw(picture_base)
    with supplied_picture(picture_base, embedding(3)):
        first = draw(picture_base)
        with pytest.raises(KeyboardInterrupt), supplied_picture(picture_base, embedding(4)):
            second = draw(picture_base)
            raise KeyboardInterrupt
        again = draw(picture_base)
    assert not torch.equal(first, untouched)
    assert not torch.equal(first, second)
    assert torch.equal(first, again)
    assert torch.equal(draw(picture_base), untouched)


def test_noise_on_the_embedding_comes_from_the_pictures_own_seed(picture_base: Base) -> None:
    with supplied_picture(picture_base, embedding(), 600):
        both, alone = draw(picture_base, (1, 2)), draw(picture_base, (2,))
    with supplied_picture(picture_base, embedding(), 0):
        clean = draw(picture_base, (2,))
    assert (both[1].int() - alone[0].int()).abs().max() <= 1
    assert not torch.equal(alone, clean)


def test_the_noise_of_an_embedding_is_drawn_from_a_stream_of_its_own(picture_base: Base) -> None:
    """Fixed numbers: from another stream, every picture of the same parameters would be another."""
    unclip, text = picture_base.unclip, Conditioning(torch.zeros(2, 77, WIDTH, dtype=torch.float64))
    assert unclip is not None
    with supplied_picture(picture_base, embedding(), 600):
        found = with_image(unclip, text, [5, 0]).picture
        alike = with_image(unclip, text).picture
        z = unclip.supplied[-1].embedding.expand(2, -1)
    source = [torch.Generator().manual_seed(seed + 4294967296) for seed in (5, 0)]
    noise = torch.stack([torch.randn(WIDTH, generator=each) for each in source]).to(z)
    assert torch.equal(found, unclip.labels(z, noise, torch.tensor([600, 600])).to(text.hidden))
    assert alike is not None
    assert torch.equal(alike[0], alike[1])


def test_a_picture_that_a_text_has_already_is_kept(picture_base: Base) -> None:
    own = Conditioning(torch.zeros(1, 77, WIDTH), picture=torch.ones(1, 2 * WIDTH))
    for function in (with_image, without_image):
        assert function(picture_base.unclip, own) is own
        plain = Conditioning(torch.zeros(3, 77, WIDTH))
        assert function(None, plain) is plain
        zeros = function(picture_base.unclip, plain).picture
        assert zeros is not None
        assert torch.equal(zeros, torch.zeros(3, 2 * WIDTH))


def test_without_guidance_the_picture_is_told_as_well(picture_base: Base) -> None:
    untouched = draw(picture_base, guidance=1.0)
    with supplied_picture(picture_base, embedding()):
        assert not torch.equal(draw(picture_base, guidance=1.0), untouched)


def test_a_base_that_knows_no_pictures_and_a_wrong_width_are_refused(tiny_base: Path, picture_base: Base) -> None:
    with (
        pytest.raises(BaseError, match=r"no unCLIP base.*miniature-unclip"),
        supplied_picture(load_base(tiny_base), embedding()),
    ):
        pass
    with pytest.raises(BaseError, match="32 numbers"), supplied_picture(picture_base, torch.zeros(1, 8)):
        pass


def test_the_digest_of_the_unet_knows_how_it_is_told(path: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(path, tmp_path / "base"))
    assert part_digest(copy, "unet") == part_digest(path, "unet")
    schedule = copy / "image_noising_scheduler" / "scheduler_config.json"
    schedule.write_text(schedule.read_text().replace("squaredcos_cap_v2", "linear"))
    assert part_digest(copy, "unet") != part_digest(path, "unet")
    assert part_digest(copy, "text") == part_digest(path, "text")


@pytest.fixture(scope="module")
def variation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of image variations. Read only."""
    return build_tiny(tmp_path_factory.mktemp("variation") / "sd1", variation=True)


def test_a_base_of_image_variations_is_told_of_pictures_in_the_place_of_texts(variation: Path) -> None:
    assert recognise(variation) == "sd1"
    base = load(variation)
    assert base.text_encoders == base.tokenizers == ()
    assert base.unclip is not None
    assert (base.unclip.instead, base.unclip.width) == (True, WIDTH)
    assert torch.equal(base.unclip.scale(embedding()), embedding())
    encoded = encode_prompts(base, ["a cat", "a dog"])
    assert (encoded.hidden.shape, encoded.hidden.abs().max()) == ((2, 1, WIDTH), 0)
    with pytest.raises(BaseError, match="reads no texts: it is a base of image variations"):
        tokenise(base, ["a cat"])
    with pytest.raises(BaseError, match=r"not support noise.*`noise_level: 0`"), supplied_picture(base, embedding(), 1):
        pass
    assert len({part_digest(variation, part) for part in ("unet", "vae", "text")}) == 3


def test_diffusers_draws_the_same_variation(variation: Path) -> None:
    base = load(variation)
    pipe = StableDiffusionImageVariationPipeline.from_pretrained(
        variation, local_files_only=True, safety_checker=None, requires_safety_checker=False
    ).to(torch.float64)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(make_scheduler(base, "ddim", 2).config)
    pixels, latents = torch.randn(1, 3, 32, 32).double(), torch.randn(1, 4, 8, 8).double()
    with torch.no_grad():
        z = pipe.image_encoder(pixels).image_embeds
    theirs = pipe(pixels, latents=latents, guidance_scale=3.0, num_inference_steps=2, output_type="latent").images
    with torch.no_grad(), supplied_picture(base, z):
        positive, negative = (encode_prompts(base, [text]) for text in ("a cat", ""))
        scheduler = make_scheduler(base, "ddim", 2)
        ours = denoise(lambda x, t, _: guided(base, x, t, positive, negative, 3.0), scheduler, latents)
    assert (ours - theirs).abs().max() < 1e-5  # embeddings are supplied in float32


def test_a_variation_is_drawn_of_the_picture_in_force_whatever_is_said(variation: Path) -> None:
    base = load(variation)
    untouched = draw(base)
    with supplied_picture(base, embedding()):
        told = draw(base)
    assert not torch.equal(told, untouched)
    assert torch.equal(draw(base), untouched)


@pytest.mark.parametrize("part", ["feature_extractor", "vae"])
def test_a_missing_part_of_a_base_of_variations_is_named(variation: Path, part: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(variation, tmp_path / "base"))
    shutil.rmtree(copy / part)
    with pytest.raises(BaseError, match=f"lacks {part}"):
        recognise(copy)


@pytest.mark.parametrize("fault", ["cut", "no mean", "std of another size", "no row", "two rows", "not finite"])
def test_a_damaged_normaliser_is_one_error(unclip_of: Callable[[str], Path], tmp_path: Path, fault: str) -> None:
    base = Path(shutil.copytree(unclip_of("sd1"), tmp_path / "base"))
    (file,) = (base / "image_normalizer").glob("*.safetensors")
    tensors = read_tensors(file)[0]
    if fault == "no mean":
        write_tensors(file, {"std": tensors["std"]})
    elif fault == "std of another size":
        write_tensors(file, tensors | {"std": torch.ones(1, 3)})
    elif fault == "no row":
        write_tensors(file, tensors | {"mean": tensors["mean"][0]})
    elif fault == "two rows":
        write_tensors(file, tensors | {"std": tensors["std"].repeat(2, 1)})
    elif fault == "not finite":
        write_tensors(file, tensors | {"mean": torch.full_like(tensors["mean"], torch.nan)})
    else:
        file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(BaseError, match=r"image_normalizer.*Next: fetch the whole base again"):
        load_base(base, parts=("unet",))
