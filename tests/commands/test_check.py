"""All parameters of several folders, checked together."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from commands.check import check
from commands.rewriting import rewrite
from etude.core.errors import BaseError, InputError, ParamsError
from etude.images import faces
from etude.training import optimizer, settings
from tests.shipped import PARAMS


def draft(folder: Path, old: str = "", new: str = "") -> Path:
    shutil.copytree(PARAMS, folder)
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(text.replace(old, new, 1))
    return folder


def test_faults_of_all_folders_are_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fine = draft(tmp_path / "fine")
    check([fine])
    assert "fine" in capsys.readouterr().out
    folders = [draft(tmp_path / name, "threads:", f"{name}:") for name in ("treads", "thraeds")]
    with pytest.raises(ParamsError) as raised:
        check([fine, *folders])
    for name in ("treads", "thraeds"):
        assert f"{name}: {tmp_path / name / 'params.yaml'}" in str(raised.value)


def test_a_crop_by_faces_without_the_detector_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(draft(tmp_path / "project", "crop: focus", "crop: faces"))
    monkeypatch.setattr(faces, "find_spec", lambda _: None)
    with pytest.raises(InputError, match="`crop: faces` needs .*EXTRAS=faces"):
        check()


def test_an_optimizer_whose_package_is_not_installed_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = draft(tmp_path / "project")
    rewrite(project / "pipelines/lora/params.yaml", "params.yaml", {"training.optimizer.kind": "adamw8bit"})
    monkeypatch.chdir(project)
    monkeypatch.setattr(optimizer, "find_spec", lambda _: None)
    fault = "lora/params.yaml: `training.optimizer.kind: adamw8bit` needs bitsandbytes, which .* EXTRAS=gpu`"
    with pytest.raises(ParamsError, match=fault):
        check()


def test_a_captioner_whose_model_lacks_a_file_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = draft(tmp_path / "project", "clip: models/miniature/clip", "clip: models/empty")
    rewrite(project / "params.yaml", "params.yaml", {"methods": ["lora"]})
    (project / "data").symlink_to(Path("data").resolve())
    (project / "models/empty").mkdir(parents=True)
    for name in ("miniature", "none"):
        (project / "models" / name).symlink_to(Path("models", name).resolve())
    monkeypatch.chdir(project)
    with pytest.raises(BaseError, match="models/empty: is no CLIP folder: config.json is missing"):
        check()


def test_a_tracker_whose_package_is_not_installed_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(draft(tmp_path / "project", "trackers: []", "trackers: [wandb]"))
    monkeypatch.setattr(settings, "find_spec", lambda _: None)
    with pytest.raises(
        ParamsError, match="`trackers` has wandb, which is not installed. Next: run `pip install wandb`"
    ):
        check()


def test_masks_that_shall_count_where_no_picture_has_one_are_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = draft(tmp_path / "project")
    rewrite(project / "params.yaml", "params.yaml", {"sets.style": "pictures"})
    own = {"unmasked_weight": 0.1, "further_sets": {"style": 1}}
    rewrite(project / "pipelines/lora/params.yaml", "params.yaml", own)
    for name in ("data", "models"):
        (project / name).symlink_to(Path(name).resolve())
    (project / "pictures").mkdir()
    (project / "pictures/fox.png").touch()
    monkeypatch.chdir(project)
    with pytest.raises(InputError, match=r"data/samples/concept, pictures: no picture has a mask.* Next: put masks"):
        check()
    (project / "pictures/fox-masklabel.png").touch()
    check()
