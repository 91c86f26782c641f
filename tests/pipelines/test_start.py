"""What learning goes on from: it begins with those values, and what does not fit is refused before weights are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from etude.base.loading import load_base
from etude.core import artifact as artifacts
from etude.core.artifact import Artifact
from etude.core.errors import InputError, ParamsError
from etude.core.method import load_method, method_names
from etude.core.params import MethodParams
from etude.training.report import Report
from etude.training.start import Start, Starts, refuse_unfit
from tests.pipelines.learning import image_set, needs, on_tiny, params_of, same

LEARNING = [name for name in method_names() if issubclass(load_method(name).Params, Starts)]
STILL = 1e-50  # a rate that is 0 in float32
ONE = {"steps": 1, "checkpoint_every": 1, "ema": 0.0, "schedule": "constant"}


def learn(method: str, base: Path, params: MethodParams, scratch: Path, beginning: Start | None = None) -> Artifact:
    loaded, module = load_base(base), load_method(method)
    data = image_set(loaded)
    report = Report(scratch, seed=3, device="cpu", precision="fp32", beginning=beginning)
    built: Artifact = module.build(
        base=loaded, params=params, report=report, **{name: data[name] for name in needs(module)}
    )
    return built


def brief(method: str, base: Path, rate: float, **changes: Any) -> MethodParams:
    return params_of(method, ONE | {"learning_rate": rate}, save="fp32", **on_tiny(method, base) | changes)


@pytest.mark.parametrize("method", LEARNING)
def test_learning_goes_on_from_the_values_of_its_start(method: str, tiny_base: Path, tmp_path: Path) -> None:
    first = learn(method, tiny_base, brief(method, tiny_base, 0.01), tmp_path / "first")
    artifacts.save(Artifact(method, first.tensors, {**first.facts, "family": "sd1"}), tmp_path / "one.safetensors")
    start = Start("models/one.safetensors", tmp_path / "one.safetensors")
    params = brief(method, tiny_base, STILL)
    refuse_unfit(params, start, tiny_base, "sd1")
    again = learn(method, tiny_base, params, tmp_path / "again", start)
    assert same(again.tensors, first.tensors)


def test_every_method_takes_a_start_or_says_why_it_has_none() -> None:
    without = set(method_names()) - set(LEARNING)
    for name in without:
        schema = load_method(name).Params
        assert "start" in schema.model_fields or schema.refused_keys["start"], name
    with pytest.raises(ParamsError, match="there is no `start` here: nothing is trained"):
        params_of("aesthetic_gradient", start="models/none")


def saved(path: Path, method: str, tensors: dict[str, torch.Tensor], **facts: Any) -> Start:
    artifacts.save(Artifact(method, tensors, {"family": "sd1", **facts}), path)
    return Start("models/one.safetensors", path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rank": 4}, "has rank 16 in `.*`, where the params say 4"),
        ({"alpha": 4.0}, "has alpha 16 in `.*`, where the params say 4"),
        ({"kind": "dora"}, "is of the kind lora, and `kind` is dora"),
        ({"targets": ["attention"]}, r"also changes \d+ layers that are not trained here, such as `unet"),
        ({"text_encoder_rate": 1.0}, r"does not change \d+ layers that are trained here, such as `text_encoder"),
    ],
)
def test_a_lora_of_another_form_is_refused_with_both_values(
    lora: Start, tiny_base: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=rf"^models/one.safetensors: {said}.* Next: change the params"):
        refuse_unfit(params_of("lora", **changes), lora, tiny_base, "sd1")


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Start:
    folder = tmp_path_factory.mktemp("lora")
    made = learn("lora", tiny_base, brief("lora", tiny_base, 0.01), folder / "scratch")
    return saved(folder / "one.safetensors", "lora", made.tensors, **made.facts)


def test_a_start_of_another_family_is_refused(lora: Start, tiny_base: Path) -> None:
    with pytest.raises(InputError, match="was made for a base of sd1, but the base .* is sdxl"):
        refuse_unfit(params_of("lora"), lora, tiny_base, "sdxl")


@pytest.mark.parametrize(
    ("method", "tensors", "facts", "said"),
    [
        ("textual_inversion", {"text_encoder": torch.ones(2, 32)}, {}, "has 2 vectors, and `vectors` is 4"),
        (
            "textual_inversion",
            {"text_encoder": torch.ones(4, 16)},
            {},
            r"has the shape \[4, 16\], and this run needs \[4, 32\]",
        ),
        ("dream_artist", {"positive.text_encoder": torch.ones(4, 32)}, {}, "has no vectors of the negative word"),
        ("hypernetwork", {"a": torch.ones(1)}, {"structure": [1, 4, 1]}, r"has `structure` \[1, 4, 1\], where .*2"),
        ("custom_diffusion", {"a": torch.ones(1)}, {"words": ["<cat>"]}, "has the words <cat>, and `concepts` has"),
        ("fine_tuning", {"unet.conv_in.bias": torch.ones(1)}, {}, r"lacks \d+ of the \d+ tensors that this run learns"),
    ],
)
def test_what_a_start_has_otherwise_is_told_with_both_values(
    method: str, tensors: dict[str, torch.Tensor], facts: dict[str, Any], said: str, tiny_base: Path, tmp_path: Path
) -> None:
    start = saved(tmp_path / "one.safetensors", method, tensors, **facts)
    with pytest.raises(InputError, match=said):
        refuse_unfit(params_of(method), start, tiny_base, "sd1")
