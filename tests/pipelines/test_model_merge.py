"""Model merge: what goes in, what comes out, and how much memory it takes."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from etude.base.base import Base
from etude.base.loading import load_base
from etude.core import artifact as artifacts
from etude.core.artifact import Artifact
from etude.core.errors import BaseError, FormatError, InputError, ParamsError, StaleError
from etude.core.files import Draft, sha256_tree, write_json
from etude.core.method import Input
from etude.core.params import read_yaml
from etude.core.tensors import read_metadata, read_tensors, write_tensors
from etude.formats.checkpoint import diffusers_checkpoint, ldm_checkpoint
from etude.formats.lora import kohya_lora, peft_lora
from etude.formats.pairs import split
from etude.training.report import Report
from pipelines.model_merge import method as merge
from pipelines.model_merge.method.merging.low_rank import Fused, extracted
from pipelines.model_merge.method.merging.rebasin import Rebased, block_counter, match
from pipelines.model_merge.method.merging.sources import open_base, open_model, open_vae
from tasks import build as task_build
from tasks.digest import digest
from tasks.export import export, read_frame
from tests.etude.conftest import change
from tests.pipelines.learning import params_of, parents, picture
from tests.shipped import ROOT, held
from tests.tasks.learning import make_project
from tests.tiny import build_tiny

PROJ = "unet.mid_block.attentions.0.proj_in"
VALUE = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
TEXT = "text_encoder.encoder.layers.3.mlp.fc1"

ONE = {"unet": 1.0, "rest": 1.0}
UNLEARNED = read_yaml(held("pipelines/model_merge/params.yaml"))["learning"] | {"steps": 0}


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Base:
    return load_base(tiny_base)


@pytest.fixture(scope="module")
def weights(tiny_base: Path) -> dict[str, Tensor]:
    return open_base(tiny_base)


def given(**paths: Path) -> dict[str, Input]:
    return {name: Input(path, sha256_tree(path)) for name, path in paths.items()}


def build(base: Base, models: Mapping[str, Input], scratch: Path, **changes: Any) -> Artifact:
    count = len([name for name in models if name != "vae"])
    asked: dict[str, Any] = {"name": "otter", "save": "fp32", "weights": [1.0] * count} | changes
    asked["models"] = {name: model.path.as_posix() for name, model in models.items()}
    params: Any = params_of("model_merge", **({"learning": UNLEARNED, "alpha": ONE} | asked))
    report = Report(scratch, seed=3, device="cpu", precision="fp32")
    return merge.build(base=base, models=models, params=params, report=report)


def lora(folder: Path, weights: Mapping[str, Tensor], seed: int = 0, rank: int = 2) -> Path:
    """A LoRA file of kohya's form, with alpha ≠ rank."""
    source = torch.Generator().manual_seed(seed)
    tensors = {}
    for name in (PROJ, VALUE, TEXT):
        shape = weights[f"{name}.weight"].shape
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, *shape[1:], generator=source)
        tensors[f"{name}.lora_B.weight"] = torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=source) / 4
    facts = {"name": f"l{seed}", "rank": rank, "alpha": 1.0, "family": "sd1", "prediction": "epsilon"}
    folder.mkdir(parents=True, exist_ok=True)
    return kohya_lora.write(Artifact("lora", tensors, facts), Draft(folder))[0]


def test_two_artifacts_are_merged_where_one_of_them_changed_something(
    base: Base, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    models = parents(base, tmp_path)
    a, b = (artifacts.load(m.path / "artifact.safetensors").tensors for m in models.values())
    made = build(base, models, tmp_path, formula="weighted_sum", alpha={"unet": 0.25, "rest": 0.0})
    assert set(made.tensors) == set(a) == set(b)
    assert all(torch.allclose(made.tensors[n], 0.75 * a[n] + 0.25 * b[n], atol=1e-6) for n in a)
    made = build(base, models, tmp_path, formula="task_arithmetic", weights=[1.0, 0.5])
    assert all(torch.allclose(made.tensors[n], 0.5 * weights[n] * -1 + a[n] + 0.5 * b[n], atol=1e-5) for n in a)


def test_whole_models_are_merged_from_folder_and_single_file_alike(
    base: Base, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    other = build_tiny(tmp_path / "other", seed=1)
    theirs = open_base(other)
    facts = {"name": "other", "family": "sd1", "prediction": "epsilon"}
    frame = read_frame(other)
    single = ldm_checkpoint.write(Artifact("x", {}, facts), Draft(tmp_path / "single"), frame)[0]
    torch.save({"state_dict": read_tensors(single)[0]}, tmp_path / "other.ckpt")
    asked: dict[str, Any] = {"formula": "add_difference", "parts": ["unet", "text", "vae"]}
    made = []
    for path in (other, single, tmp_path / "other.ckpt"):
        artifact = build(base, given(a=base.path, b=path), tmp_path, alpha={"unet": 0.5, "rest": 1.0}, **asked)
        made.append({name: tensor.clone() for name, tensor in artifact.tensors.items()})
    assert set(made[0]) == set(weights)
    for name, tensor in made[0].items():
        share = 0.5 if name.startswith("unet.") else 1.0
        assert torch.allclose(tensor, weights[name] + share * (theirs[name] - weights[name]), atol=1e-5), name
        assert tensor.equal(made[1][name]), name
        assert tensor.equal(made[2][name]), name


def test_parts_that_are_not_merged_are_those_of_a(base: Base, tmp_path: Path) -> None:
    other = build_tiny(tmp_path / "other", seed=1)
    theirs, bases = open_base(other), open_base(base.path)
    made = build(base, given(a=other, b=base.path), tmp_path, formula="weighted_sum", parts=["unet"])
    for name, tensor in made.tensors.items():
        own = bases[name] if name.startswith("unet.") else theirs[name]
        assert tensor.equal(own), name


def test_a_folder_without_a_vae_is_merged_where_another_is_given(base: Base, tmp_path: Path) -> None:
    other = build_tiny(tmp_path / "other", seed=1)
    shutil.rmtree(other / "vae")
    below = open_base(base.path)
    found = open_model(other, below, base.family, without_vae=True)
    assert not any(name.startswith("vae.") for name in found.own)
    with pytest.raises(BaseError, match="lacks vae"):
        open_model(other, below, base.family)


def test_a_vae_is_baked_in_and_drawn_with(base: Base, tmp_path: Path) -> None:
    other = build_tiny(tmp_path / "other", seed=1)
    models = parents(base, tmp_path)
    whole = build(base, models | given(vae=other), tmp_path / "1", formula="task_arithmetic", weights=[1.0, 1.0])
    alone = open_vae(other / "vae", base.path, base.family)
    assert {name for name in whole.tensors if name.startswith("vae.")} == set(alone)
    assert all(whole.tensors[name].equal(tensor) for name, tensor in alone.items())
    without = build(base, models, tmp_path / "2", formula="task_arithmetic", weights=[1.0, 1.0])
    untouched = picture(base)
    with merge.apply(whole, base) as changed:
        first = picture(changed)
    with merge.apply(without, base) as changed:
        assert not torch.equal(picture(changed), first)
    assert torch.equal(picture(base), untouched)


@pytest.mark.filterwarnings("ignore:.*has no configuration, so its latents are scaled by")
def test_a_vae_of_its_own_file_is_read_in_both_forms(base: Base, weights: dict[str, Tensor], tmp_path: Path) -> None:
    frame = read_frame(base.path)
    facts = {"name": "x", "family": "sd1", "prediction": "epsilon"}
    single, _ = read_tensors(ldm_checkpoint.write(Artifact("x", {}, facts), Draft(tmp_path), frame)[0])
    bare = {n.removeprefix("first_stage_model."): t for n, t in single.items() if n.startswith("first_stage_model.")}
    write_tensors(tmp_path / "vae.safetensors", bare)
    for path in (tmp_path / "vae.safetensors", tmp_path / "x.safetensors", base.path, base.path / "vae"):
        found = open_vae(path, base.path, base.family)
        assert set(found) == {name for name in weights if name.startswith("vae.")}
        assert all(tensor.equal(weights[name]) for name, tensor in found.items())
    with pytest.raises(BaseError, match="holds no VAE"):
        open_vae(lora(tmp_path / "lora", weights), base.path, base.family)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"scaling_factor": 0.13}, r"`scaling_factor: 0\.13`.*the base has 0\.18215.*etude convert"),
        ({"norm_num_groups": 4}, "`norm_num_groups: 4`"),
        ({"shift_factor": 0.1}, "shifts latents"),
        ({"force_upcast": False, "sample_size": 512}, ""),
    ],
    ids=str,
)
def test_a_vae_with_another_configuration_is_refused(
    values: dict[str, Any], fault: str, base: Base, tmp_path: Path
) -> None:
    shutil.copytree(base.path / "vae", tmp_path / "vae")
    change(tmp_path / "vae/config.json", **values)
    with pytest.raises(BaseError, match=fault) if fault else nullcontext():
        open_vae(tmp_path / "vae", base.path, base.family)


def test_a_lora_is_baked_into_a_checkpoint(base: Base, weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = lora(tmp_path / "lora", weights)
    made = build(base, given(a=path), tmp_path, formula="none")
    assert set(made.tensors) == {f"{name}.weight" for name in (PROJ, VALUE, TEXT)}
    for name, pair in split(*kohya_lora.read(path)).items():
        change = (pair.up.flatten(1).double() @ pair.down.flatten(1).double()) * pair.alpha / pair.rank
        expected = weights[f"{name}.weight"].double() + change.view(weights[f"{name}.weight"].shape)
        assert torch.allclose(made.tensors[f"{name}.weight"].double(), expected, atol=1e-6)


def test_loras_side_by_side_are_exactly_their_sum(base: Base, weights: dict[str, Tensor], tmp_path: Path) -> None:
    paths = {"a": lora(tmp_path / "a", weights, 1), "b": lora(tmp_path / "b", weights, 2, rank=3)}
    asked: dict[str, Any] = {"formula": "task_arithmetic", "weights": [0.8, -0.5], "result": "lora", "rank": 0}
    made = build(base, given(**paths), tmp_path, **asked)
    assert made.facts["rank"] == 5
    assert made.facts["formats"] == ["kohya_lora", "diffusers_lora"]
    both = [dict(Fused(*kohya_lora.read(path), weights)) for path in paths.values()]
    for name, tensor in Fused(made.tensors, made.facts, weights).items():
        expected = weights[name] + 0.8 * (both[0][name] - weights[name]) - 0.5 * (both[1][name] - weights[name])
        assert torch.allclose(tensor, expected, atol=1e-5)


def test_what_was_merged_in_is_extracted_again(base: Base, weights: dict[str, Tensor], tmp_path: Path) -> None:
    path = lora(tmp_path / "lora", weights)
    whole = build(base, given(a=path), tmp_path / "1", formula="none")
    artifacts.save(Artifact("model_merge", dict(whole.tensors), {"family": "sd1"}), tmp_path / "w/artifact.safetensors")
    asked: dict[str, Any] = {"formula": "none", "result": "lora", "rank": 4}
    found = dict(Fused(*kohya_lora.read(path), weights))
    exact = build(base, given(a=tmp_path / "w"), tmp_path / "2", clamp=1.0, **asked)
    for name, tensor in Fused(exact.tensors, exact.facts, weights).items():
        assert torch.allclose(tensor, found[name], atol=1e-4)
    clamped = build(base, given(a=tmp_path / "w"), tmp_path / "3", clamp=0.99, **asked)
    apart = [(t - found[n]).abs().max() for n, t in Fused(clamped.tensors, clamped.facts, weights).items()]
    assert max(apart) > 1e-3
    untouched = picture(base)
    with merge.apply(exact, base) as one:
        first = picture(one)
    with merge.apply(whole, base) as two:
        assert (picture(two).int() - first.int()).abs().max() <= 2
    assert not torch.equal(first, untouched)


def test_a_lora_of_no_difference_is_refused(base: Base, tmp_path: Path) -> None:
    for rank, says in ((0, "are not all plain LoRAs"), (4, "equals the base, so there is no difference")):
        asked: dict[str, Any] = {"formula": "task_arithmetic", "weights": [1.0], "result": "lora", "rank": rank}
        with pytest.raises(FormatError, match=says):
            build(base, given(a=base.path), tmp_path, **asked)


@pytest.mark.parametrize(
    ("formula", "change", "says"),
    [
        (
            "inverse_sigmoid",
            {"alpha": {"unet": 1.5, "rest": 0.5}},
            "inverse_sigmoid takes `alpha` from 0 to 1, not 1.",
        ),
        ("inverse_sigmoid", {"alpha": {"unet": "GRAD_V", "rest": -0.5}}, "from 0 to 1, not -0.5"),
        ("multiply_difference", {"alpha": {"unet": [0.5] * 24 + [2.0], "rest": 0.5}}, "from 0 to 1, not 2"),
        ("weighted_subtraction", {"alpha": ONE, "beta": {"unet": 0.5, "rest": 1.0}}, "where alpha is 1 and beta 1"),
        ("ties", {"weights": [1.0, -1.0]}, "`weights` that agree, which is 0"),
    ],
)
def test_a_formula_outside_its_domain_is_refused_with_the_parameters(
    formula: str, change: dict[str, Any], says: str
) -> None:
    with pytest.raises(ParamsError, match=re.escape(says)):
        params_of("model_merge", formula=formula, **change)


@pytest.mark.parametrize("rank", [0, 4])
def test_a_lora_of_a_merge_that_changes_nothing_is_refused(
    rank: int, base: Base, weights: Mapping[str, Tensor], tmp_path: Path
) -> None:
    own = lora(tmp_path / "a", weights)
    tensors, metadata = read_tensors(own)
    silent = {name: torch.zeros_like(t) if name.endswith(".alpha") else t for name, t in tensors.items()}
    write_tensors(own, silent, metadata)
    asked: dict[str, Any] = {"formula": "task_arithmetic", "weights": [1.0], "result": "lora", "rank": rank}
    with pytest.raises(FormatError, match="equals the base, so there is no difference"):
        build(base, given(a=own), tmp_path / "scratch", **asked)


def test_a_folder_of_peft_is_merged_as_the_file_of_kohya_is(weights: Mapping[str, Tensor], tmp_path: Path) -> None:
    path = lora(tmp_path / "a", weights)
    tensors, facts = kohya_lora.read(path)
    peft_lora.write(Artifact("lora", tensors, facts | {"name": "x", "family": "sd1"}), Draft(tmp_path / "peft"))
    one, other = (open_model(place, weights, "sd1") for place in (path, tmp_path / "peft/x"))
    assert sorted(one.own) == sorted(other.own)
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.own)


def test_whole_differences_of_biases_and_norms_are_merged_and_words_are_refused(
    base: Base, weights: Mapping[str, Tensor], tmp_path: Path
) -> None:
    norm, conv = "unet.mid_block.attentions.0.norm", "unet.mid_block.resnets.0.conv1"
    deltas = {f"{norm}.weight": "w_norm", f"{norm}.bias": "b_norm", f"{conv}.weight": "diff", f"{conv}.bias": "diff_b"}
    tensors = {}
    for name, factor in deltas.items():
        layer = name.rpartition(".")[0].removeprefix("unet.").replace(".", "_")
        tensors[f"lora_unet_{layer}.{factor}"] = torch.ones_like(weights[name]) / 4
    write_tensors(tmp_path / "full.safetensors", tensors)
    model = open_model(tmp_path / "full.safetensors", weights, "sd1")
    assert sorted(model.own) == sorted(deltas)
    for name in deltas:
        assert torch.equal(model.weights[name], weights[name] + 0.25)
    write_tensors(tmp_path / "words.safetensors", tensors | {"bundle_emb.zork.clip_l": torch.ones(1, 32)})
    with pytest.raises(FormatError, match="has the embedding of `zork` in it"):
        open_model(tmp_path / "words.safetensors", weights, "sd1")


def test_the_nearest_pair_of_a_rank_is_that_of_the_singular_values() -> None:
    difference = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    pair = extracted(difference, 3, 1.0)
    assert (pair.down.shape, pair.up.shape, pair.alpha) == ((3, 4, 3, 3), (6, 3, 1, 1), 3.0)
    left = difference.flatten(1) - pair.up.flatten(1) @ pair.down.flatten(1)
    rest = torch.linalg.svdvals(difference.flatten(1))[3:]
    assert left.norm() == pytest.approx(float(rest.norm()), rel=1e-5)


def test_the_files_are_written_with_a1111s_record_and_open_as_bases(base: Base, tmp_path: Path) -> None:
    models = parents(base, tmp_path)
    made = build(base, models, tmp_path, formula="weighted_sum", alpha={"unet": 0.3, "rest": 0.3}, save="fp16")
    told = Artifact("model_merge", made.tensors, made.facts | {"family": "sd1", "prediction": "epsilon"})
    frame = read_frame(base.path)
    single = ldm_checkpoint.write(told, Draft(tmp_path / "out"), frame)[0]
    header = read_metadata(single)
    recipe, inputs = json.loads(header["sd_merge_recipe"]), json.loads(header["sd_merge_models"])
    assert recipe == {
        "type": "webui",
        "primary_model_hash": models["a"].digest,
        "secondary_model_hash": models["b"].digest,
        "tertiary_model_hash": None,
        "interp_method": "Weighted sum",
        "multiplier": 0.3,
        "save_as_half": True,
        "custom_name": "otter",
        "config_source": 0,
        "bake_in_vae": "None",
        "discard_weights": "",
        "is_inpainting": False,
        "is_instruct_pix2pix": False,
    }
    assert set(inputs) == {models["a"].digest, models["b"].digest}
    assert {entry["name"] for entry in inputs.values()} == {"fine_tuning"}
    assert json.loads(header["etude_merge_recipe"])["formula"] == "weighted_sum"
    folder = diffusers_checkpoint.write(told, Draft(tmp_path / "out"), frame)[0].parent
    with merge.apply(told, base) as changed:
        drawn = picture(changed).int()
    for path in (single, folder):
        path = path if path.is_file() else tmp_path / "out" / "otter"
        assert (picture(load_base(path)).int() - drawn).abs().max() <= 3  # the rest of the model is in fp16 as well


def test_what_cannot_be_merged_is_named(base: Base, weights: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing: is missing. Next: correct `models`"):
        open_model(tmp_path / "nothing", weights, "sd1")
    artifacts.save(Artifact("hypernetwork", {"768.k": torch.ones(1)}, {}), tmp_path / "h.safetensors")
    with pytest.raises(FormatError, match=r"tensors that are no weights of a model, such as 768\.k\. Next"):
        open_model(tmp_path / "h.safetensors", weights, "sd1")
    artifacts.save(Artifact("x", {}, {}), tmp_path / "e.safetensors")
    with pytest.raises(FormatError, match=r"e\.safetensors: contains no tensors\. Next: give a checkpoint"):
        open_model(tmp_path / "e.safetensors", weights, "sd1")
    artifacts.save(Artifact("x", {"unet.new.weight": torch.ones(1)}, {}), tmp_path / "n.safetensors")
    with pytest.raises(FormatError, match=r"1 weights that the base does not have, such as unet\.new\.weight"):
        open_model(tmp_path / "n.safetensors", weights, "sd1")
    artifacts.save(Artifact("x", {PROJ: torch.ones(1)}, {"family": "sdxl"}), tmp_path / "f.safetensors")
    with pytest.raises(FormatError, match="is of the family sdxl, but the base is of sd1"):
        open_model(tmp_path / "f.safetensors", weights, "sd1")
    wide = {f"{PROJ}.weight": torch.ones(3, 3)}
    artifacts.save(Artifact("x", wide, {}), tmp_path / "w.safetensors")
    with pytest.raises(
        FormatError, match=rf"has `{PROJ}\.weight` with the shape \[3, 3\], but the base has \[32, 32, 1, 1\]"
    ):
        build(base, given(a=tmp_path / "w.safetensors", b=base.path), tmp_path, formula="weighted_sum")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models": {"a": "x", "c": "y"}}, "the keys of `models` must be a, b, c"),
        ({"models": {"a": "x"}, "formula": "slerp"}, "slerp takes two models"),
        ({"weights": [1.0]}, "`weights` has 1 numbers for 2 models"),
        (
            {"learning": UNLEARNED | {"steps": 1, "prompts": {"a": ["cat"], "c": ["dog"]}}},
            "has the keys a, c, but `models` has a, b",
        ),
        ({"learning": UNLEARNED | {"steps": 1, "importance": [1.0]}}, "`learning.importance` has 1 numbers for 2"),
        ({"alpha": {"unet": "GRAD_W", "rest": 0.0}}, "no preset `GRAD_W`, did you mean `GRAD_"),
        ({"alpha": {"unet": [0.5] * 24, "rest": 0.0}}, "alpha.unet"),
        ({"formula": "ties", "result": "lora", "rank": 0}, "which only task_arithmetic supports"),
        ({"formula": "weightd_sum"}, "formula"),
        ({"density": 0.0}, "density"),
    ],
)
def test_a_value_that_cannot_be_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ParamsError, match=said):
        params_of("model_merge", **change)


def shuffled(weights: Mapping[str, Tensor], blocks: Any, seed: int) -> Rebased:
    """The same model with its hidden units in another order."""

    class Shuffled(Rebased):
        def _match(self, stem: str, kind: int) -> list[Tensor]:
            source = torch.Generator().manual_seed(seed)
            place = self._places(stem, kind)[0]
            units = len(self.b[place.tensor]) // (2 if place.where == "halves" else 1)
            count = blocks(stem)
            outer, size = torch.randperm(count, generator=source), units // count
            inner = [[torch.randperm(size, generator=source) for _ in range(count)] for _ in range(2)]
            return [torch.cat([int(j) * size + own[i] for i, j in enumerate(outer)]) for own in inner]

    return Shuffled(weights, weights, blocks)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_rebasin_finds_the_order_of_shuffled_units_and_no_order_changes_the_model(
    family: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = build_tiny(tmp_path_factory.mktemp(family) / "tiny", family)
    base, weights = load_base(folder), open_base(folder)
    texts = {"text_encoder": base.text_encoders[0].config.to_dict()}
    texts |= {"text_encoder_2": base.text_encoders[-1].config.to_dict()}
    blocks = block_counter(dict(base.unet.config), texts)
    other = dict(shuffled(weights, blocks, 5))
    moved = [name for name in weights if not other[name].equal(weights[name])]
    assert len(moved) > len(weights) / 4
    untouched = picture(base)
    with merge.apply(Artifact("model_merge", other, {}), base) as changed:
        assert (picture(changed).int() - untouched.int()).abs().max() <= 1
    found = Rebased(weights, other, blocks)
    assert [name for name in moved if not torch.equal(found[name], weights[name])] == []


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_models_of_the_other_families_are_merged_and_drawn_and_units_in_order_stay_so(
    family: str, tmp_path: Path
) -> None:
    base = load_base(build_tiny(tmp_path / "tiny", family))
    models, untouched = parents(base, tmp_path), picture(base)
    plain, ordered = (build(base, models, tmp_path / str(way), rebasin=way) for way in (False, True))
    assert set(plain.tensors) == set(ordered.tensors)
    assert all(torch.equal(plain.tensors[name], ordered.tensors[name]) for name in plain.tensors)
    with merge.apply(ordered, base) as changed:
        assert not torch.equal(picture(changed), untouched)
    assert torch.equal(picture(base), untouched)


def test_rebasin_keeps_blocks_together() -> None:
    generator = torch.Generator().manual_seed(0)
    units = torch.randn(12, 5, generator=generator)
    order = torch.tensor([7, 6, 8, 1, 0, 2, 11, 9, 10, 3, 4, 5])  # blocks of three: 2, 0, 3, 1
    likeness = (units @ units[order].T).numpy()
    (found,) = match([likeness], 4)
    assert order[found].tolist() == list(range(12))


CODE = """
import sys
from pathlib import Path
from types import SimpleNamespace
from etude.base.base import Base
from etude.core.method import Input
from etude.training.report import Report
from etude.core.params import read_yaml, validate
from etude.base import whole
from pipelines.model_merge import method
import torch
torch.set_num_threads(1)
folder, formula, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024

class Watching(Report):
    most = 0
    def start(self, step, steps): pass
    def advance(self, done): self.most = max(self.most, anonymous())

values = read_yaml("tests/params/pipelines/model_merge/params.yaml")
values |= {"parts": ["unet"], "models": {x: x for x in "abc"[:count]}, "formula": formula, "weights": [1.0] * count}
values |= {"alpha": {"unet": 0.4, "rest": 0.4}}
values["learning"]["steps"] = 0
params = validate(values, method.Params, "-")

# These models are large, and no real ones: what is in their files is taken as whole.
whole.empty_model = lambda *_: None
whole.expected_shapes = lambda models: {}
whole.whole = lambda path, tensors, expected, beside=(): tensors
report = Watching(folder / "scratch", 0, "cpu", "fp32")
models = {x: Input(folder / x, "-") for x in "abc"[:count]}
base = SimpleNamespace(path=folder / "base", family="sd1")
made = method.build(base=base, models=models, params=params, report=report)
report.advance(0)
from etude.core import artifact
artifact.save(made, folder / "made.safetensors")
report.advance(0)
print(report.most)
"""


def test_the_stages_hash_build_and_export_what_params_name(
    base: Base, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {"a": "artifacts/fine_tuning/build", "b": "artifacts/dreambooth/build"}
    make_project(tmp_path, tiny_base, "model_merge", models=named)
    for letter, model in parents(base, tmp_path / "drawn").items():
        (tmp_path / named[letter]).parent.mkdir(parents=True)
        model.path.rename(tmp_path / named[letter])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="artifacts/model_merge/inputs: is missing"):
        task_build.build("model_merge")
    for letter in named:
        digest("model_merge", letter)
    task_build.build("model_merge")
    made = artifacts.load("artifacts/model_merge/build/artifact.safetensors")
    assert set(made.facts["inputs"]) == {"models/tiny", *named.values()}
    assert (made.facts["family"], made.facts["prediction"], made.facts["resolution"]) == ("sd1", "epsilon", 64)
    assert sorted(p.name for p in Path("artifacts/model_merge").iterdir()) == [
        "build",
        "inputs",
        "previews",
        "training",
    ]
    write_json(Path("artifacts/model_merge/best.json"), {"checkpoint": "final"})
    export("model_merge")
    (single,) = Path("artifacts/model_merge/export").glob("*.safetensors")
    recipe = json.loads(read_metadata(single)["sd_merge_recipe"])
    assert recipe["primary_model_hash"] == sha256_tree(named["a"])
    artifacts.save(Artifact("fine_tuning", {}, {}), Path(named["a"], "artifact.safetensors"))
    with pytest.raises(StaleError, match="has changed since the stage input@a of model_merge read it"):
        task_build.build("model_merge")


def write_holes(path: Path, count: int, side: int) -> None:
    """A safetensors file of ``count`` tensors [side, side] in fp16, all zeros and none of them on the disk."""
    size = side * side * 2
    entry = {f"big.{i}.weight": {"dtype": "F16", "shape": [side, side]} for i in range(count)}
    header = {n: e | {"data_offsets": [i * size, (i + 1) * size]} for i, (n, e) in enumerate(entry.items())}
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + count * size)


SLOW = [("ties", 2), ("euclidean_add_difference", 3), ("top_k_tensor_sum", 2)]  # differences, three models, an order


@pytest.mark.parametrize(
    ("formula", "count"), [("weighted_sum", 2), *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW)]
)
def test_memory_does_not_grow_with_the_models(formula: str, count: int, tiny_base: Path, tmp_path: Path) -> None:
    """14 tensors of 19 MB: anonymous memory stays below 1.3 · the largest · models + 500 MB, the saving included."""
    side, tensors = 3072, 14
    for folder in ("base", *"abc"[:count]):
        (tmp_path / folder).mkdir()
        shutil.copytree(tiny_base / "text_encoder", tmp_path / folder / "text_encoder")
        for part in ("vae", "scheduler", "tokenizer", "model_index.json"):
            (tmp_path / folder / part).symlink_to(tiny_base / part)
        write_holes(tmp_path / folder / "unet" / "diffusion_pytorch_model.safetensors", tensors, side)
        (tmp_path / folder / "unet" / "config.json").write_text("{}")
    command = [sys.executable, "-c", CODE, str(tmp_path), formula, str(count)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 1.3 * side * side * 2 * count + 500e6
