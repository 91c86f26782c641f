"""The preview of captions: the real stages caption a folder, params.yaml changes, and the command says what would."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest

from commands.caption_preview import compare
from commands.captions import captions
from etude.captions.settings import CAPTIONERS, Captioner, Words
from etude.core.errors import InputError
from tasks.caption import caption
from tasks.prepare import prepare
from tests.tasks.front import captions as present
from tests.tasks.front import draw, make_project, set_param

PAGE = Path("logs/captions/pets/index.html")


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(make_project(tmp_path, Path("nowhere")))
    return Path("raw")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The pictures that a captioner was asked about; it says its setting."""
    asked: list[str] = []

    def describe(pictures: Iterable[Path], model: Path, settings: Words, device: str) -> list[str]:
        names = [path.stem for path in pictures]
        asked.extend(names)
        return [f"seen {settings.top}"] * len(names)

    echo = SimpleNamespace(describe_pictures=describe, refuse_missing=lambda _: None)
    monkeypatch.setitem(sys.modules, "echo_captioner", echo)
    monkeypatch.setitem(CAPTIONERS, "echo", Captioner("echo", "Echo", "words", "echo_captioner"))
    set_param("clip: nowhere/clip", "echo: words.txt")
    return asked


def make() -> None:
    prepare("pets")
    caption("pets")


def make_and_change(asked: list[str], old: str, new: str) -> None:
    """Caption the set, and then change a setting; what was asked so far is forgotten."""
    make()
    asked.clear()
    set_param(old, new)


def said(capsys: pytest.CaptureFixture[str], ask: int = 0) -> str:
    capsys.readouterr()
    captions("pets", ask)
    return capsys.readouterr().out


def test_a_prefix_is_shown_before_every_caption_and_no_captioner_runs(
    raw: Path, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    draw(raw / "IMG_0001.png", 1)
    draw(raw / "red fox.png", 2)
    make_and_change(asked, 'prefix: ""', "prefix: a photo of")
    text = said(capsys)
    assert "pets: 2 captions: 2 would change, 0 would stay" in text
    assert "IMG_0001.png: “seen 1” → “a photo of seen 1”" in text
    assert "red fox.png: “red fox” → “a photo of red fox”" in text
    assert asked == []
    assert re.search(r"<ins>a photo of </ins>seen 1<br>", PAGE.read_text(encoding="utf-8"))
    make()
    assert present()["IMG_0001.png"] == ("a photo of seen 1", "echo")  # as the preview said


@pytest.mark.parametrize("order", ["prepend", "append"])
def test_what_a_captioner_said_beside_a_caption_that_exists_is_known_too(
    raw: Path, asked: list[str], capsys: pytest.CaptureFixture[str], order: str
) -> None:
    set_param("existing: replace", f"existing: {order}")
    set_param('suffix: ""', "suffix: at dawn")
    draw(raw / "red fox.png", 1)
    make_and_change(asked, "suffix: at dawn", 'suffix: ""')
    set_param(f"existing: {order}", "existing: ignore")
    assert f"“{present()['red fox.png'][0]}” → “seen 1”" in said(capsys)
    assert asked == []


def test_other_settings_of_a_captioner_are_unknown_until_it_is_asked_about_some(
    raw: Path, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        draw(raw / f"IMG_000{number}.png", number)
    draw(raw / "red fox.png", 9)
    make_and_change(asked, "top: 1", "top: 2")
    text = said(capsys)
    assert "0 would change, 1 would stay" in text
    assert "4 more are known only when captioners run" in text
    assert not PAGE.exists()
    text = said(capsys, ask=2)
    assert "2 would change, 1 would stay" in text
    assert "“seen 1” → “seen 2”" in text
    assert "2 more are known only" in text
    assert len(asked) == 2
    assert "4 would change, 1 would stay" in said(capsys, ask=50)


def test_what_a_captioner_said_when_it_was_asked_is_not_asked_again(
    raw: Path, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    draw(raw / "IMG_0001.png", 1)
    make()
    set_param("top: 1", "top: 2")
    said(capsys, ask=8)
    asked.clear()
    assert "1 captions: 1 would change" in said(capsys)
    make()
    assert asked == []
    shutil.rmtree(".cache")
    assert "1 more are known only when captioners run" in said(capsys)


def test_a_caption_that_people_changed_is_shown_and_nothing_is_written(
    raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_param("captioners:\n    clip: nowhere/clip", "captioners: {}")
    draw(raw / "red fox.png", 1)
    draw(raw / "IMG_0001.png", 2)
    make()
    assert "2 captions: 0 would change, 2 would stay" in said(capsys)
    (raw / "red fox.txt").write_text("a <b>fox</b>", encoding="utf-8")
    assert "red fox.png: “red fox” → “a <b>fox</b>”" in said(capsys)
    assert "<b>fox" not in PAGE.read_text(encoding="utf-8")
    assert present()["red fox.png"] == ("red fox", "name")


def test_a_set_that_was_not_captioned_is_an_error_that_says_what_to_run(raw: Path) -> None:
    with pytest.raises(InputError, match=r"captions.json: is missing. Next: run `dvc repro`"):
        captions("pets")


def test_two_captions_are_compared_by_tags_or_words() -> None:
    parts = list(compare("1girl, red hair, smile", "1girl, smile, hat"))
    assert "".join(text for kind, text in parts if kind != "new") == "1girl, red hair, smile"
    assert "".join(text for kind, text in parts if kind != "gone") == "1girl, smile, hat"
    assert ("same", "1girl, ") in parts
    assert ("new", "red hat") in list(compare("1girl, hat", "1girl, red hat"))
    assert list(compare("a fox", "a red fox")) == [("same", "a "), ("new", "red "), ("same", "fox")]
