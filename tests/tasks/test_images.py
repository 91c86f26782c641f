import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from etude.errors import ConflictError, InputError, ParamsError
from etude.files import sha256_tree
from etude.params import read_yaml
from tasks.images import images, insert
from tests.tasks.front import draw

PARAMS = """\
# The dials.

sets:                      # name: folder
  # the demo's
  concept: data/samples/concept  # five pictures

base: models/miniature     # a base

prompts:                   # [name] is the word
  concept:
    - "[name]"             # alone
    - "flat [name]"

seed: 0                    # last
"""
METHOD = """\
# LoRA

set: concept               # a key of `sets`
rank: 8                    # r
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a project that has no pictures yet, and one of photos beside it."""
    folder = tmp_path_factory.mktemp("images")
    project, photos = folder / "project", folder / "photos"
    (project / "pipelines" / "lora").mkdir(parents=True)
    (project / "pipelines" / "lora" / "method.py").touch()
    (project / "pipelines" / "lora" / "params.yaml").write_text(METHOD, encoding="utf-8")
    (project / "params.yaml").write_text(PARAMS, encoding="utf-8")
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=project, check=True)
    draw(photos / "a.png", 1)
    draw(photos / "holiday" / "b.jpg", 2)
    (photos / "a.txt").write_text("a dog", encoding="utf-8")
    (photos / "holiday" / "b.caption").write_text("unseen", encoding="utf-8")
    (photos / "movie.mov").write_bytes(b"\0\0\0\x14ftypqt  ")
    (photos / ".DS_Store").write_bytes(b"x")
    (photos / "notes.txt").write_text("no caption", encoding="utf-8")
    return folder


@pytest.fixture
def photos(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the photos; the project is the working directory."""
    shutil.copytree(template, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy" / "project")
    return tmp_path / "copy" / "photos"


def bring(photos: Path, name: str = "mydog", **options: Any) -> None:
    images(photos, name, **options)


def test_pictures_and_captions_are_copied_tracked_and_added_with_every_comment_kept(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bring(photos, method="lora")
    found = {path.relative_to("data/raw/mydog").as_posix() for path in Path("data/raw/mydog").rglob("*.*")}
    assert found == {"a.png", "a.txt", "holiday/b.jpg"}
    assert "path: mydog" in Path("data/raw/mydog.dvc").read_text(encoding="utf-8")
    assert Path("params.yaml").read_text(encoding="utf-8") == PARAMS.replace(
        "# five pictures\n", "# five pictures\n  mydog: data/raw/mydog\n"
    ).replace(
        '    - "flat [name]"\n',
        '    - "flat [name]"\n  mydog:\n    - "[name]"\n    - "a picture of [name]"\n    - "a drawing of [name]"\n'
        '    - "[name] on a red background"\n',
    )
    method = Path("pipelines/lora/params.yaml").read_text(encoding="utf-8")
    assert read_yaml("pipelines/lora/params.yaml") == {"set": "mydog", "rank": 8}
    assert method.count("#") == METHOD.count("#")
    told = capsys.readouterr()
    assert "2 pictures and 1 texts are in data/raw/mydog" in told.out
    assert "next: dvc repro" in told.out
    assert "1 files are not copied: movie.mov (is not a picture" in told.err
    assert "1 pictures have a .caption file" in told.err


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({"trigger": True, "caption": "[caption]"}, {"trigger": True, "caption": "[name], [caption]"}),
        ({"trigger": False, "caption": "[caption]"}, {"trigger": False, "caption": "[caption]"}),
        ({"trigger": True, "caption": "a photo of [name]"}, {"trigger": True, "caption": "a photo of [name]"}),
        ({"trigger": True, "templates": ["[filewords]"]}, {"trigger": True, "templates": ["[name], [filewords]"]}),
        ({"trigger": True, "templates": ["a [name]"]}, {"trigger": True, "templates": ["a [name]"]}),
    ],
)
def test_the_word_is_put_before_captions_that_would_not_say_it(
    photos: Path, own: dict[str, Any], expected: dict[str, Any]
) -> None:
    YAML().dump({"set": "concept", "name": "sks"} | own, Path("pipelines/lora/params.yaml"))
    bring(photos, method="lora")
    assert read_yaml("pipelines/lora/params.yaml") == {"set": "mydog", "name": "sks"} | expected


def test_the_same_pictures_come_in_twice_without_a_change(photos: Path) -> None:
    bring(photos)
    before = sha256_tree("data/raw"), Path("params.yaml").read_text(encoding="utf-8")
    bring(photos)
    bring(Path("data/raw/mydog"))
    assert (sha256_tree("data/raw"), Path("params.yaml").read_text(encoding="utf-8")) == before


def test_other_pictures_are_not_overwritten_unless_that_is_asked_for(photos: Path) -> None:
    bring(photos)
    draw(photos / "a.png", 3)
    draw(photos / "c.png", 4)
    (photos / "a.txt").unlink()
    before = sha256_tree("data/raw")
    with pytest.raises(ConflictError, match="1 would come, 1 would go, 1 would change"):
        bring(photos)
    assert sha256_tree("data/raw") == before
    bring(photos, replace=True)
    assert {path.name for path in Path("data/raw/mydog").iterdir()} == {"a.png", "c.png", "holiday"}
    assert list(read_yaml("params.yaml")["sets"]) == ["concept", "mydog"]


@pytest.mark.parametrize("name", ["My-Dog", "2dogs", "dog/cat", "", "samples", "raw", "concept"])
def test_names_that_cannot_be_or_are_taken_are_refused_before_anything_is_written(photos: Path, name: str) -> None:
    with pytest.raises((InputError, ConflictError)):
        bring(photos, name)
    assert not Path("data").exists()
    assert Path("params.yaml").read_text(encoding="utf-8") == PARAMS


def test_an_unknown_method_is_named_with_the_nearest(photos: Path) -> None:
    with pytest.raises(ParamsError, match="did you mean `lora`"):
        bring(photos, method="lorra")
    assert not Path("data").exists()


def test_folders_without_pictures_or_around_the_project_are_refused(photos: Path) -> None:
    with pytest.raises(InputError, match="holds no pictures"):
        bring(photos / ".." / "project" / "pipelines")
    with pytest.raises(InputError, match="is not a folder"):
        bring(photos / "gone")
    with pytest.raises(InputError, match="holds data/raw/mydog itself"):
        bring(photos / "..")


def test_when_dvc_fails_its_reason_is_told_and_params_stay(photos: Path) -> None:
    Path(".dvc/config").write_text("not a config", encoding="utf-8")
    with pytest.raises(InputError, match=r"data/raw/mydog: is here, but `dvc add` failed \((?!Having)"):
        bring(photos)
    assert Path("params.yaml").read_text(encoding="utf-8") == PARAMS


def test_params_of_an_unusual_form_are_left_as_they_are(photos: Path) -> None:
    Path("params.yaml").write_text("sets: {concept: data/samples/concept}\nprompts: {concept: [a]}\n", encoding="utf-8")
    before = Path("params.yaml").read_text(encoding="utf-8")
    with pytest.raises(ParamsError, match="add `mydog` to both by hand"):
        bring(photos)
    assert Path("params.yaml").read_text(encoding="utf-8") == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:\n  x: 1\n\n\nb: 2\n", "a:\n  x: 1\n  y: 0\n\n\nb: 2\n"),
        ("b: 2\na:\n    x: 1", "b: 2\na:\n    x: 1\n    y: 0\n"),
        ("a:\n  x:\n    - 1\n# about b\nb: 2\n", "a:\n  x:\n    - 1\n  y: 0\n# about b\nb: 2\n"),
        ("a:\nb: 2\n", "a:\n  y: 0\nb: 2\n"),
    ],
)
def test_an_entry_is_inserted_after_the_last_of_its_block(text: str, expected: str) -> None:
    assert insert(text, "a", ["y: 0"]) == expected
