from pathlib import Path

import pytest

from etude.core.beside.texts import read_text
from etude.core.errors import InputError


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_text_is_read_in_every_unicode_form(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_text("ein Füchschen, im Schnee ❄", encoding=encoding)
    assert read_text(tmp_path / "a.txt") == ("ein Füchschen, im Schnee ❄", "")


def test_a_text_of_windows_is_read_and_that_is_noted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("ein Füchschen – „im Schnee“, 3 €".encode("cp1252"))
    text, note = read_text(tmp_path / "a.txt")
    assert text == "ein Füchschen – „im Schnee“, 3 €"
    assert "Windows-1252" in note


def test_a_text_of_windows_has_three_foreign_letters_in_ten_at_most(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("éééabcdefg".encode("cp1252"))
    assert read_text(tmp_path / "a.txt").text == "éééabcdefg"
    (tmp_path / "a.txt").write_bytes("ééééabcdefg".encode("cp1252"))
    with pytest.raises(InputError, match="is not text in UTF-8"):
        read_text(tmp_path / "a.txt")


@pytest.mark.parametrize(
    "data",
    [
        "рыжая лиса в снегу".encode("cp1251"),
        "雪の中の狐".encode("shift-jis"),
        "一只红狐".encode("gbk"),
        "ein Füchschen".encode() + b" im Schn\xe9e",  # UTF-8 with a damaged letter
        "ein Füchs".encode() + b"\xe2\x9d",  # UTF-8 that is cut
        b"a fox \x81 in the snow",  # means nothing in Windows-1252
        "ein hund".encode("utf-16-le"),
        b"cat\0dog",
        b"cat \x1b[31m dog",
        b"\xff\xfe\0",
    ],
)
def test_another_encoding_is_refused_and_not_guessed(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.txt: is no(t text in UTF-8| plain text)"):
        read_text(tmp_path / "a.txt")
