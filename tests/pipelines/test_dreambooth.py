from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from etude.base.base import Base
from etude.base.loading import load_base
from etude.base.text import encode_prompts
from etude.core import artifact as artifacts
from etude.core.artifact import Artifact
from etude.core.errors import FormatError, ParamsError
from etude.core.files import Draft
from etude.core.randomness import mix
from etude.diffusion.noise import predict
from etude.diffusion.weights import learning, parts_of
from etude.formats.checkpoint import diffusers_checkpoint, ldm_checkpoint
from etude.training.batches import Batches
from etude.training.prior import Prior
from etude.training.report import Report
from pipelines.dreambooth import method as dreambooth
from tasks.export import read_frame
from tests.etude.training.test_plan import SGD
from tests.pipelines.learning import class_images, image_set, params_of, picture, squared_errors
from tests.tiny import build_tiny

METHOD = "dreambooth"
ASKED = params_of(METHOD).model_dump()["class_images"]
PLAIN = {"optimizer": SGD, "learning_rate": 10.0, "clip": 0.0, "steps": 1}


def run(
    base: Base, scratch: Path, training: dict[str, Any] | None = None, prior: Prior | None = None, **changes: Any
) -> Artifact:
    params: Any = params_of(
        METHOD, {"steps": 2, "checkpoint_every": 9, **(training or {})}, **{"save": "fp32"} | changes
    )
    report = Report(scratch, seed=3, device="cpu", precision="fp32")
    images = image_set(base)["images"]
    return dreambooth.build(
        base=base, images=images, class_images=prior or class_images(base), params=params, report=report
    )


def written_out(base: Base, seed: int, templates: list[str], λ: float, γ: float) -> Tensor:
    """The first step's loss: mean w (ε_θ(z_t, "sks bear") - ε)² + λ · mean w (ε_θ(z_t, "bear") - ε)².

    w = min(snr, γ) / snr, of each sample's own timestep.
    """
    own = Batches(image_set(base)["images"], None, batch_size=2, seed=seed)(0)
    prior = class_images(base)
    kept = Batches(prior.images, prior.captions, batch_size=2, seed=mix(seed, "class"))(0)
    torch.manual_seed(mix(seed, "step", 0))
    texts = [templates[i] for i in torch.randint(len(templates), (2,)).tolist()] + ["bear", "bear"]
    mean, logvar = torch.cat([own.mean, kept.mean]), torch.cat([own.logvar, kept.logvar])
    squares, ᾱ = squared_errors(base, mean, logvar, texts)
    snr = (ᾱ / (1 - ᾱ)).flatten()
    first, second = (squares.mean(dim=(1, 2, 3)) * snr.clamp(max=γ) / snr).chunk(2)
    return first.mean() + λ * second.mean()


def test_a_step_goes_against_the_gradient_of_the_written_formula(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base, dtype=torch.float64)
    templates = ["[name]", "a photo of [name]"]
    asked = {"name": "sks bear", "class_images": ASKED | {"prompts": ["bear"]}, "prior_batch_size": 2}
    made = run(
        base, tmp_path, PLAIN | {"batch_size": 2, "min_snr": 5.0}, templates=templates, prior_weight=0.3, **asked
    )
    for parameter in base.unet.parameters():
        parameter.requires_grad_(True)
    written_out(base, 3, [text.replace("[name]", "sks bear") for text in templates], 0.3, 5.0).backward()
    for name, parameter in base.unet.named_parameters():
        expected = parameter.detach() - 10 * parameter.grad
        torch.testing.assert_close(made.tensors[f"unet.{name}"], expected.float(), rtol=1e-5, atol=1e-6)


def same(one: Artifact, other: Artifact) -> bool:
    return all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


def test_every_weight_of_the_unet_learns_and_the_text_encoder_only_on_request_at_its_own_rate(
    tiny_base: Path, tmp_path: Path
) -> None:
    base = load_base(tiny_base)
    made = run(base, tmp_path / "unet")
    before = dict(base.unet.named_parameters())
    assert {f"unet.{name}" for name in before} == set(made.tensors)
    still = [name for name, weight in before.items() if torch.equal(weight, made.tensors[f"unet.{name}"])]
    assert still == []
    slow, fast = (run(base, tmp_path / str(rate), text_encoder_rate=rate) for rate in (0.01, 1.0))
    name = "text_encoder.encoder.layers.3.self_attn.v_proj.weight"
    start = base.text_encoders[0].get_parameter(name.removeprefix("text_encoder.")).detach()
    moved = [(made.tensors[name] - start).abs().max() for made in (slow, fast)]
    assert 0 < moved[0] < 0.05 * moved[1]


def test_the_class_is_learned_beside_and_without_weight_it_does_not_count(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    prior = class_images(base)
    other = Prior(replace(prior.images, mean=prior.images.mean[::-1]), prior.captions)
    one = {"steps": 1}
    assert not same(run(base, tmp_path / "a", one), run(base, tmp_path / "b", one, prior=other))
    without = [run(base, tmp_path / str(i), one, prior_weight=0.0, prior=p) for i, p in enumerate((prior, other))]
    assert same(*without)


def test_every_template_is_drawn_from_and_the_words_are_read_live_while_the_text_encoder_learns(
    tiny_base: Path, tmp_path: Path
) -> None:
    base = load_base(tiny_base)
    one = run(base, tmp_path / "a")
    assert not same(one, run(base, tmp_path / "b", templates=["[name]", "a photo of [name]"]))
    # With a rate that moves nothing, live states give what kept states give.
    still = run(base, tmp_path / "c", text_encoder_rate=1e-30)
    for name, tensor in one.tensors.items():
        torch.testing.assert_close(still.tensors[name], tensor, rtol=1e-3, atol=2e-5)


def test_strength_goes_from_the_base_to_what_was_learned_and_beyond(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    made = run(base, tmp_path, {"learning_rate": 0.01})
    untouched = picture(base)
    name = "conv_in.weight"
    start = base.unet.get_parameter(name).detach().clone()
    for strength in (0.0, 0.5, 1.0, 1.5):
        with dreambooth.apply(made, base, strength=strength):
            now = base.unet.get_parameter(name).detach()
            torch.testing.assert_close(now, torch.lerp(start, made.tensors[f"unet.{name}"], strength))
            if strength == 0:
                assert torch.equal(picture(base), untouched)
    assert torch.equal(base.unet.get_parameter(name), start)


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_other_families_learn_save_and_apply(family: str, tmp_path: Path) -> None:
    base = load_base(build_tiny(tmp_path / "tiny", family))
    made = run(base, tmp_path / "scratch", {"steps": 1}, text_encoder_rate=1.0, save="fp16")
    assert {name.partition(".")[0] for name in made.tensors} == set(parts_of(base))
    artifacts.save(made, tmp_path / "a.safetensors")
    untouched = picture(base)
    with dreambooth.apply(artifacts.load(tmp_path / "a.safetensors"), base) as changed:
        assert not torch.equal(picture(changed), untouched)
    assert torch.equal(picture(base), untouched)


def test_what_is_trained_is_what_is_applied(tiny_base: Path) -> None:
    base = load_base(tiny_base)
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([10, 700])
    with learning(parts_of(base)) as weights:
        with torch.no_grad():
            for weight in weights.values():
                weight.add_(0.01 * torch.randn_like(weight))
            trained = predict(base, *inputs, encode_prompts(base, ["otter", "cat"]))
        tensors = {name: weight.detach().clone() for name, weight in weights.items()}
    with dreambooth.apply(Artifact(METHOD, tensors, {}), base), torch.no_grad():
        assert torch.equal(predict(base, *inputs, encode_prompts(base, ["otter", "cat"])), trained)


def test_an_artifact_of_another_base_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    other = load_base(build_tiny(tmp_path / "sdxl", "sdxl"), parts=("unet",))
    tensors = {f"unet.{name}": parameter for name, parameter in other.unet.named_parameters()}
    with pytest.raises(FormatError), dreambooth.apply(Artifact(METHOD, tensors, {}), base):
        pass


def test_on_the_true_sd15_it_holds_all_values_of_the_unet_and_of_the_text_encoder() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        size = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
        text = CLIPTextModel(CLIPTextConfig(**size))
    base: Any = SimpleNamespace(unet=unet, text_encoders=(text,), text_parts=("text_encoder",))
    with learning(parts_of(base)) as weights:
        counts = {part: [w.numel() for n, w in weights.items() if n.startswith(f"{part}.")] for part in parts_of(base)}
    assert (len(counts["unet"]), sum(counts["unet"])) == (686, 859_520_964)
    assert (len(counts["text_encoder"]), sum(counts["text_encoder"])) == (196, 123_060_480)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "sks"}, "`name` is 'sks'.*a rare word and the word of the class"),
        ({"templates": ["a photo"]}, "`templates"),
        ({"name": "sks dog"}, "'eagle' without 'dog', the class in `name`"),
        ({"prior_weight": -1.0}, "`prior_weight"),
        (
            {"class_images": ASKED | {"prompts": []}},
            "class_images: `prompts` is empty, and `count` is 32: write a prompt there",
        ),
        ({"class_images": ASKED | {"prompts": ["sks eagle"]}}, "'sks eagle': remove 'sks', because class images"),
        ({"class_images": ASKED | {"prompts": ["an Eagle, SKS"]}}, "'an Eagle, SKS': remove 'sks'"),
    ],
)
def test_a_value_that_cannot_be_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ParamsError, match=said):
        params_of(METHOD, **change)


def test_a_prior_without_pictures_is_refused_before_anything_runs() -> None:
    asked = params_of(METHOD).model_dump()["class_images"] | {"count": 0}
    with pytest.raises(ParamsError, match="`prior_weight` needs pictures of the class"):
        params_of(METHOD, class_images=asked)
    params_of(METHOD, class_images=asked, prior_weight=0.0)
    assert params_of(METHOD, class_images=asked | {"real": ["style"]}).image_sets() == ["concept", "style"]


def test_diffusers_predicts_the_same_from_both_files(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    noise = torch.Generator().manual_seed(0)
    weights = {
        f"unet.{name}": p + 0.02 * torch.randn(p.shape, generator=noise) for name, p in base.unet.named_parameters()
    }
    artifact = Artifact(METHOD, weights, {"name": "sks bear", "family": "sd1", "prediction": "epsilon"})
    frame = read_frame(tiny_base)
    for form in (diffusers_checkpoint, ldm_checkpoint):
        form.write(artifact, Draft(tmp_path), frame)
    noisy, t = torch.randn(2, 4, 8, 8), torch.tensor([900, 20])
    with dreambooth.apply(artifact, base), torch.no_grad():
        text = encode_prompts(base, ["sks bear", "a red cat"])
        ours = predict(base, noisy, t, text)
    pipes = (
        StableDiffusionPipeline.from_pretrained(tmp_path / "sksbear", local_files_only=True),
        StableDiffusionPipeline.from_single_file(
            str(tmp_path / "sksbear.safetensors"), config=str(tmp_path / "sksbear.config"), local_files_only=True
        ),
    )
    for pipe in pipes:
        ids = pipe.tokenizer(["sks bear", "a red cat"], padding="max_length", return_tensors="pt").input_ids
        with torch.no_grad():
            theirs = pipe.unet(noisy, t, encoder_hidden_states=pipe.text_encoder(ids)[0]).sample
        assert (ours - theirs).abs().max() < 1e-5
    assert (ours - predict(base, noisy, t, text)).abs().max() > 1e-2
