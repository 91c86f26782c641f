"""Doubts about pictures, at the borders of their rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from etude.inspection.contents import Caption, Contents, Picture
from etude.inspection.findings import find_doubts
from etude.inspection.looks import Measures
from etude.inspection.tokens import measure_text

SHARP = Measures(blur=0.3, contrast=50.0)
PLAIN = "One colour, or nearly"


def picture(text: str = "a fox", kept: float = 1.0, notes: tuple[str, ...] = (), **entry: Any) -> Picture:
    facts = {"enlarged": False, "source_size": [80, 60], "size": [64, 64]} | entry
    caption = Caption(text, "file", "a.txt", measure_text(text))
    return Picture("a.png", (), {"1": facts}, {"1": caption}, kept, notes)


def doubts(pictures: dict[str, Picture], measures: dict[str, Measures] | None = None) -> dict[str, dict[str, str]]:
    """What is found: title → picture → words, the worst first."""
    contents = Contents("pets", Path(), pictures, 0, {}, (), {}, {}, (), 75)
    seen = {name: (measures or {}).get(name, SHARP) for name in pictures}
    return {finding.title: dict(finding.pictures) for finding in find_doubts(contents, seen)}


@pytest.mark.parametrize(
    ("measures", "titles"),
    [
        (Measures(0.59, 50.0), []),
        (Measures(0.6, 50.0), ["Blurred"]),
        (Measures(0.6, 4.0), ["Blurred"]),
        (Measures(0.9, 3.9), [PLAIN]),
        (Measures(0.3, 4.0), []),
        (Measures(0.3, 3.9), [PLAIN]),
    ],
)
def test_a_picture_is_blurred_from_0_6_on_and_plain_below_a_contrast_of_4_and_never_both(
    measures: Measures, titles: list[str]
) -> None:
    assert list(doubts({"a.png": picture()}, {"a.png": measures})) == titles


def test_a_picture_that_was_enlarged_is_soft_for_that_reason_and_not_called_blurred() -> None:
    found = doubts({"a.png": picture(enlarged=True, source_size=[32, 16])}, {"a.png": Measures(0.9, 50.0)})
    assert found == {"Enlarged": {"a.png": "32×16 → 64×64"}}


def test_the_worst_picture_comes_first_and_equal_ones_by_name() -> None:
    kept = {"c.png": picture(kept=0.2), "b.png": picture(kept=0.4), "a.png": picture(kept=0.4), "d.png": picture()}
    assert list(doubts(kept)["Mostly cut off"].items()) == [
        ("c.png", "20% is used"),
        ("a.png", "40% is used"),
        ("b.png", "40% is used"),
    ]
    sizes = {"wide.png": [40, 60], "low.png": [60, 16], "small.png": [32, 32]}
    grown = {name: picture(enlarged=True, source_size=size) for name, size in sizes.items()}
    assert list(doubts(grown)["Enlarged"]) == ["low.png", "small.png", "wide.png"]
    blur = {"a.png": Measures(0.7, 50.0), "b.png": Measures(0.8, 50.0)}
    assert doubts(dict.fromkeys(blur, picture()), blur) == {"Blurred": {"b.png": "blur 0.80", "a.png": "blur 0.70"}}
    flat = {"a.png": Measures(0.0, 2.0), "b.png": Measures(0.0, 1.0)}
    assert doubts(dict.fromkeys(flat, picture()), flat) == {PLAIN: {"b.png": "contrast 1.0", "a.png": "contrast 2.0"}}
    long = {name: picture("cat " * count) for name, count in (("a.png", 76), ("b.png", 80), ("c.png", 75))}
    assert doubts(long) == {"Captions that are cut": {"b.png": "80 tokens", "a.png": "76 tokens"}}


def test_a_picture_of_which_half_is_used_is_not_mostly_cut_off() -> None:
    assert doubts({"a.png": picture(kept=0.5)}) == {}
    assert list(doubts({"a.png": picture(kept=0.49)})) == ["Mostly cut off"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a fox, Signature", "“Signature”"),
        ("1girl, artist name, solo", "“artist name”"),
        ("a shop with words on it", "“words on”"),
        ("dated 1990", "“dated”"),
        ("the texture of a logotype, updated", ""),
    ],
)
def test_whole_words_for_writing_are_found_in_captions(text: str, found: str) -> None:
    assert doubts({"a.png": picture(text)}) == (
        {"Text or a watermark, by the caption": {"a.png": found}} if found else {}
    )


def test_notes_of_prepare_are_told_and_the_one_on_plain_pictures_under_its_own_title() -> None:
    noted = {"a.png": picture(notes=("one colour alone", "no profile", "cut short")), "b.png": picture("")}
    assert doubts(noted) == {
        PLAIN: {"a.png": "contrast 50.0"},
        "Without a caption": {"b.png": "no caption"},
        "Notes of prepare": {"a.png": "no profile; cut short"},
    }
