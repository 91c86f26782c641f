from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from etude.base.base import Base
from etude.base.loading import load_base
from etude.base.single import CONFIGS
from etude.base.text import encode_prompts
from etude.core import artifact as artifacts
from etude.core.artifact import Artifact
from etude.core.errors import ParamsError
from etude.core.randomness import mix
from etude.diffusion.weights import parameters_of, parts_of
from etude.training.batches import Batches
from etude.training.report import Report
from pipelines.fine_tuning import method as fine_tuning
from tasks.export import export
from tests.etude.training.test_plan import SGD
from tests.finished import write_yaml
from tests.pipelines.learning import image_set, params_of, picture
from tests.tiny import build_tiny

METHOD = "fine_tuning"
PLAIN = {"optimizer": SGD, "learning_rate": 0.1, "clip": 0.0, "ema": 0.0}


def run(base: Base, scratch: Path, training: dict[str, Any] | None = None, **changes: Any) -> Artifact:
    params: Any = params_of(METHOD, training, **{"save": "fp32", **changes})
    data = image_set(base)
    report = Report(scratch, seed=3, device="cpu", precision="fp32")
    return fine_tuning.build(base=base, images=data["images"], captions=data["captions"], params=params, report=report)


def weights(base: Base) -> dict[str, Tensor]:
    named = [parameters_of(part, module) for part, module in parts_of(base).items()]
    return {name: parameter.detach().clone() for found in named for name, parameter in found.items()}


def written_out(base: Base, seed: int) -> Tensor:
    """The loss of the first step in the paper's formula: mean (ε_θ(√ᾱ z + √(1-ᾱ) ε, t, c) - ε)²."""
    data = image_set(base)
    torch.manual_seed(mix(seed, "step", 0))
    batch = Batches(data["images"], None, batch_size=2, seed=seed)(0)
    z = (batch.mean + (0.5 * batch.logvar).exp() * torch.randn_like(batch.mean)) * base.scaling_factor
    ε = torch.randn_like(z)
    t = torch.randint(1000, (2,))
    ᾱ = base.alphas_cumprod[t].view(2, 1, 1, 1)
    c = encode_prompts(base, [data["captions"].texts[name] for name in batch.names]).hidden
    kind = base.unet.dtype
    predicted = base.unet((ᾱ.sqrt() * z + (1 - ᾱ).sqrt() * ε).to(kind), t, encoder_hidden_states=c).sample
    return (predicted - ε.to(kind)).square().mean()


def test_a_step_goes_against_the_gradient_of_the_written_formula(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    before = weights(base)
    learned = run(base, tmp_path, {"steps": 1, **PLAIN}).tensors
    for parameter in base.unet.parameters():
        parameter.requires_grad_(True)
    written_out(base, seed=3).backward()
    for name, parameter in parameters_of("unet", base.unet).items():
        torch.testing.assert_close(learned[name], before[name] - 0.1 * parameter.grad, atol=1e-6, rtol=1e-4)
    assert sorted(learned) == sorted(name for name in before if name.startswith("unet."))


def test_the_gradient_of_the_written_formula_is_its_slope(tiny_base: Path) -> None:
    base = load_base(tiny_base, dtype=torch.float64)
    weight = base.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn2.to_k.weight
    weight.requires_grad_(True)
    (gradient,) = torch.autograd.grad(written_out(base, seed=3), weight)
    direction, step = gradient / gradient.norm(), 1e-3
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            weight.add_(sign * step * direction)
            values.append(written_out(base, seed=3))
            weight.sub_(sign * step * direction)
    slope = (values[0] - values[1]) / (2 * step)
    torch.testing.assert_close(slope, gradient.norm(), rtol=1e-5, atol=0)


def test_what_is_saved_is_the_average_over_the_steps(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    short = {"steps": 4, "checkpoint_every": 1, "learning_rate": 1e-2}
    run(base, tmp_path / "each", {**short, "ema": 0.0})
    followed = run(base, tmp_path / "ema", {**short, "ema": 0.5})
    name = "unet.conv_in.weight"
    average = weights(base)[name]
    for step in range(4):
        decay = min(0.5, (1 + step) / (10 + step))
        now = artifacts.load(tmp_path / f"each/results/checkpoints/{step + 1:06d}.safetensors").tensors[name]
        average = decay * average + (1 - decay) * now
        kept = artifacts.load(tmp_path / f"ema/results/checkpoints/{step + 1:06d}.safetensors").tensors[name]
        torch.testing.assert_close(kept, average)
    torch.testing.assert_close(followed.tensors[name], average)
    assert not torch.allclose(followed.tensors[name], now)


def test_the_text_encoder_learns_on_request_at_its_share_of_the_rate(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    before = weights(base)
    moved = []
    for rate in (1.0, 0.5):
        learned = run(base, tmp_path / str(rate), {"steps": 1, **PLAIN}, text_encoder_rate=rate).tensors
        moved.append({name: tensor - before[name] for name, tensor in learned.items()})
    full, half = moved
    assert {name.partition(".")[0] for name in full} == {"unet", "text_encoder"}
    for name in ("text_encoder.encoder.layers.3.mlp.fc1.weight", "text_encoder.final_layer_norm.weight"):
        assert full[name].abs().max() > 0
        torch.testing.assert_close(2 * half[name], full[name], atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(half["unet.conv_in.weight"], full["unet.conv_in.weight"], atol=1e-6, rtol=1e-3)


def test_no_strength_is_the_base_and_the_full_strength_what_was_learned(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    artifact = run(base, tmp_path, {"steps": 2, "learning_rate": 1e-2})
    untouched = picture(base)
    drawn = []
    for strength in (0.0, 0.5, 1.0):
        with fine_tuning.apply(artifact, base, strength=strength) as changed:
            drawn.append(picture(changed))
    assert torch.equal(drawn[0], untouched)
    assert not torch.equal(drawn[1], untouched)
    assert not torch.equal(drawn[1], drawn[2])


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_the_exported_models_draw_what_apply_draws(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = load_base(build_tiny(tmp_path / "models/tiny", family))
    short = {"steps": 2, "checkpoint_every": 2, "learning_rate": 1e-2}
    learned = run(base, tmp_path / "scratch", short, text_encoder_rate=0.5)
    parts = {"unet", "text_encoder", *(["text_encoder_2"] if family == "sdxl" else [])}
    assert {name.partition(".")[0] for name in learned.tensors} == parts
    facts = {"base": "models/tiny", "family": family, "prediction": base.prediction, "resolution": base.resolution}
    artifact = Artifact(METHOD, learned.tensors, learned.facts | facts)
    artifacts.save(artifact, Path("artifacts/fine_tuning/build/artifact.safetensors"))
    write_yaml(Path("pipelines/fine_tuning/params.yaml"), {"export": "final"})
    export(METHOD)
    with fine_tuning.apply(artifact, base) as changed:
        expected = picture(changed)
    assert (expected.int() - picture(base).int()).abs().max() > 20
    for name in ("otter.safetensors", "otter"):
        drawn = picture(load_base(Path("artifacts/fine_tuning/export") / name))
        assert (drawn.int() - expected.int()).abs().max() <= 1, name  # tensors lie otherwise in memory


def test_the_artifact_of_sd_1_5_is_its_unet() -> None:
    with torch.device("meta"):
        config = json.loads((CONFIGS / "sd1/unet/config.json").read_text())
        unet = UNet2DConditionModel.from_config(config)
    tensors = parameters_of("unet", unet)
    assert len(tensors) == 686
    assert sum(t.numel() for t in tensors.values()) == 859_520_964  # 1.719 GB fp16, 3.438 GB fp32


@pytest.mark.parametrize(
    ("change", "said"), [({"caption": "a photo"}, "caption"), ({"caption_dropout": 1.0}, "caption_dropout")]
)
def test_a_value_that_cannot_be_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ParamsError, match=f"`{said}"):
        params_of(METHOD, **change)
