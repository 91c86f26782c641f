from pathlib import Path

import pytest

from etude.captions.beside import lonely_texts, other_captions, read_beside
from etude.core.errors import InputError


def test_the_first_of_equal_pictures_that_has_a_text_gives_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_text("second\n", encoding="utf-8")
    (tmp_path / "sub" / "c.txt").write_text("third\n", encoding="utf-8")
    assert read_beside(tmp_path, ["a.png", "b.png", "sub/c.png"]) == "second"
    assert read_beside(tmp_path, ["sub/c.png", "b.png"]) == "third"
    assert read_beside(tmp_path, ["a.png"]) is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_text_is_read_in_every_unicode_form_with_single_spaces(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_text("  ein Füchschen,\r\n\r\n  im   Schnee ❄\n", encoding=encoding)
    assert read_beside(tmp_path, ["a.jpg"]) == "ein Füchschen, im Schnee ❄"


def test_an_empty_text_is_an_empty_caption_and_not_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    assert read_beside(tmp_path, ["a.png"]) == ""


def test_another_encoding_is_refused_and_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Füchschen", encoding="latin-1")
    with pytest.raises(InputError, match="a.txt: is not text in UTF-8"):
        read_beside(tmp_path, ["a.png"])


def test_texts_of_other_suffixes_are_counted_where_no_txt_stands(tmp_path: Path) -> None:
    for name in ("a.caption", "b.caption", "b.txt", "c.caption", "c.tags"):
        (tmp_path / name).touch()
    assert other_captions(tmp_path, ["a.png", "b.png", "c.png"]) == {".caption": 2, ".tags": 1}


def test_texts_without_a_picture_are_listed(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.txt", "b.txt", "sub/a.txt", "README.txt", ".hidden.txt"):
        (tmp_path / name).touch()
    assert lonely_texts(tmp_path, ["a.png"]) == ["b.txt", "sub/a.txt"]
