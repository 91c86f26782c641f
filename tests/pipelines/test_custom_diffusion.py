from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from etude.base.base import Base
from etude.base.loading import load_base
from etude.base.text import encode_prompts
from etude.core import artifact as artifacts
from etude.core.artifact import Artifact
from etude.core.errors import InputError, ParamsError
from etude.core.randomness import mix
from etude.diffusion.hooks import added_tokens
from etude.diffusion.weights import learning
from etude.training.batches import Batches
from etude.training.prior import Pair
from etude.training.report import Report
from etude.training.views import Views
from pipelines.custom_diffusion import method as custom
from pipelines.custom_diffusion.method import merge as merging
from pipelines.custom_diffusion.method.settings import LEARNED
from tests.etude.training.test_plan import SGD
from tests.pipelines.learning import class_images, image_set, params_of, picture, squared_errors, views
from tests.tiny import WORDS, build_tiny

METHOD = "custom_diffusion"
OTTER = {"word": "<otter>", "initializer": "bear", "prompt": "[word] bear"}
OWN = {"name": "<otter> bear", "concepts": {"concept": OTTER}}
CLASS_IMAGES = params_of(METHOD).model_dump(mode="json")["class_images"]
FOX = {"word": "<fox>", "initializer": "fox", "prompt": "a [word] fox"}


def run(
    base: Base, scratch: Path, training: dict[str, Any] | None = None, seen: Views | None = None, **changes: Any
) -> Artifact:
    settings = {"steps": 1, "checkpoint_every": 9, **(training or {})}
    params: Any = params_of(METHOD, settings, **{"save": "fp32", **OWN, **changes})
    report = Report(scratch, seed=3, device="cpu", precision="fp32")
    seen = seen or views(image_set(base)["images"])
    return custom.build(base=base, views=seen, class_images=class_images(base), params=params, report=report)


def own_rows(base: Base, word: str) -> list[torch.Tensor]:
    return [row.detach() for row in custom._starts(base, word)]


@pytest.mark.parametrize("layers", ["crossattn_kv", "crossattn"])
def test_only_the_chosen_layers_and_the_words_learn(layers: str, tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    made = run(base, tmp_path, layers=layers)
    ends = {name.partition(".attn2.")[2] for name in made.tensors if name.startswith("unet.")}
    kv = {"to_k.weight", "to_v.weight"}
    assert ends == (kv if layers == "crossattn_kv" else kv | {"to_q.weight", "to_out.0.weight", "to_out.0.bias"})
    for name, tensor in made.tensors.items():
        if name.startswith("unet."):
            assert not torch.equal(tensor, base.unet.get_parameter(name.removeprefix("unet."))), name
    assert not torch.equal(made.tensors["words.0.text_encoder"], own_rows(base, "bear")[0])
    assert made.facts["words"] == ["<otter>"]
    assert made.facts["prompts"] == ["<otter> bear"]


def test_no_gradient_comes_from_the_first_token(tiny_base: Path) -> None:
    unet = load_base(tiny_base, dtype=torch.float64).unet
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    layer = unet.get_submodule(name)
    hidden = torch.randn(2, 5, 32, dtype=torch.float64)
    with learning({"unet": unet}, lambda n: n == f"unet.{name}.weight") as weights, custom._still_start(unet):
        output = layer(hidden)
        torch.testing.assert_close(output, hidden @ layer.weight.T)
        output.square().sum().backward()
        expected = 2 * (layer.weight @ hidden[:, 1:].flatten(0, 1).T) @ hidden[:, 1:].flatten(0, 1)
        torch.testing.assert_close(weights[f"unet.{name}.weight"].grad, expected)
    assert not layer._forward_hooks


def written_out(base: Base, seed: int, seen: Views, λ: float) -> Tensor:
    """The first step's loss: Σ m (ε_θ(z_t, "small <otter> bear") - ε)² / Σ m + λ · mean (ε_θ(z_t, "bear") - ε)²."""
    own = Batches(seen.images, None, batch_size=2, seed=seed)(0)
    prior = class_images(base)
    kept = Batches(prior.images, prior.captions, batch_size=1, seed=mix(seed, "class"))(0)
    torch.manual_seed(mix(seed, "step", 0))
    begin = {"far": "small ", "near": "large ", "whole": ""}
    texts = [begin[seen.kinds[name]] + "<otter> bear" for name in own.names] + ["bear"]
    [torch.randint(1, ()) for _ in own.names]  # the lot of each beginning, among one
    mean, logvar = torch.cat([own.mean, kept.mean]), torch.cat([own.logvar, kept.logvar])
    squares, _ = squared_errors(base, mean, logvar, texts)
    total = λ * squares[2].mean()
    for i, name in enumerate(own.names):
        m = seen.images.cells[seen.images.names.index(name)].double().expand(4, -1, -1)
        total = total + (m * squares[i]).sum() / m.sum() / 2
    return total


def still(first: Tensor, own: Tensor, x: Tensor) -> Tensor:
    """x Wᵀ, with a matrix of its own for the first token, which does not learn."""
    return torch.cat([x[:, :1] @ first.T, x[:, 1:] @ own.T], dim=1)


def test_a_step_goes_against_the_gradient_of_the_written_formula(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_base(tiny_base, dtype=torch.float64)
    seen = views(image_set(base)["images"])
    plain = {"optimizer": SGD, "learning_rate": 10.0, "clip": 0.0, "min_snr": 0.0}
    asked = {"prior_weight": 0.3, "prior_batch_size": 1, "far": ["small"], "near": ["large"], "word_rate": 0.5}
    made = run(base, tmp_path, plain | {"batch_size": 2}, seen, **asked)
    layers = {n: m for n, m in base.unet.named_modules() if n.endswith((".attn2.to_k", ".attn2.to_v"))}
    assert len(layers) == 32
    for layer in layers.values():
        first, own = layer.weight.detach().clone(), layer.weight.requires_grad_(True)
        monkeypatch.setattr(layer, "forward", partial(still, first, own))
    (row,) = (start.double().requires_grad_() for start in own_rows(base, "bear"))
    with added_tokens(base, {"<otter>": row}):
        written_out(base, 3, seen, 0.3).backward()
    for name, layer in layers.items():
        expected = layer.weight.detach() - 10 * layer.weight.grad
        torch.testing.assert_close(made.tensors[f"unet.{name}.weight"], expected.float(), rtol=1e-5, atol=1e-6)
    expected = (row.detach() - 5 * row.grad).float()
    torch.testing.assert_close(made.tensors["words.0.text_encoder"], expected, rtol=1e-5, atol=1e-5)


def test_a_view_is_read_as_far_or_near_and_the_class_by_its_own_text(tiny_base: Path) -> None:
    base = load_base(tiny_base, parts=("text",))
    images = image_set(load_base(tiny_base))["images"]
    params: Any = params_of(METHOD, **OWN, far=["small"], near=["large"])
    read = custom._reader(base, params, views(images))
    own: Any = SimpleNamespace(names=("concept/a-000", "concept/b-000", "concept/c-000"))
    bear = encode_prompts(base, ["bear"])
    prior: Any = SimpleNamespace(names=("drawn/0",), conditioning=bear)
    with added_tokens(base, {"<otter>": own_rows(base, "fox")}):
        found = read(Pair(own, prior)).hidden
    expected = encode_prompts(base, ["small fox bear", "large fox bear", "fox bear"]).hidden
    torch.testing.assert_close(found, torch.cat([expected, bear.hidden]), rtol=0, atol=1e-5)


def test_what_the_mask_leaves_out_is_not_learned(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    seen = views(image_set(base)["images"])
    everywhere = [torch.ones_like(mean[0]) for mean in seen.images.mean]
    other = replace(seen, images=replace(seen.images, cells=everywhere))
    one, two = run(base, tmp_path / "a", {"steps": 2}, seen), run(base, tmp_path / "b", {"steps": 2}, other)
    assert any(not torch.equal(tensor, two.tensors[name]) for name, tensor in one.tensors.items())


@pytest.mark.parametrize(("kind", "prompt", "real"), [("ant", "an ant", []), ("bear", "a bear", ["bears"])])
def test_a_concept_of_another_class_has_class_images_of_its_own(kind: str, prompt: str, real: list[str]) -> None:
    asked = {"class_images": {**CLASS_IMAGES, "prompts": ["a bear", "bear in snow"], "real": ["bears"]}}
    changed = params_of(METHOD, **OWN, **asked).pointed("pets", "zork", kind)
    assert (changed["set"], changed["name"]) == ("pets", f"<zork> {kind}")
    assert changed["concepts"] == {"pets": {"word": "<zork>", "initializer": kind, "prompt": f"[word] {kind}"}}
    assert changed["class_images.prompts"] == [prompt, f"{kind} in snow"]
    assert changed["class_images.real"] == real


def test_several_concepts_learn_together_each_under_its_own_text(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    images = image_set(base)["images"]
    first, second = views(images), views(replace(images, mean=images.mean[::-1]), "style")
    both = Views(
        replace(
            images,
            names=first.images.names + second.images.names,
            mean=first.images.mean + second.images.mean,
            logvar=first.images.logvar + second.images.logvar,
            cells=first.images.cells + second.images.cells,
        ),
        first.kinds | second.kinds,
    )
    concepts = {"concept": OTTER, "style": FOX}
    made = run(base, tmp_path, {"steps": 3}, both, concepts=concepts)
    assert made.facts["words"] == ["<otter>", "<fox>"]
    assert made.facts["prompts"] == ["<otter> bear", "a <fox> fox"]
    for number, start in enumerate(("bear", "fox")):
        assert not torch.equal(made.tensors[f"words.{number}.text_encoder"], own_rows(base, start)[0])
    with custom.apply(made, base) as changed:
        assert set(changed.words) == {"<otter>", "<fox>"}
    assert base.words == {}


def test_strength_scales_the_change_and_a_difference_counts_like_the_whole(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    made = run(base, tmp_path, {"learning_rate": 0.01})
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v.weight"
    own = base.unet.get_parameter(name.removeprefix("unet."))
    start = own.detach().clone()
    deltas = {
        f"{n}.delta" if n.startswith("unet.") else n: t - base.unet.get_parameter(n.removeprefix("unet.")).detach()
        if n.startswith("unet.")
        else t
        for n, t in made.tensors.items()
    }
    for strength in (0.0, 0.5, 1.0, 2.0):
        for artifact in (made, Artifact(METHOD, deltas, made.facts)):
            with custom.apply(artifact, base, strength=strength):
                torch.testing.assert_close(own.detach(), torch.lerp(start, made.tensors[name], strength))
    assert torch.equal(own, start)


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_other_families_learn_save_and_apply(family: str, tmp_path: Path) -> None:
    base = load_base(build_tiny(tmp_path / "tiny", family))
    made = run(base, tmp_path / "scratch", save="fp16")
    assert [name for name in made.tensors if name.startswith("words.")] == [
        f"words.0.{part}" for part in ("text_encoder", "text_encoder_2")[: len(base.text_encoders)]
    ]
    artifacts.save(made, tmp_path / "a.safetensors")
    untouched = picture(base, "<otter> bear")
    with custom.apply(artifacts.load(tmp_path / "a.safetensors"), base) as changed:
        assert not torch.equal(picture(changed, "<otter> bear"), untouched)
    assert torch.equal(picture(base, "<otter> bear"), untouched)


@pytest.mark.parametrize(
    ("width", "layers", "count", "values"),
    [
        (768, "crossattn_kv", 32, 19_169_280),
        (1024, "crossattn_kv", 32, 25_559_040),
        (768, "crossattn", 80, 43_962_560),
    ],
)
def test_counts_on_the_true_sd15_and_sd2_are_those_of_the_formulas(
    width: int, layers: str, count: int, values: int
) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=width, attention_head_dim=8)
    with learning({"unet": unet}, lambda name: bool(re.search(LEARNED[layers], name))) as weights:
        assert (len(weights), sum(weight.numel() for weight in weights.values())) == (count, values)


def test_a_start_of_several_tokens_is_their_mean(tiny_base: Path) -> None:
    base = load_base(tiny_base, parts=("text",))
    (both,), (red,), (fox,) = (own_rows(base, words) for words in ("red fox", "red", "fox"))
    torch.testing.assert_close(both, (red + fox) / 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": "otter"}, "`name` is 'otter', without '<owl>'"),
        ({"name": "<owl>s otter"}, "`name` is '<owl>s otter', without '<owl>'"),
        ({"set": "style"}, "`set` is 'style', which is none of `concepts`: concept"),
        ({"concepts": {"concept": OTTER | {"word": "an otter"}}}, "word` is 'an otter'.* one word"),
        ({"concepts": {"concept": OTTER | {"prompt": "bear"}}}, r"prompt` is 'bear'.* \[word\] in it"),
        ({"layers": "all"}, "`layers`"),
        ({"concepts": {"concept": FOX, "style": FOX}}, "one word twice"),
        ({"concepts": {"concept": FOX | {"word": "***"}}}, r"'\*\*\*' has no letter, digit or emoji"),
        (
            {"name": "<a> x", "concepts": {"concept": FOX | {"word": "<a>"}, "style": FOX | {"word": "A!"}}},
            "words whose files would have the same name: <a>, A!",
        ),
        ({"concepts": {}}, "`concepts`"),
    ],
)
def test_a_value_that_cannot_be_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ParamsError, match=said):
        params_of(METHOD, **change)


@pytest.fixture(scope="module")
def merged(tiny_base: Path) -> tuple[Base, list[Artifact], Artifact, list[str]]:
    """Two concepts learned apart (random changes), merged."""
    base = load_base(tiny_base, dtype=torch.float64)
    made = []
    for number, (word, prompt) in enumerate((("<otter>", "<otter> bear"), ("<fox>", "<fox> fox"))):
        generator = torch.Generator().manual_seed(number)
        tensors = {
            f"unet.{name}": p + 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
            for name, p in base.unet.named_parameters()
            if re.search(LEARNED["crossattn_kv"], f"unet.{name}")
        }
        tensors["words.0.text_encoder"] = torch.randn(1, 32, generator=generator, dtype=torch.float64)
        made.append(Artifact(METHOD, tensors, {"name": prompt, "words": [word], "prompts": [prompt]}))
    captions = [f"photo of a {one} and {other}" for one, other in zip(WORDS, WORDS[7:], strict=False)]
    return base, made, merging.merge(base, made, captions), captions


def test_a_merge_answers_each_concepts_words_as_its_own_matrices_did(
    merged: tuple[Base, list[Artifact], Artifact, list[str]],
) -> None:
    base, made, both, _ = merged
    assert both.facts["words"] == ["<otter>", "<fox>"]
    with custom.apply(both, base):
        rows = [merging.states(base, one.facts["prompts"]) for one in made]
    for name in (name for name in both.tensors if name.startswith("unet.")):
        for one, own in zip(made, rows, strict=True):
            torch.testing.assert_close(own @ both.tensors[name].T, own @ one.tensors[name].T, rtol=0, atol=1e-6)


def test_a_merge_changes_what_should_stay_as_little_as_can_be() -> None:
    """Against the constrained least squares solved as one linear system (Karush, Kuhn and Tucker)."""
    generator = torch.Generator().manual_seed(4)
    shapes = ((6, 32), (80, 32), (3, 32), (3, 6))
    weight, kept, targets, values = (torch.randn(*shape, generator=generator).double() for shape in shapes)
    found = merging.solve(weight, kept, targets, values)
    gram, zero = kept.T @ kept, torch.zeros(3, 3, dtype=torch.float64)
    system = torch.cat([torch.cat([gram, targets.T], 1), torch.cat([targets, zero], 1)])
    right = torch.cat([gram @ weight.T, values])
    expected = torch.linalg.solve(system, right)[:32].T
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(found @ targets.T, values.T)
    few = merging.solve(weight, kept[:5], targets, values)  # fewer captions than directions
    torch.testing.assert_close(few @ targets.T, values.T, rtol=0, atol=1e-5)
    assert (few - weight).norm() < 10 * (expected - weight).norm()


def test_a_thing_is_met_in_a_photo_and_an_art_in_a_painting() -> None:
    assert merging.framed("<owl> art") == "painting in the style of <owl> art"
    assert merging.framed("<cart> cart") == "a photo of <cart> cart"


def test_what_cannot_be_merged_is_named(
    merged: tuple[Base, list[Artifact], Artifact, list[str]],
) -> None:
    base, made, _, captions = merged
    with pytest.raises(InputError, match="captions: are empty"):
        merging.merge(base, made, [])
    with pytest.raises(InputError, match="is the word of two concepts"):
        merging.merge(base, [made[0], made[0]], captions)
    wide = Artifact(METHOD, made[1].tensors | {"unet.x.attn2.to_q.weight": torch.zeros(1)}, made[1].facts)
    with pytest.raises(InputError, match=r"changes `unet.x.attn2.to_q.weight.*crossattn_kv"):
        merging.merge(base, [made[0], wide], captions)


def test_states_of_a_caption_begin_where_it_tells_something_and_end_with_the_end_token(tiny_base: Path) -> None:
    base = load_base(tiny_base)
    plain = merging.states(base, ["red cat"])
    assert plain.shape == (3, 32)
    hidden = encode_prompts(base, ["photo of a red cat"]).hidden[0]
    assert torch.equal(merging.states(base, ["photo of a red cat"]), hidden[4:7])
