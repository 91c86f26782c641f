from pathlib import Path

import pytest

from etude.core.beside import captions_of, find_captions, read_beside
from etude.core.errors import InputError


def test_the_first_of_equal_pictures_that_has_a_text_gives_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("second\n", encoding="utf-8")
    (tmp_path / "sub" / "c.txt").write_text("third\n", encoding="utf-8")
    captions = {"b": "b.txt", "sub/c": "sub/c.txt"}
    assert read_beside(tmp_path, ["a.png", "b.png", "sub/c.png"], captions) == "second"
    assert read_beside(tmp_path, ["sub/c.png", "b.png"], captions) == "third"
    assert read_beside(tmp_path, ["a.png"], captions) is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_text_is_read_in_every_unicode_form_with_single_spaces(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_text("  ein Füchschen,\r\n\r\n  im   Schnee ❄\n", encoding=encoding)
    assert read_beside(tmp_path, ["a.jpg"], {"a": "a.txt"}) == "ein Füchschen, im Schnee ❄"


def test_an_empty_text_is_an_empty_caption_and_not_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    assert read_beside(tmp_path, ["a.png"], {"a": "a.txt"}) == ""


def test_another_encoding_is_refused_and_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Füchschen", encoding="latin-1")
    with pytest.raises(InputError, match="a.txt: is not text in UTF-8"):
        read_beside(tmp_path, ["a.png"], {"a": "a.txt"})


def test_a_text_is_beside_its_picture_in_any_form_of_unicode() -> None:
    found = find_captions(["caf\N{LATIN SMALL LETTER E WITH ACUTE}.txt"])
    assert captions_of(["cafe\N{COMBINING ACUTE ACCENT}.jpg"], found) == ["caf\N{LATIN SMALL LETTER E WITH ACUTE}.txt"]


def test_a_suffix_in_other_case_is_a_suffix_and_small_letters_come_first() -> None:
    files = ["a.TXT", "b.Txt", "c.TXT", "c.txt", "d.png.txt", "sub/a.txt", "e.caption"]
    found = find_captions(files)
    assert found == {"a": "a.TXT", "b": "b.Txt", "c": "c.txt", "d.png": "d.png.txt", "sub/a": "sub/a.txt"}
    assert captions_of(["a.png", "c.jpg", "c.png", "d.png", "sub/a.png"], found) == ["a.TXT", "c.txt", "sub/a.txt"]


@pytest.mark.parametrize("data", ["ein hund".encode("utf-16-le"), b"cat\0dog", b"cat \x1b[31m dog"])
def test_control_characters_are_no_text(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.txt: is no plain text"):
        read_beside(tmp_path, ["a.png"], find_captions(["a.txt"]))
