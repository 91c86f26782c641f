from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from etude.base.base import Base
from etude.base.conditioning import Conditioning
from etude.base.latents import decode_latents
from etude.base.loading import load_base
from etude.base.text import encode_prompts
from etude.core.artifact import Artifact
from etude.core.errors import BaseError, FormatError, InputError, TrainingError
from etude.core.files import Draft
from etude.core.tensors import read_metadata, read_tensors
from etude.diffusion.hooks import replaced_weights
from etude.diffusion.noise import predict
from etude.diffusion.sample import make_scheduler
from etude.formats import identify
from etude.formats.inversion import null_text
from etude.training.opening import open_base
from etude.training.report import Report
from pipelines.null_text_inversion import method as null
from pipelines.null_text_inversion.method import inversion as inversions
from pipelines.null_text_inversion.method.attention import Control, Edit, controlled, edit, read_weights
from pipelines.null_text_inversion.method.batch import Album, Progress, measures, psnr
from pipelines.null_text_inversion.method.custom_sampler import EditingSampler
from pipelines.null_text_inversion.method.inversion import Inversion, Rule
from pipelines.null_text_inversion.method.path import Path as Way
from pipelines.null_text_inversion.method.path import draw, pivot, plan, towards_noise, towards_picture
from tests.pipelines.learning import image_set, params_of, picture
from tests.tiny import build_tiny

METHOD = "null_text_inversion"
FAMILIES = ("sd1", "sd2", "sdxl")
RULE = Rule(inner_steps=3, learning_rate=1e-2, stop=0.0, stop_growth=0.0)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Base]:
    """Family → tiny base in float64: leave it as it was."""
    root = tmp_path_factory.mktemp("bases")
    return cache(lambda family: load_base(build_tiny(root / family, family), dtype=torch.float64))


def run(base: Base, scratch: Path, **changes: Any) -> Artifact:
    params: Any = params_of(METHOD, **changes)
    return null.build(base=base, params=params, report=Report(scratch, 3, "cpu", "fp32"), **data(base))


def data(base: Base) -> dict[str, Any]:
    everything = image_set(base)
    return {need: everything[need] for need in ("images", "captions", "pictures")}


@pytest.fixture(scope="module")
def inverted(exact: Callable[[str], Base], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    rule = {"inner_steps": 4, "learning_rate": 5e-2, "stop": 0.0, "stop_growth": 0.0}
    made = run(exact("sd1"), tmp_path_factory.mktemp("run"), steps=5, optimization=rule)
    told = {"family": "sd1", "prediction": "epsilon", "base": "models/tiny", "inputs": {"models/tiny": "abc"}}
    return Artifact(METHOD, made.tensors, made.facts | told)


def test_with_weights_in_half_the_embeddings_are_in_float32_and_pictures_come_out_as_well(
    tiny_base: Path, tmp_path: Path
) -> None:
    rule = {"inner_steps": 4, "learning_rate": 5e-2, "stop": 0.0, "stop_growth": 0.0}
    made = {}
    for precision in ("fp32", "bf16"):
        base = open_base(tiny_base, params_of(METHOD, base_precision=precision))
        assert base.unet.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        made[precision] = run(base, tmp_path / precision, steps=5, optimization=rule, base_precision=precision)
        assert {tensor.dtype for tensor in made[precision].tensors.values()} == {torch.float32}
    whole, half = (made[precision].facts["measures"]["psnr"] for precision in ("fp32", "bf16"))
    assert half["value"] == pytest.approx(whole["value"], abs=0.3)  # dB
    name = "a.null_embeddings"
    assert not torch.equal(made["fp32"].tensors[name], made["bf16"].tensors[name])


def noise(count: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_a_step_is_the_one_that_diffusers_takes_and_back_again(family: str, exact: Callable[[str], Base]) -> None:
    base = exact(family)
    scheduler, path = make_scheduler(base, "ddim", 10), plan(base, 10)
    assert isinstance(scheduler, DDIMScheduler)
    assert path.times == tuple(scheduler.timesteps.tolist())
    z, answer = noise(seed=1), noise(seed=2)
    for i, t in enumerate(path.times):
        expected = scheduler.step(answer, t, z).prev_sample
        torch.testing.assert_close(towards_picture(base, answer, z, path, i), expected, rtol=1e-5, atol=1e-5)
    for i in range(len(path)):  # a UNet that gives one ε at both ends: there and back is nowhere
        ε = answer if family == "sd1" else path.alphas[i] ** -0.5 * (answer - (1 - path.alphas[i]) ** 0.5 * z)
        end = towards_picture(base, ε, z, path, i)
        back = answer if family == "sd1" else path.alphas[i] ** -0.5 * (answer - (1 - path.alphas[i]) ** 0.5 * end)
        torch.testing.assert_close(towards_noise(base, back, end, path, i), z, rtol=1e-9, atol=1e-9)


def test_the_pivot_goes_from_the_picture_to_noise_one_step_of_the_path_at_a_time(exact: Callable[[str], Base]) -> None:
    base = exact("sd1")
    path, said, z = plan(base, 4), encode_prompts(base, ["noto otter"]), noise()
    way = pivot(base, z, said, path)
    assert len(way) == 5
    assert torch.equal(way[0], z)
    for k, i in enumerate(reversed(range(4))):
        with torch.no_grad():
            ε = base.unet(way[k], path.times[i], encoder_hidden_states=said.hidden).sample
        a, b = path.ends[i], path.alphas[i]
        expected = math.sqrt(b) * (way[k] - math.sqrt(1 - a) * ε) / math.sqrt(a) + math.sqrt(1 - b) * ε
        torch.testing.assert_close(way[k + 1], expected)


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_there_and_back_is_the_picture_the_nearer_the_more_steps_there_are(
    family: str, exact: Callable[[str], Base]
) -> None:
    """DDIM's way solves a differential equation: with steps a fourth as long it errs about a fourth as much."""
    base, errors = exact(family), []
    ᾱ, said, z = base.alphas_cumprod.double().tolist(), encode_prompts(base, ["noto otter"]), noise()
    mild = {f"conv_out.{name}": 0.1 * parameter for name, parameter in base.unet.conv_out.named_parameters()}
    with replaced_weights(base.unet, mild):  # random weights answer wildly: a small change of z, another answer
        for stride in (160, 40):
            times = tuple(range(800, 0, -stride))
            path = Way(times, tuple(ᾱ[t] for t in times), tuple(ᾱ[t - stride] for t in times))
            back = draw(base, pivot(base, z, said, path)[-1], said, repeat(said), 1.0, path)
            errors.append(float((back - z).abs().max()))
    assert errors[1] < min(0.03, 0.4 * errors[0])


def problem(base: Base, rule: Rule, count: int = 1) -> tuple[Inversion, Tensor, Tensor, Conditioning]:
    said = encode_prompts(base, ["noto otter", "flat otter on a red background"][:count])
    empty = encode_prompts(base, [""])[[0] * count]
    return Inversion(base, plan(base, 6), said, 4.0, rule), noise(count, 3), noise(count, 4), empty


def error(which: Inversion, z: Tensor, goal: Tensor, hidden: Tensor, i: int) -> Tensor:
    """‖z*_{t-1} - z_{t-1}(z, ∅)‖² in the paper's symbols."""
    t, ᾱ, ᾱ_ = which.path.times[i], which.path.alphas[i], which.path.ends[i]
    u = which.base.unet(z, t, encoder_hidden_states=hidden).sample
    c = which.base.unet(z, t, encoder_hidden_states=which.text_conditioning.hidden).sample
    ε = u + which.guidance * (c - u)
    landed = math.sqrt(ᾱ_ / ᾱ) * z + (math.sqrt(1 / ᾱ_ - 1) - math.sqrt(1 / ᾱ - 1)) * math.sqrt(ᾱ_) * ε
    return (landed - goal).square().mean()


def test_the_embedding_moves_against_the_gradient_of_the_written_formula(exact: Callable[[str], Base]) -> None:
    which, z, goal, empty = problem(exact("sd1"), replace(RULE, inner_steps=1))
    hidden = empty.hidden.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(error(which, z, goal, hidden, 2), hidden)
    direction, step = gradient / gradient.norm(), 1e-4
    with torch.no_grad():
        ends = [error(which, z, goal, empty.hidden + sign * step * direction, 2) for sign in (1, -1)]
    torch.testing.assert_close((ends[0] - ends[1]) / (2 * step), gradient.norm(), rtol=1e-4, atol=0)
    moved, errors = which.optimise(z, goal, empty, 2)
    rate = 1e-2 * (1 - 2 / 12)
    torch.testing.assert_close(moved, empty.hidden - rate * gradient / (gradient.abs() + 1e-8))  # Adam's first step
    torch.testing.assert_close(errors[0], error(which, z, goal, empty.hidden, 2).detach())


def test_the_embedding_moves_as_torchs_adam_moves_it(exact: Callable[[str], Base]) -> None:
    which, z, goal, empty = problem(exact("sd1"), RULE)
    hidden = empty.hidden.clone().requires_grad_()
    adam = torch.optim.Adam([hidden], lr=which.rate(1))
    for _ in range(3):
        adam.zero_grad()
        error(which, z, goal, hidden, 1).backward(inputs=[hidden])
        adam.step()
    torch.testing.assert_close(which.optimise(z, goal, empty, 1)[0], hidden.detach(), rtol=1e-7, atol=1e-9)


def test_pictures_of_a_batch_do_not_know_of_each_other(exact: Callable[[str], Base]) -> None:
    which, z, goal, empty = problem(exact("sd1"), RULE, count=2)
    together, errors = which.optimise(z, goal, empty, 0)
    for k in (0, 1):
        alone = replace(which, text_conditioning=which.text_conditioning[[k]]).optimise(
            z[[k]], goal[[k]], empty[[k]], 0
        )
        torch.testing.assert_close(together[[k]], alone[0], rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(errors[[k]], alone[1], rtol=1e-6, atol=1e-9)


def test_a_picture_that_is_near_enough_stops_and_is_computed_no_more(
    exact: Callable[[str], Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = exact("sd1")
    which, z, goal, empty = problem(base, replace(RULE, inner_steps=5), count=2)
    near = error(
        replace(which, text_conditioning=which.text_conditioning[[0]]), z[[0]], goal[[0]], empty.hidden[[0]], 0
    )
    far = error(replace(which, text_conditioning=which.text_conditioning[[1]]), z[[1]], goal[[1]], empty.hidden[[1]], 0)
    first = int(far < near)  # the one that is nearer
    sizes = []
    monkeypatch.setattr(inversions, "predict", lambda *args: sizes.append(len(args[1])) or predict(*args))
    limit = float((near + far) / 2)
    moved, _ = replace(which, rule=Rule(5, 1e-9, limit, 0.0)).optimise(z, goal, empty, 0)
    assert sizes == [2, 2, 1, 1, 1, 1]  # the conditional half; both; then the farther one alone
    once, _ = replace(which, rule=Rule(1, 1e-9, limit, 0.0)).optimise(z, goal, empty, 0)
    assert torch.equal(moved[first], once[first])
    sizes.clear()
    replace(which, rule=Rule(5, 1e-9, 0.0, limit)).optimise(z, goal, empty, 1)  # the limit grows with the step
    assert len(sizes) < 7


def test_null_text_comes_nearer_than_plain_ddim(inverted: Artifact) -> None:
    assert sorted(inverted.facts["psnr"]) == ["a", "b", "c"]
    told = inverted.facts["measures"]["psnr"]
    assert told["value"] > told["base"]
    for kind, name in {"value": "null_text", "base": "ddim", "real": "vae"}.items():
        mean = sum(scores[name] for scores in inverted.facts["psnr"].values()) / 3
        assert told[kind] == pytest.approx(mean, rel=1e-5)
    shapes = {name: tuple(tensor.shape) for name, tensor in inverted.tensors.items()}
    assert shapes == {
        f"{p}.{kind}": shape
        for p in "abc"
        for kind, shape in {"latent": (1, 4, 8, 8), "null_embeddings": (5, 77, 32)}.items()
    }


def test_peak_signal_to_noise_ratio_is_the_usual_one() -> None:
    truth = torch.full((4, 4, 3), 100, dtype=torch.uint8)
    assert psnr(truth + 5, truth) == pytest.approx(20 * math.log10(255 / 5))
    assert psnr(truth, truth) > 150
    assert measures({"a": {"vae": 30.0, "ddim": 10.0, "null_text": 25.0}})["psnr"]["real"] == 30.0


def test_under_its_caption_a_picture_is_drawn_again_and_seeds_choose_among_them(
    exact: Callable[[str], Base], inverted: Artifact, tmp_path: Path
) -> None:
    base = exact("sd1")
    texts = inverted.facts["captions"]
    with null.apply(inverted, base) as changed:
        each = [picture(changed, texts[name], seeds=[seed]) for seed, name in enumerate("abc")]
        again = picture(changed, texts["b"], seeds=[4], steps=7, guidance=9.0, sampler="euler", negative="cat")
        other = picture(changed, texts["a"], seeds=[0], width=32, height=48)
    said = encode_prompts(base, [texts["b"]])
    path, z = plan(base, 5), inverted.tensors["b.latent"].double()
    for i in range(5):  # the usual way with the found embedding in the place of the empty text
        hidden = inverted.tensors["b.null_embeddings"][i : i + 1].double()
        with torch.no_grad():
            u, c = (base.unet(z, path.times[i], encoder_hidden_states=h).sample for h in (hidden, said.hidden))
        z = towards_picture(base, u + 4.0 * (c - u), z, path, i)
    assert (decode_latents(base, z).int() - each[1].int()).abs().max() <= 1
    assert torch.equal(again, each[1])
    assert other.shape == (1, 48, 32, 3)
    score = psnr(each[1][0], image_set(base)["pictures"].pixels[1])
    assert score == pytest.approx(inverted.facts["psnr"]["b"]["null_text"], abs=0.05)


def test_a_prompt_edits_and_attention_that_is_taken_over_keeps_more_of_the_picture(
    exact: Callable[[str], Base], inverted: Artifact
) -> None:
    base, new = exact("sd1"), "flat cat on a blue background"
    old = inverted.facts["captions"]["b"]

    def latents(cross: float, self_: float, prompt: str) -> Tensor:
        course = EditingSampler(base, inverted, cross, self_)
        return course._latents([course.pictures[1]], [prompt])

    same, free, held = latents(0, 0, old), latents(0, 0, new), latents(1.0, 1.0, new)
    assert (held - same).abs().mean() < (free - same).abs().mean()
    assert (held - same).abs().max() > 1e-3
    said = encode_prompts(base, [new])
    path, z = plan(base, 5), inverted.tensors["b.latent"].double()
    for i in range(5):  # nothing taken over is a plain swap of the prompt
        hidden = inverted.tensors["b.null_embeddings"][i : i + 1].double()
        with torch.no_grad():
            u, c = (base.unet(z, path.times[i], encoder_hidden_states=h).sample for h in (hidden, said.hidden))
        z = towards_picture(base, u + 4.0 * (c - u), z, path, i)
    torch.testing.assert_close(free, z, rtol=1e-6, atol=1e-8)
    heavy = latents(0.8, 0.5, old.replace("red", "(red:3)"))
    assert (heavy - same).abs().max() > 1e-3


def test_a_word_for_a_word_is_a_replacement(exact: Callable[[str], Base]) -> None:
    base = exact("sd1")
    assert torch.equal(edit(base, "noto otter", "noto cat").mapping, torch.eye(77))
    made = edit(base, "noto otter", "noto zebra")  # z-e-b-r-a: a token a letter
    count = len(base.tokenizers[0]("zebra", add_special_tokens=False)["input_ids"])
    assert count > 1
    column = torch.zeros(77)
    column[2] = 1 / count
    for place in range(2, 2 + count):
        assert torch.allclose(made.mapping[:, place], column)
    assert made.mapping[3, 2 + count] == 1  # the end goes to the end
    assert made.kept.sum() == 77 - (count - 1) + (count - 1)
    back = edit(base, "noto zebra", "noto otter")
    assert torch.equal(back.mapping[2 : 2 + count, 2], torch.ones(count))


def test_new_words_beside_old_ones_are_a_refinement(exact: Callable[[str], Base]) -> None:
    made = edit(exact("sd1"), "otter on red", "happy otter on a red background")
    places = {1: 2, 2: 3, 3: 5}  # otter, on, red
    for old, new in places.items():
        assert made.mapping[old, new] == 1
    assert made.kept[[1, 4, 6]].tolist() == [0, 0, 0]
    assert made.kept[[0, 2, 3, 5, 7]].tolist() == [1, 1, 1, 1, 1]
    assert (made.mapping.sum(dim=0) == made.kept).all()


def test_a_weight_belongs_to_its_word_and_is_no_text(exact: Callable[[str], Base]) -> None:
    assert read_weights("a (red:2) cat (on grass:-0.5)") == ("a red cat on grass", [(2, 5, 2.0), (10, 18, -0.5)])
    made = edit(exact("sd1"), "otter on red", "otter on (red:2)")
    assert made.weights.tolist() == [2.0 if place == 3 else 1.0 for place in range(77)]
    assert torch.equal(made.mapping, torch.eye(77))


def test_only_the_new_pictures_attention_is_changed_as_the_edit_says() -> None:
    p = torch.rand(4, 2, 9, 77, dtype=torch.float64)
    mapping, kept, weights = torch.rand(77, 77), (torch.arange(77) % 2).float(), torch.rand(77)
    control = Control([Edit(mapping, kept, weights)], torch.device("cpu"))
    assert torch.equal(control(p, True), p)
    control.cross = True
    changed = control(p, True)
    assert torch.equal(changed[:3], p[:3])
    α = kept.double()
    expected = (α * (p[2] @ mapping.double()) + (1 - α) * p[3]) * weights.double()
    torch.testing.assert_close(changed[3], expected)
    control.self_ = True
    small, large = torch.rand(4, 1, 1024, 1024), torch.rand(4, 1, 1089, 1089)
    assert torch.equal(control(small, False)[3], small[2])
    assert torch.equal(control(large, False), large)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_under_control_is_the_usual_one_until_something_is_taken_over(
    family: str, exact: Callable[[str], Base]
) -> None:
    base = exact(family)
    same = Edit(torch.eye(77), torch.ones(77), torch.ones(77))
    said = encode_prompts(base, ["otter", "cat", "dog", "noto"])
    t, before = torch.tensor(500), dict(base.unet.attn_processors)
    with torch.no_grad():
        usual = predict(base, noise(4), t, said)
        control = Control([same], base.device)
        with controlled(base.unet, control):
            torch.testing.assert_close(predict(base, noise(4), t, said), usual, rtol=1e-7, atol=1e-9)
            control.cross = True
            taken = predict(base, noise(4), t, said)
    torch.testing.assert_close(taken[:3], usual[:3], rtol=1e-7, atol=1e-9)
    assert (taken[3] - usual[3]).abs().max() > 1e-4
    assert all(base.unet.attn_processors[name] is processor for name, processor in before.items())


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_the_other_families_are_inverted_and_edited(family: str, exact: Callable[[str], Base], tmp_path: Path) -> None:
    base = exact(family)
    made = run(base, tmp_path, steps=2, pictures=1)
    assert made.facts["psnr"]["a"]["null_text"] > 0
    untouched = picture(base, seeds=[0])
    with null.apply(made, base) as changed:
        edited, again = picture(changed, "flat cat", seeds=[0]), picture(changed, "noto otter", seeds=[0])
    assert not torch.equal(edited, again)
    assert not torch.equal(again, untouched)


def test_a_file_a_picture_is_read_back_and_draws_the_same(
    exact: Callable[[str], Base], inverted: Artifact, tmp_path: Path
) -> None:
    base, paths = exact("sd1"), null_text.write(inverted, Draft(tmp_path))
    assert [path.name for path in paths] == [f"{inverted.facts['name']}-{name}.safetensors" for name in "abc"]
    assert {identify(path) for path in paths} == {"null_text"}
    metadata = read_metadata(paths[1])
    assert metadata["prompt"] == inverted.facts["captions"]["b"]
    assert metadata["base_sha256"] == "abc"
    assert json.loads(metadata["timesteps"]) == list(plan(base, 5).times)
    tensors, facts = null_text.read(paths[1])
    with null.apply(Artifact(METHOD, tensors, facts), base) as changed:
        one = picture(changed, "flat cat", seeds=[0])
    with null.apply(inverted, base) as changed:
        assert torch.equal(picture(changed, "flat cat", seeds=[1]), one)


def test_the_file_of_sd_1_5_has_the_size_of_the_formula(tmp_path: Path) -> None:
    facts = {"name": "cat", "family": "sd1", "prediction": "epsilon", "pictures": ["p"], "captions": {"p": "a cat"}}
    facts |= {"guidance": 7.5, "steps": 50, "timesteps": list(range(981, 0, -20)), "clip_skip": 0}
    tensors = {"p.latent": torch.zeros(1, 4, 64, 64), "p.null_embeddings": torch.zeros(50, 77, 768)}
    (path,) = null_text.write(Artifact(METHOD, tensors, facts), Draft(tmp_path))
    size = 50 * 77 * 768 * 4 + 4 * 64 * 64 * 4
    assert size == 11_892_736
    assert size < path.stat().st_size < size + 2048
    assert sorted(read_tensors(path)[0]) == ["latent", "null_embeddings"]


def test_pictures_are_chosen_among_those_that_are_no_copies(exact: Callable[[str], Base]) -> None:
    base = exact("sd1")
    everything = data(base)
    images, captions, own = everything["images"], everything["captions"], everything["pictures"]
    names = ("a", "a-copy1", "b", "b-copy1", "c", "c-copy1")
    twice = [number for number in range(3) for _ in range(2)]
    doubled = replace(images, names=names, mean=tuple(images.mean[n] for n in twice))
    chosen = Album(doubled, captions, own).batches(base, 4, 2)
    assert sorted(name for batch in chosen for name in batch.names) == ["a", "b", "c"]


def test_what_does_not_fit_is_refused(exact: Callable[[str], Base], inverted: Artifact, tmp_path: Path) -> None:
    other = Artifact(METHOD, inverted.tensors, inverted.facts | {"timesteps": [1]})
    with pytest.raises(BaseError, match="other timesteps or another text width"), null.apply(other, exact("sd1")):
        pass
    with null.apply(inverted, exact("sd1")) as changed, pytest.raises(InputError, match="must be texts"):
        changed.custom_samplers[-1](encode_prompts(exact("sd1"), ["cat"]), [0], 64, 64)
    null_text.write_tensors(tmp_path / "a.safetensors", {"latent": torch.zeros(1), "null_embeddings": torch.zeros(1)})
    with pytest.raises(FormatError, match="is no inverted picture"):
        null_text.read(tmp_path / "a.safetensors")
    bias = exact("sd1").unet.conv_out.bias
    whole = bias.detach().clone()
    torch.nn.init.constant_(bias, float("nan"))
    with pytest.raises(TrainingError, match="the error is not finite on a, b, c"):
        run(exact("sd1"), tmp_path)
    bias.data.copy_(whole)


def test_a_run_that_is_killed_at_any_step_goes_on_to_the_same_bits(
    exact: Callable[[str], Base], tmp_path: Path
) -> None:
    class Dying(Report):
        def advance(self, done: int) -> None:
            if done in (2, 3, 5):
                raise KeyboardInterrupt

    params = params_of(METHOD, steps=3, batch_size=1, pictures=2)
    asked: Any = {"base": exact("sd1"), "params": params, **data(exact("sd1"))}
    whole = null.build(report=Report(tmp_path / "whole", 3, "cpu", "fp32"), **asked)
    for _ in range(3):  # in the first picture, at its end, in the second
        with pytest.raises(KeyboardInterrupt):
            null.build(report=Dying(tmp_path / "killed", 3, "cpu", "fp32"), **asked)
    again = null.build(report=Report(tmp_path / "killed", 3, "cpu", "fp32"), **asked)
    assert again.facts == whole.facts
    assert sorted(again.tensors) == sorted(whole.tensors)
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in whole.tensors.items())
    for file in ("checkpoints/000006.safetensors", "previews/000006.png"):
        ends = [(tmp_path / run / "results" / file).read_bytes() for run in ("whole", "killed")]
        assert ends[0] == ends[1]


def test_all_that_a_run_has_done_is_kept(tmp_path: Path) -> None:
    progress = Progress(step=2, nothing=[torch.ones(1, 77, 4)], z=torch.zeros(1, 4, 2, 2), scores={"a": {"vae": 1.0}})
    report = Report(tmp_path, 0, "cpu", "fp32")
    report.keep(progress.state())
    again = Progress(**(report.restore() or {}))
    assert torch.equal(again.nothing[0], progress.nothing[0])
    assert (again.step, again.scores) == (2, {"a": {"vae": 1.0}})
