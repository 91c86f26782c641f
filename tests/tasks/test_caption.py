import json
import re
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from etude.captions.settings import CAPTIONERS, Captioner, Words
from etude.core.errors import BaseError
from etude.core.files import read_json
from etude.core.params import read_yaml
from etude.core.store import save
from tasks import caption as stage
from tasks.caption import caption
from tasks.prepare import prepare
from tests.etude.captions.wd14_model import build_wd14
from tests.tasks.front import captions, draw, make_project, set_param


@pytest.fixture
def raw(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(make_project(tmp_path, tiny_base))
    return Path("raw")


def use_echo(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A captioner that says which file it saw; the names of all that it saw."""
    seen: list[str] = []

    def describe(pictures: Iterable[Path], model: Path, settings: Words, device: str) -> Iterator[str]:
        assert (device, model) == ("cpu", Path("words.txt"))
        for path in pictures:
            seen.append(path.stem)
            yield f"{settings.top} {path.suffix}"

    echo = SimpleNamespace(describe_pictures=describe, refuse_missing=lambda model: None)
    monkeypatch.setitem(sys.modules, "echo_captioner", echo)
    monkeypatch.setitem(CAPTIONERS, "echo", Captioner("echo", "Echo", "words", "echo_captioner"))
    return seen


def describe_with(captioners: dict[str, str]) -> None:
    text = Path("params.yaml").read_text(encoding="utf-8")
    chosen = re.sub(r"captioners:\n    clip: .*", f"captioners: {json.dumps(captioners)}", text)
    Path("params.yaml").write_text(chosen, encoding="utf-8")


def front() -> dict[str, tuple[str, str]]:
    prepare("pets")
    caption("pets")
    return captions()


def test_a_text_beside_a_picture_comes_before_its_name_and_its_name_before_clip(raw: Path) -> None:
    draw(raw / "red fox.png", 1)
    draw(raw / "blue cat.png", 2)
    draw(raw / "IMG_0001.png", 3)
    (raw / "red fox.txt").write_text("a fox in the snow", encoding="utf-8")
    found = front()
    assert found["red fox.png"] == ("a fox in the snow", "file")
    assert found["blue cat.png"] == ("blue cat", "name")
    text, origin = found["IMG_0001.png"]
    assert origin == "clip"
    assert text in {"cat", "dog", "fox"}
    for identifier, entry in read_json("data/pets/captioned/captions.json").items():
        assert Path(f"data/pets/captioned/{identifier}.txt").read_text(encoding="utf-8") == entry["text"] + "\n"
    set_param("file_names: true", "file_names: false")
    caption("pets")
    assert {name: origin for name, (_, origin) in captions().items()} == {
        "red fox.png": "file",
        "blue cat.png": "clip",
        "IMG_0001.png": "clip",
    }


def test_clip_is_not_opened_when_every_picture_has_a_caption(raw: Path) -> None:
    draw(raw / "a.png", 1)
    (raw / "a.txt").write_text("a cat", encoding="utf-8")
    set_param("file: words.txt", "file: gone.txt")
    assert front() == {"a.png": ("a cat", "file")}
    draw(raw / "0.png", 2)
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text.replace("file: gone.txt", "file: words.txt").replace("/clip", "/unet"))
    with pytest.raises(BaseError, match=r"unet: is no CLIP folder .*caption.captioners"):
        front()


def test_of_equal_pictures_the_first_text_by_name_wins_over_every_name(raw: Path) -> None:
    draw(raw / "a big dog.png", 1)
    draw(raw / "b.png", 1)
    draw(raw / "c.png", 1)
    (raw / "b.txt").write_text("from b", encoding="utf-8")
    (raw / "c.txt").write_text("from c", encoding="utf-8")
    assert front() == {"a big dog.png": ("from b", "file")}


def test_the_same_stem_with_two_suffixes_is_two_pictures_that_share_a_text(raw: Path) -> None:
    draw(raw / "a.png", 1)
    draw(raw / "a.jpg", 2)
    (raw / "a.txt").write_text("a cat", encoding="utf-8")
    assert front() == {"a.jpg": ("a cat", "file"), "a.png": ("a cat", "file")}


def test_a_mirrored_copy_has_its_pictures_caption_with_left_and_right_exchanged(raw: Path) -> None:
    set_param("flip: false", "flip: true")
    draw(raw / "a.png", 1)
    (raw / "a.txt").write_text("a cat left of a dog", encoding="utf-8")
    prepare("pets")
    caption("pets")
    entries = read_json("data/pets/captioned/captions.json")
    (flipped,) = [identifier for identifier in entries if identifier.endswith("-flip")]
    assert entries[flipped]["text"] == "a cat right of a dog"
    assert entries[flipped.removesuffix("-flip")]["text"] == "a cat left of a dog"


def test_copies_have_the_caption_of_their_picture_and_no_captioner_sees_them(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_param("copies: {count: 0", "copies: {count: 2")
    set_param("flip: false", "flip: true")
    draw(raw / "a.png", 1)
    (raw / "a.txt").write_text("a cat left of a dog", encoding="utf-8")
    draw(raw / "0001.png", 2)
    prepare("pets")
    caption("pets")
    entries = read_json("data/pets/captioned/captions.json")
    assert len(entries) == 2 * 3 * 2
    texts = {key: entry["text"] for key, entry in entries.items() if entry["from"] == "file"}
    assert {key.partition("-")[2]: text for key, text in texts.items()} == {
        **dict.fromkeys(("", "copy1", "copy2"), "a cat left of a dog"),
        **dict.fromkeys(("flip", "copy1-flip", "copy2-flip"), "a cat right of a dog"),
    }
    assert "1 names do not describe a picture" in capsys.readouterr().out


def test_prefix_and_suffix_stand_around_every_caption_and_alone_where_there_is_none(raw: Path) -> None:
    draw(raw / "red fox.png", 1)
    draw(raw / "0001.png", 2)
    describe_with({})
    set_param('prefix: ""', 'prefix: "noto style,"')
    set_param('suffix: ""', 'suffix: "on white"')
    assert front() == {
        "0001.png": ("noto style, on white", "none"),
        "red fox.png": ("noto style, red fox on white", "name"),
    }


def test_captions_that_would_be_overlooked_are_counted_in_a_warning(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        draw(raw / f"{number}.png", number)
    for number in range(2):
        (raw / f"{number}.caption").write_text("a cat", encoding="utf-8")
    (raw / "0.txt").write_text("a cat", encoding="utf-8")
    (raw / "lost.txt").write_text("a cat", encoding="utf-8")
    describe_with({})
    front()
    told = capsys.readouterr()
    assert "pets: 3 captions: 2 from text files, 1 from nowhere" in told.out
    assert "pets: files that are not used: 1 .caption (0.caption); 1 .txt (lost.txt)\n" in told.err
    assert "1 captions are empty" in told.err


def test_clip_names_what_its_weights_see(raw: Path) -> None:
    """With random weights no word is right, but the choice is CLIP's own: the nearest of the list."""
    import torch
    from PIL import Image
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    for number in range(6):
        draw(raw / f"{number}.png", number)
    found = front()
    folder = read_yaml("params.yaml")["caption"]["captioners"]["clip"]
    model = CLIPModel.from_pretrained(folder).eval()
    words = ["cat", "dog", "fox"]
    inputs = CLIPTokenizer.from_pretrained(folder)(words, padding=True, return_tensors="pt")
    images = read_json("data/pets/prepared/images.json")["images"]
    for identifier, facts in images.items():
        with Image.open(f"data/pets/prepared/{identifier}.png") as image:
            pixels = CLIPImageProcessorPil.from_pretrained(folder)(image, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            scores = model(**inputs, pixel_values=pixels).logits_per_image[0]
        assert found[facts["sources"][0]][0] == words[int(scores.argmax())]


def test_a_picture_is_described_once_until_something_changes_that_its_text_depends_on(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = use_echo(monkeypatch)
    describe_with({"echo": "words.txt"})
    for number in range(3):
        draw(raw / f"IMG_{number}.png", number)
    front()
    assert len(seen) == 3
    draw(raw / "IMG_3.png", 3)
    assert front()["IMG_3.png"] == ("1 .png", "echo")
    assert len(seen) == len(set(seen)) == 4
    entry = next(Path(".cache/captions").rglob("*.entry"))
    entry.write_bytes(entry.read_bytes()[:-1])  # damaged
    front()
    assert len(seen) == 5
    for change in (partial(set_param, "top: 1", "top: 2"), partial(Path("words.txt").write_text, "another list")):
        change()
        before = len(seen)
        front()
        assert len(seen) == before + 4


def test_texts_of_a_run_that_was_stopped_are_kept(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = use_echo(monkeypatch)
    describe_with({"echo": "words.txt"})
    draw(raw / "IMG_1.png", 1)
    draw(raw / "IMG_2.png", 2)
    prepare("pets")

    def stop(place: Path, text: str) -> None:
        save(place, text)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage, "save", stop)
        caption("pets")
    caption("pets")
    assert len(seen) == len(set(seen)) == 2


def test_a_captioner_is_a_record_and_nothing_else_has_to_know_it(
    raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_echo(monkeypatch)
    draw(raw / "0001.png", 1)
    describe_with({"echo": "words.txt"})
    assert front() == {"0001.png": ("1 .png", "echo")}
    assert "pets: 1 captions: 1 from Echo" in capsys.readouterr().out


def test_several_captioners_describe_a_picture_one_after_the_other(
    raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_base: Path
) -> None:
    use_echo(monkeypatch)
    draw(raw / "0001.png", 1)
    describe_with({"echo": "words.txt", "clip": str(tiny_base / "clip")})
    ((text, origin),) = front().values()
    echo, word = text.split(", ")
    assert (echo, origin) == ("1 .png", "echo + clip")
    assert word in {"cat", "dog", "fox"}
    assert "pets: 1 captions: 1 from Echo and CLIP" in capsys.readouterr().out


def test_a_tagger_describes_pictures_with_its_own_block_of_settings(raw: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `tagger` is not installed")
    build_wd14(Path("wd14"))
    draw(raw / "0001.png", 1)
    describe_with({"wd14": "wd14"})
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(
        text.replace('"general": 0.35', '"general": 0.0').replace('"limit": 0', '"limit": 5')
    )
    ((text, origin),) = front().values()
    assert origin == "wd14"
    assert len(text.split(", ")) == 5


def test_names_that_do_not_describe_are_counted_and_one_is_shown(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    describe_with({})
    set_param("flip: false", "flip: true")
    for number, file in enumerate(["a red fox.png", "IMG-20240131-WA0001.jpg", "ComfyUI_00012_.png"]):
        draw(raw / file, number)
    assert front()["ComfyUI_00012_.png"] == ("", "none")
    assert "pets: 2 names do not describe a picture, such as " in capsys.readouterr().out
    set_param("file_names: true", "file_names: false")
    caption("pets")
    assert "describe" not in capsys.readouterr().out


def test_every_file_that_no_stage_used_is_named_in_one_line(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    describe_with({})
    for number in range(1, 5):
        draw(raw / f"IMG_{number}.png", number)
        draw(raw / f"IMG_{number}_att.png", 10 + number)
        draw(raw / f"IMG_{number}-masklabel.png", 20 + number)
    draw(raw / "copy of 1.png", 1)
    draw(raw / "10_sks dog" / "IMG_9.png", 9)
    draw(raw / "masks" / "IMG_9.png", 30)
    (raw / "broken.png").write_bytes(b"no picture")
    used = {"IMG_1.TXT": "upper case", "IMG_2.Txt": "mixed case"}
    others = ["IMG_1.caption", "notes.json", "IMG_2.tags", "log.jsonl", "loss.csv", "config.json"]
    others += ["lonely.txt", "captions.txt", "README.md", ".hidden.txt"]
    for file, text in {**used, **dict.fromkeys(others, "x")}.items():
        (raw / file).write_text(text, encoding="utf-8")
    found = front()
    assert found["IMG_1.png"] == ("upper case", "file")
    assert found["IMG_2.png"] == ("mixed case", "file")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "not used" in line]
    assert line == (
        "warning: pets: files that are not used: 4 .png (IMG_1-masklabel.png); 2 .json (config.json); "
        "2 .txt (captions.txt); 1 .caption (IMG_1.caption); 1 .csv (loss.csv); 1 .jsonl (log.jsonl); "
        "1 .tags (IMG_2.tags)"
    )


def test_prompts_in_names_of_folders_are_captions(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(raw / "10_sks dog" / "IMG_1.png", 1)
    assert front() == {"10_sks dog/IMG_1.png": ("sks dog", "folder")}
    assert "not used" not in capsys.readouterr().err


def test_texts_in_another_encoding_stop_nothing_and_all_are_named_at_once(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(["red fox", "blue cat", "green dog", "mouse"]):
        draw(raw / f"{name}.png", number)
    (raw / "red fox.txt").write_bytes("рыжая лиса".encode("cp1251"))
    (raw / "blue cat.txt").write_bytes(b"\xff\xfe\0")
    (raw / "green dog.txt").write_text("a dog", encoding="utf-8")
    (raw / "mouse.txt").write_bytes("a grey müs".encode("cp1252"))
    assert front() == {
        "red fox.png": ("red fox", "name"),
        "blue cat.png": ("blue cat", "name"),
        "green dog.png": ("a dog", "file"),
        "mouse.png": ("a grey müs", "file"),
    }
    faults, doubts = (line for line in capsys.readouterr().err.splitlines() if "with captions are" in line)
    assert "raw: 1 files with captions are used, but may be read wrongly: mouse.txt (is read as Windows-1252" in doubts
    assert "raw: 2 files with captions are left out: " in faults
    assert "red fox.txt (is not text in UTF-8 (byte 0))" in faults
    assert "blue cat.txt (" in faults
    assert faults.endswith("Next: correct these files; save texts as UTF-8")


@pytest.mark.parametrize(
    ("existing", "with_text", "without"),
    [
        ("replace", ("a red fox", "file"), ("1 .png", "echo")),
        ("prepend", ("a red fox, 1 .png", "file + echo"), ("1 .png", "echo")),
        ("append", ("1 .png, a red fox", "echo + file"), ("1 .png", "echo")),
        ("ignore", ("1 .png", "echo"), ("1 .png", "echo")),
    ],
)
def test_captions_that_exist_replace_the_captioners_or_stand_beside_them(
    raw: Path, monkeypatch: pytest.MonkeyPatch, existing: str, with_text: tuple[str, str], without: tuple[str, str]
) -> None:
    use_echo(monkeypatch)
    describe_with({"echo": "words.txt"})
    set_param("existing: replace", f"existing: {existing}")
    draw(raw / "0001.png", 1)
    (raw / "0001.txt").write_text("a red fox", encoding="utf-8")
    draw(raw / "0002.png", 2)
    assert front() == {"0001.png": with_text, "0002.png": without}


def test_a_kohya_users_folder_gives_the_captions_that_kohyas_scripts_would_read(raw: Path) -> None:
    describe_with({})
    for number, name in enumerate(["10_sks dog/red fox.png", "10_sks dog/b.jpg", "5_cat/c.webp"]):
        draw(raw / name, number)
    (raw / "10_sks dog/b.caption").write_text("sks dog on grass", encoding="utf-8")
    (raw / "5_cat/meta_lat.json").write_text('{"c": {"caption": "a cat", "tags": "cat, bed"}}', encoding="utf-8")
    assert front() == {
        "10_sks dog/red fox.png": ("sks dog", "folder"),
        "10_sks dog/b.jpg": ("sks dog on grass", "file"),
        "5_cat/c.webp": ("a cat, cat, bed", "listing"),
    }


def test_where_a_caption_was_found_is_recorded_for_each_picture(raw: Path) -> None:
    describe_with({})
    draw(raw / "red fox.png", 1)
    draw(raw / "b.png", 2)
    draw(raw / "0001.png", 3)
    (raw / "b.txt").write_text("a cat", encoding="utf-8")
    front()
    entries = read_json("data/pets/captioned/captions.json").values()
    assert {entry["text"]: entry.get("file") for entry in entries} == {
        "red fox": "red fox.png", "a cat": "b.txt", "": None
    }  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="there, a path holds 260 characters")
def test_a_name_as_long_as_the_file_system_takes_is_captioned(raw: Path) -> None:
    draw(raw / f"{'fox ' * 62}abc.png", 1)
    draw(raw / f"{'dog ' * 61}abc.png", 2)
    (raw / f"{'dog ' * 61}abc.txt").write_text("a dog", encoding="utf-8")
    assert sorted(text for text, _ in front().values()) == ["a dog", f"{'fox ' * 62}abc"]


@pytest.mark.parametrize(
    ("asked", "there", "used"), [("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu")]
)
def test_captioners_run_on_the_gpu_where_there_is_one_unless_params_say_otherwise(
    raw: Path, asked: str, there: bool, used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def describe(pictures: Iterable[Path], model: Path, settings: Words, device: str) -> Iterator[str]:
        yield from (f"on {device}" for _ in pictures)

    echo = SimpleNamespace(describe_pictures=describe, refuse_missing=lambda model: None)
    monkeypatch.setitem(sys.modules, "echo_captioner", echo)
    monkeypatch.setitem(CAPTIONERS, "echo", Captioner("echo", "Echo", "words", "echo_captioner"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: there)
    describe_with({"echo": "words.txt"})
    set_param("device: cpu", f"device: {asked}")
    draw(raw / "0001.png", 1)
    assert front() == {"0001.png": (f"on {used}", "echo")}


def test_a_captioner_that_leaves_a_picture_without_an_answer_stops_the_stage(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_echo(monkeypatch)
    echo = sys.modules["echo_captioner"].describe_pictures
    monkeypatch.setattr("echo_captioner.describe_pictures", lambda pictures, *rest: list(echo(pictures, *rest))[:-1])
    describe_with({"echo": "words.txt"})
    draw(raw / "1.png", 1)
    draw(raw / "2.png", 2)
    with pytest.raises(ValueError, match="is shorter than"):
        front()
    assert not Path("data/pets/captioned").exists()
