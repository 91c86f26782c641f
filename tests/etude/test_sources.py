"""What the methods read and no stage makes: behind some links DVC would miss a change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from commands.check import check
from etude import project, sources
from etude.core.errors import InputError


@pytest.fixture
def here(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose sources are all there: folders with one file each."""
    folder = Path(shutil.copytree(shipped, tmp_path / "project"))
    monkeypatch.chdir(folder)
    for source in sources.sources(Path(), project.check(Path())):
        if not Path(source.path).exists():
            Path(source.path, "part").mkdir(parents=True)
    for captioner in project.check(Path()).caption.captioners.values():
        Path(captioner, "config.json").touch()
    return folder


def test_a_linked_part_of_a_base_is_refused_and_a_linked_base_is_not(here: Path, tmp_path: Path) -> None:
    base = Path(project.check(Path()).base)
    check()
    elsewhere = base.rename(tmp_path / "elsewhere")
    base.symlink_to(elsewhere)
    check()  # DVC looks behind this one
    base.unlink()
    shutil.copytree(elsewhere, base)
    (elsewhere / "file").touch()
    (base / "file").symlink_to(elsewhere / "file")
    check()  # and behind this one
    (base / "unet").symlink_to(elsewhere)
    (base / "more").mkdir()
    (base / "more/vae").symlink_to(elsewhere)
    with pytest.raises(InputError, match=rf"{base}/unet \(.*base\): is a link to a folder, .* Next: put") as caught:
        check()
    assert f"{base}/more/vae (" in str(caught.value)
    assert len(sources.lacking(project.check(Path()))) == 2


def test_linked_held_out_pictures_are_refused(here: Path, tmp_path: Path) -> None:
    checked = project.check(Path())
    folder = checked.evaluate.heldout_folder(next(iter(checked.sets)))
    shutil.rmtree(folder, ignore_errors=True)
    (tmp_path / "pictures").mkdir()
    folder.symlink_to(tmp_path / "pictures")
    with pytest.raises(InputError, match=rf"{folder} \(params\.yaml: evaluate\.heldout\): is a link to a folder"):
        check()


def test_links_in_an_image_set_and_beside_held_out_sets_are_not_refused(here: Path, tmp_path: Path) -> None:
    checked = project.check(Path())
    (tmp_path / "pictures").mkdir()
    for folder in (*checked.sets.values(), checked.evaluate.heldout):
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, "of no set").symlink_to(tmp_path / "pictures")
    check()


@pytest.mark.parametrize(
    ("recorded", "of", "told"),
    [
        ("", "", "is missing. Next: bring it with `etude base --from … --to in/it`, or correct that parameter."),
        (
            "",
            "pets",
            "is missing. Next: bring the pictures in with `etude images --from … --set pets`, or correct `sets`.",
        ),
        (
            "outs: []",
            "pets",
            "is tracked by DVC, but its content is not here. Next: `dvc pull in/it` brings it from your DVC remote.",
        ),
        (
            "meta: {from: some/model, revision: '1'}",
            "",
            "is tracked by DVC, but its content is not here. Next: `etude base` fetches it; or `dvc pull in/it` brings "
            "it from your DVC remote.",
        ),
    ],
    ids=["a model", "a set", "a tracked set", "a tracked model of a hub"],
)
def test_what_is_missing_is_told_with_every_way_to_get_it(
    recorded: str, of: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    if recorded:
        Path("in/it.dvc").write_text(recorded, encoding="utf-8")
    assert sources.faults([sources.Source("in/it", "params.yaml: base", of)]) == [f"in/it (params.yaml: base): {told}"]
