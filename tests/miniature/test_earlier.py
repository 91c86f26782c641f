"""Training goes on from an earlier edition that git keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from etude.core.errors import InputError
from etude.core.files import write_json
from etude.core.tensors import write_tensors
from miniature import earlier
from tests.miniature.test_model import small_clip
from tests.shipped import git


def keep(folder: Path, model: torch.nn.Module, vocabulary: dict[str, int]) -> None:
    half = {name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()}
    write_tensors(folder / "model.safetensors", half, {"format": "pt"})
    write_json(folder / "vocab.json", vocabulary)


def test_a_known_token_keeps_its_embedding_and_all_else_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, model = small_clip(3, text_layers=1), small_clip(4, text_layers=1)
    keep(tmp_path / "earlier" / "clip", before, {"cat": 0, "dog": 1, "lost": 2})
    monkeypatch.setattr(earlier, "OUT", tmp_path)
    name = "text_model.embeddings.token_embedding.weight"
    new = model.state_dict()[name].clone()
    earlier.begin_clip(model, {"owl": 0, "dog": 1, "fox": 2, "cat": 3})
    rows, known = model.state_dict()[name], before.state_dict()[name].half().float()
    assert torch.equal(rows, torch.stack([new[0], known[1], new[2], known[0]]))
    for other, value in before.state_dict().items():
        if other != name and value.is_floating_point():
            assert torch.equal(model.state_dict()[other], value.half().float()), other


def test_without_an_earlier_edition_training_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(earlier, "OUT", tmp_path)
    model = small_clip(3, text_layers=1)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    earlier.begin_clip(model, {"cat": 0})
    assert not earlier.begin(model, "unet")
    assert all(torch.equal(model.state_dict()[name], value) for name, value in weights.items())


def test_the_weights_of_a_commit_come_out_of_git_unchanged_by_what_is_published_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "-q")
    published = tmp_path / earlier.PUBLISHED / "unet" / "weights.bin"
    published.parent.mkdir(parents=True)
    commits = []
    for content in (b"first", b"second"):
        published.write_bytes(content)
        git(tmp_path, "add", "models")
        git(tmp_path, "commit", "-qm", "publish")
        commits.append(git(tmp_path, "rev-parse", "HEAD").strip())
    earlier.unpack(commits[0], f"{earlier.PUBLISHED}/unet", tmp_path / "out")
    assert (tmp_path / "out" / "weights.bin").read_bytes() == b"first"


def test_a_commit_that_the_clone_lacks_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "-q")
    with pytest.raises(InputError, match=r"git has no models/miniature/unet at 0123.*unshallow"):
        earlier.unpack("0123", "models/miniature/unet", tmp_path / "out")


@pytest.fixture
def edition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The commit of a repository in which every part of a miniature is published."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(earlier, "OUT", tmp_path / "out")
    monkeypatch.setattr(earlier, "FOLDER", tmp_path)
    for path in (*earlier.BEGUN.values(), *(f"{earlier.PUBLISHED}/{part}" for part in earlier.PARTS.values())):
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
        (tmp_path / path / "weights.bin").write_text(Path(path).relative_to("models").as_posix())
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "models")
    git(tmp_path, "commit", "-qm", "publish")
    return git(tmp_path, "rev-parse", "HEAD").strip()


def ask_for(folder: Path, commit: str, stages: list[str]) -> None:
    write_json(folder / "params.yaml", {"earlier": {"commit": commit, "as_published": stages}})  # JSON is YAML


def test_a_stage_that_is_left_as_published_trains_nothing_and_any_other_trains(edition: str, tmp_path: Path) -> None:
    ask_for(tmp_path, edition, ["decoder", "vision"])
    earlier.take()
    taken = {stage: earlier.as_published(stage) for stage in earlier.PARTS}
    assert {stage for stage, is_so in taken.items() if is_so} == {"decoder", "vision"}
    assert (tmp_path / "out/decoder/weights.bin").read_text() == "miniature/vae"
    assert (tmp_path / "out/vision/weights.bin").read_text() == "miniature/clip"
    assert (tmp_path / "out/earlier/unet/weights.bin").read_text() == "miniature/unet"
    assert (tmp_path / "out/earlier/unclip/weights.bin").read_text() == "miniature-unclip/unet"


def test_stages_of_no_edition_are_an_error_before_anything_is_written(edition: str, tmp_path: Path) -> None:
    ask_for(tmp_path, "", ["vae"])
    with pytest.raises(InputError, match=r"earlier\.as_published.*`earlier\.commit`"):
        earlier.take()
    assert not (tmp_path / "out").exists()
