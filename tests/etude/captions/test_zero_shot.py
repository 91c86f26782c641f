from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from etude.captions.settings import Words
from etude.captions.zero_shot import Array, Phrases, read_words
from etude.core.errors import InputError

SETTINGS = {
    "file": "words.txt",
    "templates": ["{}"],
    "top": 1,
    "styles": [],
    "backgrounds": [],
}
SEEN = ("cat", "dog", "flat", "glossy", "on a red background", "on a blue background")


def read(texts: Sequence[str]) -> Array:
    """A CLIP that has a direction for each of SEEN, and reads whichever stand in a text; a blurry dog is flat to it."""
    texts = [text.replace("blurry dog", "flat") for text in texts]
    rows = np.array([[float(seen in text) for seen in SEEN] for text in texts])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def describe(pictures: Array, read: Callable[[Sequence[str]], Array], words: list[str], settings: Words) -> list[str]:
    phrases = Phrases(read, words, settings)
    return [phrases.describe(features) for features in pictures]


def picture(**shares: float) -> Array:
    row = np.array([[shares.get(seen.split()[-2] if " " in seen else seen, 0.0) for seen in SEEN]])
    return row / np.linalg.norm(row)


def test_a_picture_gets_its_style_its_words_and_its_background_in_that_order() -> None:
    pictures = np.concatenate([picture(cat=1, dog=0.4, glossy=0.6, blue=0.5), picture(dog=1, flat=1, red=1)])
    settings = Words(
        **{**SETTINGS, "styles": ["flat", "glossy"], "backgrounds": ["on a red background", "on a blue background"]}
    )
    assert describe(pictures, read, ["dog", "cat"], settings) == [
        "glossy cat on a blue background",
        "flat dog on a red background",
    ]
    plain = Words(**{**SETTINGS, "top": 2})
    assert describe(pictures, read, ["dog", "cat"], plain) == ["cat, dog", "dog, cat"]


def test_a_word_is_read_in_every_template() -> None:
    both = Words(**{**SETTINGS, "templates": ["a {}", "a blurry {}"]})
    one = Words(**{**SETTINGS, "templates": ["a {}"]})
    towards_dog = picture(cat=0.98, dog=1.0)
    assert describe(towards_dog, read, ["cat", "dog"], one) == ["dog"]
    assert describe(towards_dog, read, ["cat", "dog"], both) == ["cat"]
    # The mean of templates that disagree is short: it counts by its direction alone.
    assert describe(picture(cat=0.75, dog=1.0, flat=0.2), read, ["cat", "dog"], both) == ["dog"]


def test_a_list_of_words_has_one_a_line_each_once(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("# animals\ncat\n\n ice cream \ncat\ndog\n", encoding="utf-8")
    assert read_words(tmp_path / "words.txt") == ["cat", "ice cream", "dog"]
    (tmp_path / "empty.txt").write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(InputError, match="has no words"):
        read_words(tmp_path / "empty.txt")
    with pytest.raises(InputError, match="is missing"):
        read_words(tmp_path / "gone.txt")
    (tmp_path / "latin.txt").write_bytes("Füchse".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin.txt: is not text in UTF-8 \(byte 1\)"):
        read_words(tmp_path / "latin.txt")


@pytest.mark.parametrize("wrong", [{"templates": []}, {"templates": ["a photo"]}, {"captioner": "blip"}, {"top": 0}])
def test_settings_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Words(**{**SETTINGS, **wrong})
