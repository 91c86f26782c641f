"""Bringing a base into the repository, with the real git and DVC; nothing is downloaded."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from etude.diffusion.base import load_base
from etude.errors import BaseError, ConflictError, InputError
from etude.files import sha256_tree
from etude.params import read_yaml
from tasks.base import base, kind_of, needed, note_origin

COMMIT = "0123456789" * 4


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which the test works."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def repository(project: Path) -> Path:
    """The same, as a repository of git and DVC."""
    subprocess.run(["git", "init", "-q"], check=True)
    dvc("init")
    return project


def dvc(*arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments, "--quiet"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_folder_is_copied_checked_and_tracked(tiny_base: Path, repository: Path) -> None:
    base(source=str(tiny_base), to=Path("models/mine"))
    assert sha256_tree("models/mine") == sha256_tree(tiny_base)
    assert read_yaml("models/mine.dvc")["outs"][0]["path"] == "mine"
    assert leftovers(repository / "models") == [".gitignore", "mine", "mine.dvc"]
    note_origin(Path("models/mine.dvc"), "someone/something", COMMIT)
    shutil.rmtree("models/mine")
    dvc("checkout")
    assert load_base("models/mine").family == "sd1"
    assert read_yaml("models/mine.dvc")["meta"] == {"from": "someone/something", "revision": COMMIT}


def test_a_single_file_comes_with_the_configuration_beside_it(tmp_path: Path, repository: Path) -> None:
    from tests.etude.diffusion.ldm import to_ldm
    from tests.etude.diffusion.test_base import configuration_beside
    from tests.tiny import build_tiny

    folder = build_tiny(tmp_path / "sd2", "sd2")
    tensors = {name: tensor.contiguous() for name, tensor in to_ldm(folder, "sd2").items()}
    save_file(tensors, tmp_path / "v2.safetensors")
    configuration_beside(folder, tmp_path / "v2.config")

    base(source=str(tmp_path / "v2.safetensors"), to=Path("models/mine"))

    loaded = load_base("models/mine.safetensors")
    assert (loaded.family, loaded.prediction) == ("sd2", "v_prediction")
    expected = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(loaded.unet.conv_in.weight, expected["conv_in.weight"])
    assert {"mine.safetensors.dvc", "mine.config.dvc"} <= set(leftovers(repository / "models"))


def test_a_clip_comes_in_the_same_way_and_without_dvc_the_error_says_what_is_left(
    tiny_base: Path, project: Path
) -> None:
    with pytest.raises(InputError, match=r"models/clip: is here, but `dvc add` failed .*`dvc add models/clip`"):
        base(source=str(tiny_base / "clip"), to=Path("models/clip"))
    assert kind_of(Path("models/clip")) == "clip"
    (project / "models" / "clip" / "vocab.json").unlink()
    with pytest.raises(BaseError, match=r"lacks vocab\.json"):
        kind_of(Path("models/clip"))


def test_what_is_there_is_never_overwritten(tiny_base: Path, project: Path) -> None:
    (project / "models" / "mine").mkdir(parents=True)
    (project / "models" / "mine" / "precious").write_text("mine")
    with pytest.raises(ConflictError, match="models/mine"):
        base(source=str(tiny_base), to=Path("models/mine"))
    assert (project / "models" / "mine" / "precious").read_text() == "mine"
    (project / "models" / "gone.dvc").write_text("outs: []\n")
    with pytest.raises(ConflictError, match=r"gone\.dvc"):
        base(source=str(tiny_base), to=Path("models/gone"))


def test_a_base_belongs_inside_the_repository(tiny_base: Path, project: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseError, match="outside the repository"):
        base(source=str(tiny_base), to=tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_what_is_no_base_leaves_nothing_behind(tiny_base: Path, project: Path, tmp_path: Path) -> None:
    spoilt = shutil.copytree(tiny_base, tmp_path / "spoilt")
    shutil.rmtree(spoilt / "vae")
    with pytest.raises(BaseError, match="lacks vae"):
        base(source=str(spoilt), to=Path("models/mine"))
    assert leftovers(project / "models") == []


def test_a_hub_id_needs_a_commit(project: Path) -> None:
    for revision in ("", "main", "0123abc"):
        with pytest.raises(BaseError, match="40 hex digits"):
            base(source="someone/something", to=Path("models/mine"), revision=revision)
    assert leftovers(project / "models") == []


@pytest.mark.parametrize("source", ["someone/something", "someone/something/model.safetensors"])
def test_an_unreachable_hub_is_a_clear_error_and_leaves_nothing_behind(project: Path, source: str) -> None:
    with pytest.raises(BaseError, match=r"someone/something@01234567: cannot be fetched"):
        base(source=source, to=Path("models/mine"), revision=COMMIT)
    assert leftovers(project / "models") == []


def test_a_mistyped_path_is_not_taken_for_a_hub_id(project: Path) -> None:
    with pytest.raises(BaseError, match="no path here"):
        base(source="nowhere", to=Path("models/mine"), revision=COMMIT)


HUB = [
    "README.md",
    "model_index.json",
    "v1-5-pruned.safetensors",
    "safety_checker/model.safetensors",
    "feature_extractor/preprocessor_config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/pytorch_model.bin",
    "text_encoder/flax_model.msgpack",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.bin",
    "vae/config.json",
    "vae/diffusion_pytorch_model.bin",
]


def test_of_a_hubs_files_each_model_is_fetched_once() -> None:
    kept = [
        "README.md",
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.bin",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "scheduler/scheduler_config.json",
    ]
    assert needed(HUB) == kept
    half = [name for name in needed(HUB, half=True) if name.endswith((".safetensors", ".bin"))]
    assert half == [
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.bin",
        "text_encoder/model.fp16.safetensors",
    ]


def test_of_an_unclip_base_what_tells_it_of_a_picture_is_fetched_as_well() -> None:
    own = ["image_encoder/config.json", "image_encoder/model.safetensors", "image_normalizer/config.json"]
    own += ["image_normalizer/diffusion_pytorch_model.safetensors", "image_noising_scheduler/scheduler_config.json"]
    assert set(needed([*HUB, *own])) - set(needed(HUB)) == {*own, "feature_extractor/preprocessor_config.json"}


def test_of_a_base_of_image_variations_what_sees_pictures_is_fetched() -> None:
    eye = {"feature_extractor/preprocessor_config.json", "image_encoder/config.json", "image_encoder/model.safetensors"}
    rest = [name for name in needed(HUB) if not name.startswith(("text_encoder", "tokenizer"))]
    assert set(needed([*rest, *eye, "safety_checker/model.safetensors"])) == {*rest, *eye}


def test_shards_come_with_their_index() -> None:
    shards = [f"unet/diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = "unet/diffusion_pytorch_model.safetensors.index.json"
    assert needed([*shards, index, "unet/config.json"]) == ["unet/config.json", *shards, index]


def test_the_command_line_names_its_options_and_errors_in_one_line(shipped: Path, project: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tasks.base", "--from", "a/b", "--to", "models/none-such"],
        cwd=shipped,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: a/b: a hub's branches move")
    assert not (shipped / "models" / "none-such").exists()
