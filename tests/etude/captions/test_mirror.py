import pytest

from etude.captions.mirror import mirror


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("a cat on the left, a dog on the right", "a cat on the right, a dog on the left"),
        ("Left-handed and RIGHTMOST, leftwards", "Right-handed and LEFTMOST, rightwards"),
        ("leftover food, bright copyright, a kleft", "leftover food, bright copyright, a kleft"),
        ("a red fox", "a red fox"),
        ("", ""),
    ],
)
def test_left_and_right_change_places_as_words_only(text: str, mirrored: str) -> None:
    assert mirror(text) == mirrored
    assert mirror(mirrored) == text
