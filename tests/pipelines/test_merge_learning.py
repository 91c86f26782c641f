"""Weights of task arithmetic that are learned: the models teach, and the merge answers as they do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from etude.base.base import Base
from etude.base.loading import load_base
from etude.base.text import encode_prompts
from etude.core import artifact as artifacts
from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.method import Input
from etude.core.tensors import read_tensors
from etude.diffusion.noise import predict
from etude.diffusion.weights import swapped
from etude.formats.pairs import Pair
from etude.training.report import Report
from pipelines.model_merge import method as merge
from pipelines.model_merge.method.merging.engine import Merge
from pipelines.model_merge.method.merging.formulas import Numbers
from pipelines.model_merge.method.merging.learning import Lessons, Mixed, Rows, differences_of, learn, loss_of, teach
from pipelines.model_merge.method.merging.low_rank import concatenated
from pipelines.model_merge.method.merging.sources import Model, open_base, open_model
from pipelines.model_merge.method.settings import Learning, Params, Weight
from tests.pipelines.learning import params_of, parents
from tests.tiny import build_tiny

PROMPTS = {"a": ["otter", "flat otter"], "b": ["noto otter", "otter on a red background"]}


@pytest.fixture
def base(tiny_base: Path) -> Base:
    return load_base(tiny_base)


def learning(count: int = 2, **changes: Any) -> Learning:
    params: Any = params_of("model_merge")
    prompts = dict(list(PROMPTS.items())[:count])
    made: Learning = params.learning.model_copy(update={"prompts": prompts, "importance": [0.5, 1.0][:count]} | changes)
    return made


def opened(base: Base, folder: Path) -> list[Model]:
    return [open_model(m.path, open_base(base.path), base.family) for m in parents(base, folder).values()]


def report(folder: Path) -> Report:
    return Report(folder, seed=3, device="cpu", precision="fp32")


def everything(lessons: list[Lessons]) -> Rows:
    return Rows(tuple("ab"[: len(lessons)]), tuple(torch.arange(len(each.noisy)) for each in lessons))


def error(base: Base, models: list[Model], weights: Tensor, asked: Learning) -> float:
    """The loss over all lessons at ``weights``, one for each model and row."""
    lessons = [teach(base, m, {}, p, asked) for m, p in zip(models, asked.prompts.values(), strict=True)]
    mixed = replace(base, unet=Mixed(base.unet, differences_of(base, models), weights))
    return float(loss_of(mixed, lessons, everything(lessons), encode_prompts(base, [""]), asked).detach())


def rows_of(base: Base, models: list[Model]) -> int:
    return sum(len(base.unet.get_parameter(name)) for name in differences_of(base, models))


def test_a_model_that_is_alone_is_found_again(base: Base, tmp_path: Path) -> None:
    model = opened(base, tmp_path)[0]
    asked = learning(1, steps=60, learning_rate=0.05, batch_size=4, log_every=60)
    found = learn(base, [model], {}, [0.3], asked, report(tmp_path))
    assert set(found) == set(model.own)
    assert all(weights.shape == (len(model.weights[name]), 1) for name, weights in found.items())
    flat = torch.cat([found[f"unet.{name}"] for name in differences_of(base, [model])])
    before = error(base, [model], torch.full_like(flat, 0.3), asked)
    assert error(base, [model], flat, asked) < 0.1 * before
    assert error(base, [model], torch.ones_like(flat), asked) < 1e-9


def test_two_models_are_both_answered_better_than_with_one_weight_each(base: Base, tmp_path: Path) -> None:
    models, asked = opened(base, tmp_path), learning(steps=30, learning_rate=0.05, batch_size=4)
    found = learn(base, models, {}, [0.5, 0.5], asked, report(tmp_path))
    flat = torch.cat([found[f"unet.{name}"] for name in differences_of(base, models)])
    for importance in ([1.0, 1e-9], [1e-9, 1.0]):
        one = asked.model_copy(update={"importance": importance})
        assert error(base, models, flat, one) < 0.7 * error(base, models, torch.full_like(flat, 0.5), one)


def test_the_loss_is_the_formula_and_its_gradient_the_finite_difference(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base, dtype=torch.float64)
    models, asked = opened(base, tmp_path), learning()
    lessons = [teach(base, m, {}, p, asked) for m, p in zip(models, asked.prompts.values(), strict=True)]
    assert [each.noisy.dtype for each in lessons] == [torch.float64] * 2
    source = torch.Generator().manual_seed(0)
    weights = torch.rand(rows_of(base, models), 2, generator=source, dtype=torch.float64).requires_grad_()
    batch, nothing = Rows(("a", "b"), (torch.tensor([0, 3]), torch.tensor([1, 2]))), encode_prompts(base, [""])
    mixed = replace(base, unet=Mixed(base.unet, differences_of(base, models), weights))

    def value() -> Tensor:
        return loss_of(mixed, lessons, batch, nothing, asked)

    loss = value()
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == pytest.approx(
        written_out(base, models, lessons, batch, weights.detach(), asked), rel=1e-9
    )
    assert weights.grad is not None
    for row, model in ((5, 0), (40, 1), (len(weights) - 1, 0)):
        with torch.no_grad():
            weights[row, model] += 1e-5
            above = float(value())
            weights[row, model] -= 2e-5
            below = float(value())
            weights[row, model] += 1e-5
        assert float(weights.grad[row, model]) == pytest.approx((above - below) / 2e-5, rel=1e-4, abs=1e-9)


def written_out(
    base: Base, models: list[Model], lessons: list[Lessons], batch: Rows, weights: Tensor, asked: Learning
) -> float:
    """Each model's answers by its own UNet, and the merge's by one whose weights are put together here."""
    own, start, merged = open_base(base.path), 0, {}
    for name in differences_of(base, models):
        full = f"unet.{name}"
        here = weights[start : (start := start + len(own[full]))]
        shape = (-1, *[1] * (own[full].ndim - 1))
        parts = [here[:, i].view(shape) * (m.weights[full].double() - own[full].double()) for i, m in enumerate(models)]
        merged[full] = own[full].double() + parts[0] + parts[1]
    total = 0.0
    for model, each, chosen, importance in zip(models, lessons, batch.rows, asked.importance, strict=True):
        wanted, changed, before = (
            answers(base, tensors, each, asked.drawing.guidance)
            for tensors in ({n: model.weights[n] for n in model.own}, merged, {})
        )
        assert torch.allclose(wanted, each.answers, atol=1e-9)
        effect = (wanted - before).square().mean()
        total += importance * float((changed - wanted)[chosen].square().mean() / effect)
    return total / sum(asked.importance)


def answers(base: Base, tensors: Mapping[str, Tensor], lessons: Lessons, γ: float) -> Tensor:
    """u + γ(c - u) for each lesson by itself."""
    nothing, found = encode_prompts(base, [""]), []
    with torch.no_grad(), swapped(base, {name: tensor.double() for name, tensor in tensors.items()}):
        for noisy, t, text in zip(lessons.noisy, lessons.times, lessons.texts.tolist(), strict=True):
            u, c = (predict(base, noisy[None], t, said) for said in (nothing, lessons.conditioning[text : text + 1]))
            found.append(u + γ * (c - u))
    return torch.cat(found)


def test_each_row_is_merged_with_its_own_weights_across_pieces() -> None:
    name, source = "unet.mid_block.attentions.0.proj_in.weight", torch.Generator().manual_seed(0)
    a, b, base = (torch.randn(3, 700_001, generator=source) for _ in range(3))
    weights = torch.rand(3, 2, generator=source)
    one = Weight(unet=1.5, rest=1.0)
    asked: dict[str, Any] = {"density": 1.0, "weights": (9.0, 9.0), "clip": False, "dtype": torch.float32, "seed": 0}
    made = Merge([{name: x} for x in (a, b, base)], "task_arithmetic", one, one, learned={name: weights}, **asked)
    expected = base + 1.5 * (weights[:, :1] * (a - base) + weights[:, 1:] * (b - base))
    assert torch.allclose(made.tensor(name), expected, atol=1e-5)
    other = "unet.mid_block.attentions.1.proj_in.weight"
    made = replace(made, models=[{other: x} for x in (a, b, base)])
    assert torch.allclose(made.tensor(other), base + 13.5 * ((a - base) + (b - base)), atol=1e-4)


def test_loras_side_by_side_are_exact_with_weights_for_rows_too() -> None:
    source = torch.Generator().manual_seed(0)
    pairs = [Pair(torch.randn(2, 5, generator=source), torch.randn(4, 2, generator=source), 1.0) for _ in range(2)]
    weights = torch.rand(4, 2, generator=source)
    numbers = {"x.weight": Numbers(0.7, 0.0, weights=weights.unbind(1))}
    made = concatenated([{"x": pair} for pair in pairs], numbers)["x"]
    each = [0.7 * weights[:, i : i + 1] * (pair.up @ pair.down) / 2 for i, pair in enumerate(pairs)]
    assert torch.allclose(made.up @ made.down * made.alpha / made.rank, each[0] + each[1], atol=1e-6)


def test_a_model_that_answers_as_the_base_does_is_named(base: Base, tmp_path: Path) -> None:
    models = opened(base, tmp_path)
    models[1] = Model(models[1].weights, [])
    with pytest.raises(
        FormatError, match=r"model b: draws its `learning.prompts` just as the base.*learning\.prompts\.b"
    ):
        learn(base, models, {}, [1.0, 1.0], learning(), report(tmp_path))


def test_where_no_model_changed_the_unet_nothing_is_learned(base: Base, tmp_path: Path) -> None:
    own = open_base(base.path)
    text = {name: tensor + 0.1 for name, tensor in own.items() if name.endswith("mlp.fc1.weight")}
    artifacts.save(Artifact("fine_tuning", text, {"family": "sd1"}), tmp_path / "t/artifact.safetensors")
    made = build(base, {"a": tmp_path / "t", "b": tmp_path / "t"}, tmp_path)
    for name, tensor in made.tensors.items():
        assert torch.allclose(tensor, own[name] + 1.0 * (text[name] - own[name]), atol=1e-5)


@pytest.mark.parametrize("parts", [["unet", "text"], ["unet"], ["unet", "vae"]])
def test_the_lessons_are_drawn_with_the_text_encoders_that_the_merge_will_have(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: list[str]
) -> None:
    own, taught = open_base(base.path), []
    texts = [name for name in own if name.endswith("mlp.fc1.weight")]
    models = [{"unet.conv_in.weight": own["unet.conv_in.weight"] + n, texts[n]: own[texts[n]] + n} for n in (1, 2)]
    for letter, tensors in zip("ab", models, strict=True):
        artifacts.save(Artifact("fine_tuning", tensors, {"family": "sd1"}), tmp_path / letter / "artifact.safetensors")

    def learn_nothing(_base: Base, _models: list[Model], texts: Mapping[str, Tensor], *_: Any) -> dict[str, Tensor]:
        taught.append(texts)
        return {}

    monkeypatch.setattr("pipelines.model_merge.method.merging.learning.learn", learn_nothing)
    build(base, {"a": tmp_path / "a", "b": tmp_path / "b"}, tmp_path, parts=parts)
    merged = {texts[n]: own[texts[n]] + n / 2 for n in (1, 2)}  # half of what each of both changed
    expected = merged if "text" in parts else {texts[1]: models[0][texts[1]]}
    assert taught[0].keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(taught[0][name], tensor)


def build(base: Base, paths: Mapping[str, Path], scratch: Path, **changes: Any) -> Artifact:
    changes = {"alpha": {"unet": 1.0, "rest": 1.0}, "weights": [0.5, 0.5], "save": "fp32", **changes}
    params: Any = params_of("model_merge", models={k: p.as_posix() for k, p in paths.items()}, **changes)
    assert isinstance(params, Params)
    assert params.learns
    return merge.build(
        base=base, models={k: Input(p, "-") for k, p in paths.items()}, params=params, report=report(scratch)
    )


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_the_other_families_learn_too(family: str, tmp_path: Path) -> None:
    base = load_base(build_tiny(tmp_path / "tiny", family))
    models = parents(base, tmp_path)
    made = build(base, {letter: model.path for letter, model in models.items()}, tmp_path)
    a, b = (read_tensors(model.path / "artifact.safetensors")[0] for model in models.values())
    own = open_base(base.path)
    plain = {n: own[n] + 0.5 * (a[n] - own[n]) + 0.5 * (b[n] - own[n]) for n in a}
    assert any(not torch.allclose(made.tensors[name], plain[name], atol=1e-4) for name in a)
