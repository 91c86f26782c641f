from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

from etude.base.base import Base
from etude.base.loading import load_base
from etude.base.text import encode_prompts
from etude.core.artifact import Artifact
from etude.core.errors import BaseError, FormatError
from etude.core.files import Draft
from etude.core.tensors import read_header
from etude.formats import identify
from etude.formats.image_embedding import clip_image_embedding
from etude.training.batches import Batch
from etude.training.report import Report
from pipelines.clip_inversion import method as inversion
from tests.pipelines.learning import image_set, params_of, picture, pictures
from tests.tiny import WIDTH, build_tiny

METHOD = "clip_inversion"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("base") / "tiny", unclip=True)


@cache
def load(folder: Path, dtype: torch.dtype = torch.float32) -> Base:
    return load_base(folder, dtype=dtype)


def artifact(seed: int, length: float = 3.0) -> Artifact:
    z = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(seed))
    return Artifact(METHOD, {inversion.KEY: length * z}, {"name": "sks", "noise_level": 7, "base": "models/x"})


def run(base: Base, scratch: Path, training: dict[str, Any] | None = None, **changes: Any) -> Artifact:
    params: Any = params_of(METHOD, training, **changes)
    report = Report(scratch, seed=3, device="cpu", precision="fp32")
    given = {name: image_set(base)[name] for name in ("images", "pictures", "captions")}
    return inversion.build(base=base, params=params, report=report, **given)


def in_force(base: Base) -> Tensor:
    assert base.unclip is not None
    return base.unclip.scale(base.unclip.supplied[-1].embedding)


def batch() -> Batch:
    mean = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    return Batch(("a", "b"), mean, torch.full_like(mean, -6.0))


@pytest.mark.parametrize(("level", "guidance"), [(0, 1.0), (999, 1.0), (300, 2.5)])
def test_the_loss_is_the_formula_and_its_gradient_reaches_the_embedding_alone(
    folder: Path, level: int, guidance: float
) -> None:
    base, given = load(folder, torch.float64), batch()
    params: Any = params_of(METHOD, {"min_snr": 1.0}, noise_level=level, guidance=guidance)
    texts, nothing = encode_prompts(base, ["otter", "a cat"]), encode_prompts(base, [""])
    z = artifact(1).tensors[inversion.KEY].double().requires_grad_()

    def loss(z: Tensor) -> Tensor:
        torch.manual_seed(5)
        return inversion._loss(base, given, texts, nothing, z, params)

    torch.manual_seed(5)
    k, noise = torch.randint(level + 1, (2,)), torch.randn(2, WIDTH, dtype=torch.float64)
    latents = (given.mean + (0.5 * given.logvar).exp() * torch.randn_like(given.mean)) * 0.18215
    eps, t = torch.randn_like(latents), torch.randint(1000, (2,))
    assert base.unclip is not None
    mean, std = base.unclip.mean.double(), base.unclip.std.double()
    a = (
        torch.cos((torch.arange(1, 1001) / 1000 + 0.008) / 1.008 * torch.pi / 2) ** 2
        / torch.cos(torch.tensor(0.008 / 1.008 * torch.pi / 2)) ** 2
    )
    a = torch.where(torch.arange(1000) == 999, a[998] * 0.001, a).double()[k][:, None]  # β ends at 0.999
    half = torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(WIDTH // 2) / (WIDTH // 2)).double()
    wave = torch.cat([(k[:, None] * half).cos(), (k[:, None] * half).sin()], dim=1)
    told = torch.cat([(a.sqrt() * (z.detach() - mean) / std + (1 - a).sqrt() * noise) * std + mean, wave], dim=1)
    kept = base.alphas_cumprod.double()[t].view(-1, 1, 1, 1)
    with torch.no_grad():
        noisy, nobody = kept.sqrt() * latents + (1 - kept).sqrt() * eps, torch.zeros_like(told)
        made = base.unet(noisy, t, texts.hidden, class_labels=told).sample
        without = base.unet(noisy, t, nothing.hidden.expand(2, -1, -1), class_labels=nobody).sample
        made = without + guidance * (made - without)
    weight = ((1 - kept) / kept).clamp(max=1)  # min(snr, 1) / snr
    value = loss(z)
    torch.testing.assert_close(value.detach(), (weight * (made - eps).square()).mean().to(value), rtol=1e-4, atol=0)

    value.backward()
    assert z.grad is not None
    assert all(p.grad is None for p in [*base.unet.parameters(), *base.text_encoders[0].parameters()])
    step = 1e-4 * z.grad / z.grad.norm()
    with torch.no_grad():
        rise = (loss(z + step) - loss(z - step)) / 2
    torch.testing.assert_close(rise, (z.grad * step).sum(), rtol=1e-5, atol=0)


def test_it_begins_at_the_mean_of_what_the_bases_own_eye_sees(folder: Path) -> None:
    base = load(folder)
    eye = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder")
    prepare = CLIPImageProcessorPil.from_pretrained(folder / "feature_extractor")
    shown = [Image.fromarray(pixels.numpy()) for pixels in pictures().pixels]
    with torch.no_grad():
        expected = eye(**prepare(images=shown, return_tensors="pt")).image_embeds.mean(0, keepdim=True)
    assert base.unclip is not None
    start = inversion._start(base, base.unclip, pictures(), "pictures")
    torch.testing.assert_close(base.unclip.unscale(start), expected, rtol=0, atol=1e-4)
    assert inversion._start(base, base.unclip, pictures(), "mean").abs().max() == 0


def test_only_the_embedding_is_ever_a_parameter_and_a_pull_holds_it(folder: Path, tmp_path: Path) -> None:
    base = load(folder)
    free = run(base, tmp_path / "free", {"learning_rate": 0.5}, pull=0.0).tensors[inversion.KEY]
    state = torch.load(tmp_path / "free" / "state.pt", weights_only=True)
    assert [tuple(tensor.shape) for tensor in state["parameters"]] == [(1, WIDTH)]
    held = run(base, tmp_path / "held", {"learning_rate": 0.5}, pull=1e4).tensors[inversion.KEY]
    assert base.unclip is not None
    start = base.unclip.unscale(inversion._start(base, base.unclip, pictures(), "pictures"))
    assert (held - start).norm() < (free - start).norm()
    assert base.unclip.supplied == []


def test_texts_say_what_captions_say_but_for_the_name_which_the_embedding_tells() -> None:
    given = Batch(("a", "b"), torch.zeros(2), torch.zeros(2), texts=("a Sks on a red rug", "sksy, drawn"))

    def texts(templates: list[str], **changes: Any) -> list[str]:
        params: Any = params_of(METHOD, templates=templates, **changes)
        return inversion._texts(given, params)

    assert texts(["[filewords]"], name="sks") == ["a on a red rug", "sksy, drawn"]
    assert texts(["[name], [filewords]"], name="owl", trigger=True) == ["owl, a Sks on a red rug", "owl, sksy, drawn"]
    assert texts([""]) == ["", ""]


def test_strength_goes_from_the_middle_of_all_pictures_to_the_embedding(folder: Path) -> None:
    base = load(folder)
    assert base.unclip is not None
    own = base.unclip.scale(artifact(1).tensors[inversion.KEY])
    for strength in (0.0, 0.25, 1.0):
        with inversion.apply(artifact(1), base, strength=strength):
            torch.testing.assert_close(in_force(base), strength * own, rtol=0, atol=1e-5)


def test_several_are_interpolated_along_an_arc_and_forgotten_one_by_one(folder: Path) -> None:
    base = load(folder)
    assert base.unclip is not None
    one, two = (base.unclip.scale(artifact(seed).tensors[inversion.KEY]) for seed in (1, 2))
    with inversion.apply(artifact(1), base):
        with inversion.apply(artifact(2), base, strength=0.5, noise_level=40):
            half, level = in_force(base), base.unclip.supplied[-1].level
            between = picture(base)
        first = picture(base)
    omega = torch.acos(torch.nn.functional.cosine_similarity(one, two))
    torch.testing.assert_close(half, (one + two) / (2 * torch.cos(omega / 2)), rtol=0, atol=1e-5)
    assert level == 40
    assert not torch.equal(between, first)


def test_noise_frees_the_picture(folder: Path) -> None:
    base = load(folder)
    drawn = []
    for level in (0.0, 500.0, 5000.0):
        with inversion.apply(artifact(1), base, noise_level=level):
            drawn.append(picture(base))
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])  # more than there is: all noise


def test_sd2_learns_it_as_well(tmp_path: Path) -> None:
    base = load_base(build_tiny(tmp_path / "tiny", "sd2", unclip=True))
    untouched = picture(base)
    made = run(base, tmp_path / "scratch", {"steps": 2, "checkpoint_every": 2}, noise_level=300)
    assert made.tensors[inversion.KEY].shape == (1, WIDTH)
    with inversion.apply(made, base):
        assert not torch.equal(picture(base), untouched)
    assert torch.equal(picture(base), untouched)


def test_it_is_learned_through_image_variations_as_well(tmp_path: Path) -> None:
    base = load_base(build_tiny(tmp_path / "tiny", variation=True))
    untouched = picture(base)
    made = run(base, tmp_path / "scratch", {"steps": 2, "checkpoint_every": 2})
    start = inversion._start(base, inversion._unclip(base), image_set(base)["pictures"], "pictures")
    assert 0 < (made.tensors[inversion.KEY] - start).abs().max() < 0.1
    drawn = []
    for strength in (0.0, 0.5, 1.0):
        with inversion.apply(made, base, strength=strength):
            drawn.append(picture(base))
    assert torch.equal(drawn[0], untouched)  # no picture is the middle of all
    assert not torch.equal(drawn[1], drawn[2])
    assert torch.equal(picture(base), untouched)
    with pytest.raises(BaseError, match="does not support noise on embeddings"):
        run(base, tmp_path / "noisy", noise_level=1)


def test_another_base_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    with pytest.raises(BaseError, match="no unCLIP base, and clip_inversion needs one"):
        run(base, tmp_path)
    with pytest.raises(BaseError, match="no unCLIP base"), inversion.apply(artifact(1), base):
        pass


@pytest.mark.parametrize("width", [768, 1024])
def test_its_file_holds_one_row_of_float32_and_says_where_it_is_from(width: int, tmp_path: Path) -> None:
    made = Artifact(METHOD, {inversion.KEY: torch.randn(1, width).half()}, artifact(1).facts)
    (path,) = clip_image_embedding.write(made, Draft(tmp_path))
    assert path.name == "sks.safetensors"
    assert 4 * width < path.stat().st_size < 4 * width + 512
    header = read_header(path)
    assert header[inversion.KEY]["shape"] == [1, width]
    assert header["__metadata__"]["method"] == METHOD
    assert identify(path) == "clip_image_embedding"
    tensors, facts = clip_image_embedding.read(path)
    assert torch.equal(tensors[inversion.KEY].half(), made.tensors[inversion.KEY])
    assert facts == {"name": "sks", "base": "models/x", "noise_level": 7}


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    made = Artifact(METHOD, {inversion.KEY: torch.zeros(8)}, artifact(1).facts)
    (path,) = clip_image_embedding.write(made, Draft(tmp_path))
    with pytest.raises(FormatError, match=r"no tensor `clip_image_embeds` of shape \[1, d\]"):
        clip_image_embedding.read(path)
