from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from commands import stacks
from commands.sample import sample
from commands.stacks import Layer, open_layer, ordered, split_layer
from etude.base.loading import load_base
from etude.base.settings import PLAIN
from etude.core import artifact as artifacts
from etude.core.artifact import Artifact
from etude.core.errors import ArgumentError, BaseError, ConflictError, FormatError, InputError
from etude.core.files import Draft
from etude.formats.embedding import embedding_pt
from etude.formats.embedding_pair import embedding_pair
from etude.formats.hypernetwork import hypernetwork_pt
from etude.formats.lora import kohya_lora
from tests.pipelines.test_lora import random_lora
from tests.tasks.learning import write_yaml

SAMPLING = {"sampler": "dpm++", "steps": 2, "guidance": 3.0, "negative": "", "clip_skip": 0}


@pytest.fixture
def project(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny base, a LoRA that was built here, and files that others might have made."""
    stage_params: dict[str, Any] = {"base": "models/tiny", "device": "cpu", "precision": "fp32", "threads": 1}
    write_yaml(tmp_path / "params.yaml", stage_params | {"sampling": SAMPLING, "text": PLAIN.model_dump()})
    (tmp_path / "models").mkdir()
    (tmp_path / "models/tiny").symlink_to(tiny_base)
    made = random_lora(load_base(tiny_base), targets=["attention"])
    built = Artifact("lora", made.tensors, made.facts | {"step": 80})
    for name in ("artifact", "checkpoints/000080"):
        artifacts.save(built, tmp_path / f"artifacts/lora/build/{name}.safetensors")
    kohya_lora.write(Artifact("lora", made.tensors, made.facts | {"name": "others"}), Draft(tmp_path))
    rows = Artifact("textual_inversion", {"text_encoder": torch.randn(2, 32)}, {"name": "blorp", "family": "sd1"})
    embedding_pt.write(rows, Draft(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def draw(stack: str, out: str = "x.png", **changes: Any) -> bytes:
    asked: dict[str, Any] = {"prompt": ["noto otter"], "seeds": "0-1", "base": "", "size": "", "steps": None}
    asked |= {"guidance": None, "sampler": "", "negative": ""} | changes
    sample(stack, out=Path(out), **asked)
    return Path(out).read_bytes()


def test_a_stack_of_own_and_foreign_files_is_drawn_with_labels(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = ["[name] on a red background", "cat"]
    draw("lora:0.8 + blorp.pt", prompt=prompts)
    with Image.open("x.png") as picture:
        assert picture.width > 2 * 64
        assert picture.height > 2 * 64
    assert "x.png: 2 × 2 pictures by models/tiny with lora:0.8 + blorp.pt" in capsys.readouterr().out


def test_every_layer_of_a_stack_counts_and_the_base_is_drawn_without_one(project: Path) -> None:
    stacks = ("", "lora:0.5", "lora", "others.safetensors", "lora + others.safetensors:0.5", "lora@80:0.25")
    drawn = [draw(stack, f"{number}.png", seeds="0") for number, stack in enumerate(stacks)]
    assert len(set(drawn)) == len(stacks)


def test_what_was_built_here_and_its_exported_file_draw_the_same_cells(project: Path) -> None:
    pictures = []
    for stack in ("lora", "others.safetensors"):
        draw(stack, f"{stack}.png", seeds="3", prompt=["noto otter"])
        with Image.open(f"{stack}.png") as picture:
            pictures.append(picture.crop((picture.width - 90, picture.height - 90, *picture.size)).tobytes())
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("lora", ("lora", None)),
        ("lora:0.8", ("lora", 0.8)),
        ("lora:-1", ("lora", -1.0)),
        ("a b/c.safetensors:.5", ("a b/c.safetensors", 0.5)),
        ("aesthetic:weight=0.5,steps=3", ("aesthetic", {"weight": 0.5, "steps": 3.0})),
        ("C:/x/y.pt", ("C:/x/y.pt", None)),
    ],
)
def test_a_layer_is_read(text: str, found: Any) -> None:
    assert split_layer(text) == found


@pytest.mark.parametrize(
    ("stack", "error", "said"),
    [
        ("lorra:0.8", InputError, "lorra: is no method, did you mean `lora`"),
        ("none/lora.pt", InputError, r"none/lora\.pt: is missing\. Next: check the path"),
        ("lora:much", InputError, "`much` after the colon is no number"),
        ("lora:width=2", InputError, "lora has no setting `width`.*use strength"),
        ("blorp.pt:0.5", InputError, "is the strength, which textual_inversion does not have"),
        ("hypernetwork", InputError, r"artifacts/hypernetwork/build/artifact\.safetensors: is missing.*dvc repro"),
        ("lora@81", InputError, "lora@81: `81` is no step of its checkpoints: 80. Next: write lora@80"),
        ("lora@last", InputError, "`last` is no step of its checkpoints: 80"),
        ("lora@best", InputError, r"artifacts/lora/best\.json: is missing"),
        ("hypernetwork@80", InputError, r"artifacts/hypernetwork/build/artifact\.safetensors: is missing"),
        ("params.yaml", FormatError, "params.yaml"),
    ],
)
def test_a_layer_that_cannot_be_says_why_and_nothing_is_written(
    stack: str, error: type[Exception], said: str, project: Path
) -> None:
    with pytest.raises(error, match=said):
        draw(stack)
    assert not Path("x.png").exists()


def test_a_fault_that_a_method_finds_names_the_file(project: Path) -> None:
    wider = Artifact("textual_inversion", {"text_encoder": torch.randn(2, 768)}, {"name": "wide", "family": "sd1"})
    embedding_pt.write(wider, Draft(project))
    with pytest.raises(BaseError, match=r"wide\.pt: word 'wide': has rows of shape \(2, 768\)"):
        draw("wide.pt")


def test_an_aesthetic_embedding_of_others_is_drawn_with(project: Path) -> None:
    own = project / "pipelines/aesthetic_gradient/params.yaml"
    own.parent.mkdir(parents=True)
    write_yaml(own, {"clip": "models/tiny/clip", "learning_rate": 0.03})
    torch.save(torch.randn(1, 32), project / "sunset.pt")
    layer = open_layer("sunset.pt", {"steps": 3.0})
    assert (layer.artifact.method, layer.settings["steps"]) == ("aesthetic_gradient", 3.0)
    assert draw("sunset.pt:steps=3", "a.png", seeds="0") != draw("sunset.pt:steps=0", "b.png", seeds="0")


def test_other_faults_are_named(project: Path) -> None:
    with pytest.raises(InputError, match=r"no artifact with a word for \[name\]"):
        draw("", prompt=["[name]"])
    with pytest.raises(ArgumentError, match="--size: `5` is not a size"):
        draw("", size="5")
    for seeds in ("a-b", "-1", "1e999999999", str(2**64)):
        with pytest.raises(ArgumentError, match="--seeds"):
            draw("", seeds=seeds)
    for wrong in ({"sampler": "dpm"}, {"steps": 0}, {"steps": -5}, {"guidance": float("nan")}, {"guidance": -3.0}):
        with pytest.raises(ArgumentError, match=f"line: `{next(iter(wrong))}` .* Next: see `etude sample --help`"):
            draw("", **wrong)
    with pytest.raises(InputError, match="`nan` after the colon is no number"):
        draw("lora:nan")
    with pytest.raises(BaseError, match="models/none"):
        draw("", base="models/none")
    wrong = Artifact("lora", {}, {"family": "sdxl", "name": "x", "alpha": 1.0, "rank": 1})
    artifacts.save(wrong, project / "xl.safetensors")
    with pytest.raises(BaseError, match=r"is of the family sd1, and xl\.safetensors is made for sdxl"):
        draw("xl.safetensors")
    Path("x.png").write_bytes(b"mine")
    with pytest.raises(ConflictError, match="exists already"):
        draw("lora")


def test_whole_weights_go_below_what_is_put_on_them() -> None:
    lora, whole = (Layer(m, Artifact(m, {}, {}), {}) for m in ("lora", "fine_tuning"))
    assert [layer.text for layer in ordered([lora, whole])] == ["fine_tuning", "lora"]
    with pytest.raises(InputError, match="two whole models.*merge them first"):
        ordered([whole, Layer("x", Artifact("model_merge", {}, {}), {})])


def test_a_hypernetwork_of_others_is_drawn_with(project: Path) -> None:
    tensors = {}
    for width in (32, 16, 24):
        for side in "kv":
            tensors |= {f"{width}.{side}.{i}.linear.{end}": torch.randn(s) / 4 for i, end, s in layers(width)}
    facts = {"structure": [1.0, 2.0, 1.0], "activation": "relu", "activate_output": True, "layer_norm": False}
    facts |= {"name": "net", "initial": "Normal", "family": "sd1", "step": 1, "base": "x", "dropout": [0, 0, 0]}
    hypernetwork_pt.write(Artifact("hypernetwork", tensors, facts), Draft(project))
    assert open_layer("net.pt", 0.5).settings == {"strength": 0.5}
    assert draw("net.pt:0.5", "a.png", seeds="0") != draw("lora:0.5 + net.pt:0.5", "b.png", seeds="0")


def test_an_embedding_comes_with_the_negative_one_beside_it(project: Path) -> None:
    rows = {f"{side}.text_encoder": torch.randn(2, 32) for side in ("positive", "negative")}
    embedding_pair.write(Artifact("dream_artist", rows, {"name": "blip", "family": "sd1"}), Draft(project))
    assert open_layer("blip.pt", None).artifact.method == "dream_artist"
    assert open_layer("blip-neg.pt", None).artifact.method == "textual_inversion"
    both = draw("blip.pt", "a.png", seeds="0", prompt=["[name] cat"])
    (project / "blip-neg.pt").unlink()
    assert open_layer("blip.pt", None).artifact.method == "textual_inversion"
    assert draw("blip.pt", "b.png", seeds="0", prompt=["[name] cat"]) != both


def layers(width: int) -> list[tuple[int, str, tuple[int, ...]]]:
    shapes = [(0, (2 * width, width)), (1, (width, 2 * width))]
    return [(i, end, shape if end == "weight" else shape[:1]) for i, shape in shapes for end in ("weight", "bias")]


@pytest.mark.parametrize("seeds", ["9223372036854775808", "0,99999999999999999999", "-1"])
def test_a_seed_outside_64_bits_is_refused_before_anything_is_loaded(seeds: str) -> None:
    with pytest.raises(ArgumentError, match=r"--seeds: .* (is not a seed|at most 18 digits)"):
        stacks._numbers(seeds)
    assert stacks._numbers("999999999999999999") == [10**18 - 1]
