"""Bringing pictures in, and letting methods learn from them, with the shipped parameters and the real git and DVC."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from commands.images import images
from commands.pointing import insert
from commands.preset import preset
from etude.core.errors import ArgumentError, ConflictError, InputError, ParamsError
from etude.core.files import sha256_tree
from etude.core.method import method_names
from etude.core.params import read_yaml
from etude.images import kinds
from etude.project import check
from tests.shipped import copy_project, replace_in
from tests.tasks.front import draw

LEARNED = ("owl", "eagle", "sks", "firefox", "panda", "concept", "style")  # what the sample sets are about
ELSEWHERE = {"model_merge": ("learning",)}  # its other model knows things of all kinds


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the project, without pictures, and a folder of photos beside it."""
    folder = tmp_path_factory.mktemp("images")
    project, photos = copy_project(folder / "project"), folder / "photos"
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


def bring(photos: Path, name: str = "mydog", *methods: str, **options: Any) -> None:
    images(photos, name, list(methods), **options)


def texts() -> dict[str, str]:
    files = [Path("params.yaml"), *Path("pipelines").glob("*/params.yaml")]
    return {str(path): path.read_text(encoding="utf-8") for path in files}


def comments(text: str) -> list[str]:
    return [line.partition("#")[2] for line in text.splitlines() if "#" in line]


def own(method: str) -> dict[str, Any]:
    return read_yaml(f"pipelines/{method}/params.yaml")


def values(data: Any) -> list[Any]:
    """Every key and value in nested mappings and lists."""
    if isinstance(data, dict):
        return [*data, *(value for each in data.values() for value in values(each))]
    return [value for each in data for value in values(each)] if isinstance(data, list) else [data]


def test_pictures_and_captions_are_copied_tracked_and_added_with_every_comment_kept(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = texts()
    bring(photos)
    found = {path.relative_to("data/raw/mydog").as_posix() for path in Path("data/raw/mydog").rglob("*.*")}
    assert found == {"a.png", "a.txt", "holiday/b.jpg", "holiday/b.caption"}
    assert "path: mydog" in Path("data/raw/mydog.dvc").read_text(encoding="utf-8")
    new = [line for line in texts()["params.yaml"].splitlines() if line not in before["params.yaml"].splitlines()]
    assert new[0] == "  mydog: data/raw/mydog"
    assert read_yaml("params.yaml")["prompts"]["mydog"] == [
        "[name]", "a picture of [name]", "a drawing of [name]", "[name] on a red background"
    ]  # fmt: skip
    assert comments(texts()["params.yaml"]) == comments(before["params.yaml"])
    assert {path for path, text in texts().items() if text != before[path]} == {"params.yaml"}
    told = capsys.readouterr()
    assert "2 pictures and 2 files with captions are in data/raw/mydog" in told.out
    assert "--method lora" in told.out
    assert "1 files are not copied: movie.mov (is a video (MOV)" in told.err
    assert "also not copied, because they are not used: 1 .txt (notes.txt)\n" in told.err


def test_chosen_methods_speak_of_what_is_learned_and_of_nothing_else_any_more(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = texts()
    bring(photos, "mydog", *method_names(), word="rex", kind="dog")
    told = capsys.readouterr()
    for method in method_names():
        kept = {key: value for key, value in own(method).items() if key not in ELSEWHERE.get(method, ())}
        said = " ".join(str(value) for value in values(kept)).replace("artifacts/", "")
        assert not [word for word in LEARNED if word in said.split()], method
        assert own(method)["set"] == "mydog"
        assert "rex" in own(method)["name"]
        assert f"pipelines/{method}/params.yaml: set: " in told.out
        file = f"pipelines/{method}/params.yaml"
        assert comments(texts()[file]) == comments(before[file])
    assert own("dreambooth")["name"] == "rex dog"
    assert own("dreambooth")["class_images"]["prompts"] == ["dog"]
    assert own("custom_diffusion")["concepts"] == {
        "mydog": {"word": "<rex>", "initializer": "dog", "prompt": "[word] dog"}
    }
    assert own("textual_inversion")["initializer"] == own("dream_artist")["positive"]["initializer"] == "dog"
    assert own("fine_tuning")["trigger"] is own("hypernetwork")["trigger"] is True
    assert own("lora")["caption"] == own("fine_tuning")["caption"] == "[name], [caption]"
    assert own("textual_inversion")["templates"] == ["[name], [filewords]"]
    assert own("model_merge")["learning"]["prompts"]["b"][1] == "noto rex dog"
    assert set(read_yaml("params.yaml")["methods"]) == set(method_names())
    assert check(Path()).sets["mydog"] == "data/raw/mydog"
    assert "params.yaml: methods: [lora, textual_inversion] → " in told.out
    assert "the base is models/miniature, which can draw only emoji" in told.err
    assert "etude preset sd15" in told.out


def test_the_class_stays_when_the_preset_changes_and_prompts_suit_the_base(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bring(photos, "mydog", "dreambooth", "custom_diffusion", word="rex", kind="owl")
    before = {path: read_yaml(path) for path in texts()}
    preset("sd15")
    assert own("dreambooth")["class_images"]["prompts"] == ["a photo of an owl"]
    assert own("custom_diffusion")["class_images"]["prompts"] == ["a photo of an owl"]
    assert read_yaml("params.yaml")["prompts"]["mydog"][0] == "a photo of [name]"
    assert "etude base" in capsys.readouterr().out
    bring(photos, "mydog", "dreambooth", word="rex", kind="dog")
    told = capsys.readouterr()
    assert own("dreambooth")["class_images"]["prompts"] == ["a photo of a dog"]
    assert own("dreambooth")["preview"]["prompts"] == ["a photo of [name]"]
    assert "emoji" not in told.err
    assert "next: etude base, then dvc repro" in told.out
    bring(photos, "mydog", "dreambooth", "custom_diffusion", word="rex", kind="owl")
    preset("miniature")
    assert {path: read_yaml(path) for path in texts()} == before


def test_further_sets_and_the_class_of_what_was_learned_before_go_and_those_of_the_same_set_stay(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path("pipelines/lora/params.yaml")
    for key, value in {"repeats: ": "10", "further_sets: ": "{style: 1}", "  prompts: ": "[an owl]"}.items():
        text, found = re.subn(rf"(?m)^{key}(1|\{{\}}|\[\])", key + value, file.read_text(encoding="utf-8"))
        assert found == 1, key
        file.write_text(text, encoding="utf-8")
    bring(photos, "mydog", "lora", word="rex", kind="dog")
    assert (own("lora")["repeats"], own("lora")["further_sets"]) == (1, {})
    assert own("lora")["class_images"]["prompts"] == ["dog"]
    assert "further_sets: {style: 1} → {}" in capsys.readouterr().out
    replace_in(file, "further_sets: {}", "further_sets: {style: 1}")
    replace_in(file, "prompts: [dog]", "prompts: [a photo of a dog]")
    bring(photos, "mydog", "lora", word="rex", kind="dog")
    assert own("lora")["further_sets"] == {"style": 1}
    assert own("lora")["class_images"]["prompts"] == ["a photo of a dog"]


def test_class_images_of_what_was_learned_before_are_never_learned_for_another_set(photos: Path) -> None:
    file = Path("pipelines/lora/params.yaml")
    replace_in(file, "prior_weight: 0.0", "prior_weight: 1.0")
    replace_in(file, "  count: 0 ", "  count: 8 ")
    replace_in(file, "  prompts: [] ", "  prompts: [an owl] ")
    with pytest.raises(ArgumentError, match="--class: is needed: lora also learns class images"):
        bring(photos, "mydog", "lora", word="rex")
    assert "mydog" not in read_yaml("params.yaml")["sets"]
    bring(photos, "mydog", "lora", word="rex", kind="dog")
    assert own("lora")["class_images"]["prompts"] == ["dog"]
    bring(photos, "mydog", "lora", word="rex")  # the same set is of the same class
    assert own("lora")["class_images"]["prompts"] == ["dog"]
    replace_in(file, "  prompts: [dog]", "  prompts: []")
    replace_in(file, "  count: 8 ", "  count: 0 ")
    replace_in(file, "  real: [] ", "  real: [style] ")
    with pytest.raises(ParamsError, match="`prior_weight` needs pictures of the class"):
        bring(photos, "mycat", "lora", word="mia", kind="cat")  # the pictures of `style` are of another class


def test_masks_that_were_made_in_the_project_stay_with_their_pictures(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bring(photos, "mydog", "lora", word="rex")
    folder = Path("data/raw/mydog")
    masks = [folder / "a-masklabel.png", folder / "holiday/b-masklabel.png"]
    for mask in masks:
        draw(mask, 7)
    bring(photos, "mydog", "lora", word="rex")  # nothing is to be replaced
    assert all(mask.is_file() for mask in masks)
    draw(photos / "holiday/b.jpg", 99)
    with pytest.raises(ConflictError, match="delete 1 and change 1"):
        bring(photos, "mydog", "lora", word="rex")
    capsys.readouterr()
    bring(photos, "mydog", "lora", word="rex", replace=True)
    assert [mask.is_file() for mask in masks] == [True, False]  # that of another picture would be wrong
    assert f"lacks stay in {folder}; delete them there if they are wrong: {masks[0].name}" in capsys.readouterr().out
    draw(photos / "a.jpg", 98)  # it would have the mask of a.png
    bring(photos, "mydog", "lora", word="rex", replace=True)
    assert not masks[0].exists()


def test_prompts_that_people_wrote_stay(photos: Path) -> None:
    bring(photos, "mydog", "lora", word="rex")
    text = Path("params.yaml").read_text(encoding="utf-8").replace("a drawing of [name]", "[name] at sea")
    Path("params.yaml").write_text(text, encoding="utf-8")
    written = read_yaml("params.yaml")["prompts"]["mydog"]
    preset("sd15")
    bring(photos, "mydog", "lora", word="rex")
    assert read_yaml("params.yaml")["prompts"]["mydog"] == written


@pytest.mark.parametrize("method", ["dreambooth", "custom_diffusion", "textual_inversion", "dream_artist"])
def test_a_class_that_a_method_needs_is_asked_for_before_anything_is_written(photos: Path, method: str) -> None:
    before = texts()
    with pytest.raises(ArgumentError, match=f"--class: is needed by {method}.*--class dog"):
        bring(photos, "mydog", "lora", method, word="rex")
    assert texts() == before
    assert not Path("data").exists()


@pytest.mark.parametrize(
    "options", [{"word": "my dog"}, {"word": "[name]"}, {"word": "dog", "kind": "dog"}, {"kind": 'd"og'}]
)
def test_words_that_cannot_be_are_refused_before_anything_is_written(photos: Path, options: dict[str, str]) -> None:
    before = texts()
    with pytest.raises(ArgumentError):
        bring(photos, "mydog", "lora", **options)
    with pytest.raises(ArgumentError, match="--method lora"):
        bring(photos, "mydog", word="rex", kind="dog")
    assert texts() == before
    assert not Path("data").exists()


def test_the_same_pictures_come_in_twice_without_a_change(photos: Path) -> None:
    bring(photos, "mydog", "lora", "custom_diffusion", word="rex", kind="dog")
    before = sha256_tree("data/raw"), texts()
    bring(photos, "mydog", "lora", "custom_diffusion", word="rex", kind="dog")
    bring(Path("data/raw/mydog"))
    assert (sha256_tree("data/raw"), texts()) == before


def test_other_pictures_are_not_overwritten_unless_that_is_asked_for(photos: Path) -> None:
    bring(photos)
    draw(photos / "a.png", 3)
    draw(photos / "c.png", 4)
    (photos / "a.txt").unlink()
    before = sha256_tree("data/raw"), texts()
    with pytest.raises(ConflictError, match="add 1, delete 1 and change 1"):
        bring(photos, "mydog", "lora")
    assert (sha256_tree("data/raw"), texts()) == before
    bring(photos, replace=True)
    assert {path.name for path in Path("data/raw/mydog").iterdir()} == {"a.png", "c.png", "holiday"}
    assert list(read_yaml("params.yaml")["sets"]) == ["concept", "style", "mydog"]


@pytest.mark.parametrize("name", ["My-Dog", "2dogs", "dog/cat", "", "samples", "raw", "concept", "null", "true"])
def test_names_that_cannot_be_or_are_taken_are_refused_before_anything_is_written(photos: Path, name: str) -> None:
    before = texts()
    with pytest.raises((InputError, ConflictError)):
        bring(photos, name)
    assert not Path("data").exists()
    assert texts() == before


def test_an_unknown_method_is_named_with_the_nearest(photos: Path) -> None:
    with pytest.raises(ArgumentError, match="did you mean `lora`"):
        bring(photos, "mydog", "lorra")
    assert not Path("data").exists()


def test_folders_without_pictures_or_around_the_project_are_refused(photos: Path) -> None:
    with pytest.raises(InputError, match="holds no pictures"):
        bring(photos / ".." / "project" / "pipelines")
    with pytest.raises(InputError, match="does not exist"):
        bring(photos / "gone")
    with pytest.raises(InputError, match="contains data/raw/mydog, where"):
        bring(photos / "..")


def test_when_dvc_fails_its_reason_is_told_and_params_stay(photos: Path) -> None:
    before = texts()
    Path(".dvc/config").write_text("not a config", encoding="utf-8")
    with pytest.raises(InputError, match=r"data/raw/mydog: is here, but `dvc add` failed \((?!Having)"):
        bring(photos, "mydog", "lora")
    assert texts() == before


def test_a_folder_of_a_phone_says_what_reads_its_pictures_and_what_else_is_not_copied_is_named(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds, "plugins", lambda: ())
    folder = tmp_path / "phone"
    folder.mkdir()
    (folder / "IMG_0001.HEIC").write_bytes(b"\0\0\0\x24ftypheic\0\0\0\0mif1heic")
    with pytest.raises(InputError, match="phone: holds no pictures: IMG_0001.HEIC .*`make setup EXTRAS=heic`"):
        bring(folder)
    (folder / "IMG_0002.DNG").write_bytes(b"II*\0\x08\0\0\0")
    (folder / "gone.png").symlink_to("nothing")
    (folder / "more").symlink_to(photos)
    with pytest.raises(InputError):
        bring(folder)
    (warned,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: 4 files are not")]
    assert "IMG_0002.DNG (is a camera's raw file (DNG): convert it" in warned
    assert not Path("data").exists()


def test_params_of_an_unusual_form_are_left_as_they_are(photos: Path) -> None:
    text = Path("params.yaml").read_text(encoding="utf-8")
    start, end = text.index("\nsets:"), text.index("\nbase:")
    sets = "{concept: data/samples/concept, style: data/samples/style}"
    Path("params.yaml").write_text(f"{text[:start]}\nsets: {sets}\n{text[end:]}", encoding="utf-8")
    before = texts()
    with pytest.raises(ParamsError, match="add `mydog: data/raw/mydog` and its prompts by hand"):
        bring(photos)
    assert texts() == before
    assert not Path("data").exists()


def test_make_takes_what_is_typed_as_it_is(photos: Path) -> None:
    hostile = photos.rename(photos.with_name("Tom & Jerry's `touch pwned` $(touch pwned) $HOME"))
    shutil.copy(Path(__file__).parents[2] / "Makefile", "Makefile")
    typed = [f"FROM={hostile}", "SET=mydog", "NAME=rex", "CLASS=old dog", "METHOD=lora dreambooth"]
    done = make("images", *typed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert own("dreambooth")["name"] == "rex old dog"
    assert read_yaml("params.yaml")["methods"] == ["lora", "dreambooth"]
    assert make("images", *typed[:-1], "METHOD=lora;touch${IFS}pwned").returncode
    assert not list(Path().glob("**/pwned"))
    shutil.rmtree(".git")
    for target in ("demo", "preset", "base", "images"):
        copied = subprocess.run(["make", target, *typed], capture_output=True, text=True, check=False)
        assert copied.returncode == 2
        assert "git init && git add -A && git commit" in copied.stdout


def test_the_next_line_can_be_typed_as_it_is_printed(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = photos.rename(photos.with_name("Tom & Jerry's `touch pwned` $(touch pwned) $HOME"))
    bring(hostile)
    line = next(text for text in capsys.readouterr().out.splitlines() if text.startswith("next: etude images"))
    typed = line.removeprefix("next: ").rpartition(" (")[0]
    shown = subprocess.run(["bash", "-c", f"printf '%s\\n' {typed}"], capture_output=True, text=True, check=True).stdout
    assert str(hostile) in shown.splitlines()
    assert not Path("pwned").exists()


def test_make_takes_no_name_from_the_environment(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(Path(__file__).parents[2] / "Makefile", "Makefile")
    monkeypatch.setenv("NAME", "DESKTOP-1")  # as WSL sets it
    assert "usage: make preset" in make("preset").stdout
    done = make("images", f"FROM={photos}", "SET=mydog")
    assert done.returncode == 0, done.stdout + done.stderr


def make(*words: str) -> subprocess.CompletedProcess[str]:
    if not Path(".venv").exists():
        Path(".venv").symlink_to(sys.prefix)
    command = ["make", "--old-file=.venv/bin/.installed", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


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


def test_captions_of_every_kind_are_copied_and_every_other_file_is_named(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in ("log.jsonl", "a.png.txt", "holiday/b.TXT", "1.json", "2.json"):
        (photos / file).write_text("x", encoding="utf-8")
    draw(photos / "10_sks dog" / "c.png", 3)
    draw(photos / "d.png", 4)
    draw(photos / "masks" / "c.png", 5)
    (photos / "metadata.csv").write_text("file_name,text\nd.png,a dog\n", encoding="utf-8")
    bring(photos)
    found = {path.relative_to("data/raw/mydog").as_posix() for path in Path("data/raw/mydog").rglob("*.*")}
    captions = {"a.txt", "holiday/b.TXT", "metadata.csv"}
    assert found == {"a.png", "holiday/b.jpg", "10_sks dog/c.png", "masks/c.png", "d.png", *captions}
    told = capsys.readouterr()
    assert "4 pictures, 1 masks and 3 files with captions are in" in told.out
    assert "they are not used: 2 .json (1.json); 1 .caption (holiday/b.caption); 1 .jsonl (log.jsonl); " in told.err
    assert "1 .png.txt (a.png.txt)" in told.err
    assert "pictures count as often as the names of their folders say: 10_sks dog" in told.out


def test_class_images_of_kohya_are_no_part_of_the_set(photos: Path) -> None:
    draw(photos / "img/10_sks dog/a.png", 1)
    bring(photos)
    draw(photos / "reg/1_dog/b.png", 2)
    with pytest.raises(
        InputError, match=r"holds kohya's folders `img` .* and `reg`.*Next: .*img, and --from .*reg --set"
    ):
        bring(photos, replace=True)
