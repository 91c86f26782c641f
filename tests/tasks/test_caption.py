import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest

from etude.captions.settings import CAPTIONERS, Caption, Captioner
from etude.core.errors import BaseError
from etude.core.files import read_json
from tasks.caption import caption
from tasks.prepare import prepare
from tests.tasks.front import captions, draw, make_project, set_param


@pytest.fixture
def raw(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(make_project(tmp_path, tiny_base))
    return Path("raw")


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
    set_param("words: words.txt", "words: gone.txt")
    assert front() == {"a.png": ("a cat", "file")}
    draw(raw / "0.png", 2)
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text.replace("words: gone.txt", "words: words.txt").replace("/clip", "/unet"))
    with pytest.raises(BaseError, match=r"unet: is no CLIP folder .*caption.captioner: none"):
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


def test_prefix_and_suffix_stand_around_every_caption_and_alone_where_there_is_none(raw: Path) -> None:
    draw(raw / "red fox.png", 1)
    draw(raw / "0001.png", 2)
    set_param("captioner: clip", "captioner: none")
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
        (raw / f"{number}.caption").write_text("a cat", encoding="utf-8")
    (raw / "0.txt").write_text("a cat", encoding="utf-8")
    (raw / "lost.txt").write_text("a cat", encoding="utf-8")
    set_param("captioner: clip", "captioner: none")
    front()
    told = capsys.readouterr()
    assert "pets: 3 captions: 1 from .txt files, 2 without a text" in told.out
    assert "pets: files that are not used: 3 .caption (0.caption); 1 .txt (lost.txt). Captions are read" in told.err
    assert "2 captions are empty" in told.err


def test_clip_names_what_its_weights_see(raw: Path) -> None:
    """With random weights no word is right, but the choice is CLIP's own: the nearest of the list."""
    import torch
    from PIL import Image
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    for number in range(6):
        draw(raw / f"{number}.png", number)
    found = front()
    folder = Path("params.yaml").read_text(encoding="utf-8").split("model: ")[-1].split("\n")[0]
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


def test_a_captioner_is_a_record_and_nothing_else_has_to_know_it(
    raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def describe(pictures: Iterable[Path], settings: Caption, device: str) -> list[str]:
        return [f"{settings.top} {path.suffix} on {device}" for path in pictures]

    monkeypatch.setitem(sys.modules, "echo_captioner", SimpleNamespace(describe_pictures=describe))
    monkeypatch.setitem(CAPTIONERS, "echo", Captioner("echo", "Echo", "echo_captioner"))
    draw(raw / "0001.png", 1)
    set_param("captioner: clip", "captioner: echo")
    assert front() == {"0001.png": ("1 .png on cpu", "echo")}
    assert "pets: 1 captions: 1 from Echo" in capsys.readouterr().out


def test_names_that_do_not_describe_are_counted_and_one_is_shown(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_param("captioner: clip", "captioner: none")
    set_param("flip: false", "flip: true")
    for number, file in enumerate(["a red fox.png", "IMG-20240131-WA0001.jpg", "ComfyUI_00012_.png"]):
        draw(raw / file, number)
    assert front()["ComfyUI_00012_.png"] == ("", "none")
    assert "pets: 2 names do not describe a picture, such as " in capsys.readouterr().out
    set_param("file_names: true", "file_names: false")
    caption("pets")
    assert "describe" not in capsys.readouterr().out


def test_every_file_that_no_stage_used_is_named_in_one_line(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_param("captioner: clip", "captioner: none")
    for number in range(1, 5):
        draw(raw / f"IMG_{number}.png", number)
        draw(raw / f"IMG_{number}_att.png", 10 + number)
    draw(raw / "copy of 1.png", 1)
    draw(raw / "10_sks dog" / "IMG_9.png", 9)
    (raw / "broken.png").write_bytes(b"no picture")
    used = {"IMG_1.TXT": "upper case", "IMG_2.Txt": "mixed case", "copy of 1.caption": "not read"}
    others = ["IMG_3.png.txt", "IMG_4.json", "IMG_4.tags", "metadata.jsonl", "metadata.csv", "meta_cap.json"]
    others += ["lonely.txt", "captions.txt", "README.md", ".hidden.txt"]
    for file, text in {**used, **dict.fromkeys(others, "x")}.items():
        (raw / file).write_text(text, encoding="utf-8")
    found = front()
    assert found["IMG_1.png"] == ("upper case", "file")
    assert found["IMG_2.png"] == ("mixed case", "file")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "not used" in line]
    assert line == (
        "warning: pets: files that are not used: 2 .json (IMG_4.json); 2 .txt (captions.txt); "
        "1 .caption (copy of 1.caption); 1 .csv (metadata.csv); 1 .jsonl (metadata.jsonl); "
        "1 .png.txt (IMG_3.png.txt); 1 .tags (IMG_4.tags). Captions are read from .txt beside a picture alone"
    )


def test_repeats_and_prompts_in_names_of_folders_are_not_read_and_that_is_said(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(raw / "10_sks dog" / "IMG_1.png", 1)
    front()
    warned = capsys.readouterr().err
    assert "pets: repeats and prompts in folders' names are not read: 10_sks dog" in warned
    assert "not used" not in warned


def test_texts_that_are_not_utf8_stop_nothing_and_all_are_named_at_once(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(["red fox", "blue cat", "green dog"]):
        draw(raw / f"{name}.png", number)
    (raw / "red fox.txt").write_bytes("a füx".encode("latin-1"))
    (raw / "blue cat.txt").write_bytes(b"\xff\xfe\0")
    (raw / "green dog.txt").write_text("a dog", encoding="utf-8")
    assert front() == {
        "red fox.png": ("red fox", "name"),
        "blue cat.png": ("blue cat", "name"),
        "green dog.png": ("a dog", "file"),
    }
    warnings = [line for line in capsys.readouterr().err.splitlines() if "are left out" in line]
    assert len(warnings) == 1
    assert "raw: 2 texts are left out: " in warnings[0]
    assert "red fox.txt (is not text in UTF-8 (byte 3))" in warnings[0]
    assert "blue cat.txt (" in warnings[0]
    assert warnings[0].endswith("Next: save them as UTF-8")


@pytest.mark.skipif(sys.platform == "win32", reason="there, a path holds 260 characters")
def test_a_name_as_long_as_the_file_system_takes_is_captioned(raw: Path) -> None:
    draw(raw / f"{'fox ' * 62}abc.png", 1)
    draw(raw / f"{'dog ' * 61}abc.png", 2)
    (raw / f"{'dog ' * 61}abc.txt").write_text("a dog", encoding="utf-8")
    assert sorted(text for text, _ in front().values()) == ["a dog", f"{'fox ' * 62}abc"]
