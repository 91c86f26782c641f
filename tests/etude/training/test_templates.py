"""Texts that pictures are learned under: a caption that says the name needs no [name] in its template."""

from __future__ import annotations

import pytest

from etude.core.errors import InputError
from etude.training.tags import UNCHANGED
from etude.training.templates import draw, refuse_idle_reading, refuse_silent


def test_the_name_in_a_caption_becomes_the_place_of_the_word() -> None:
    caption = "noto Owl on a red background, no owlet"
    assert draw(["[filewords]"], [caption], "owl") == ["noto [name] on a red background, no owlet"]
    assert draw(["a photo of [name]"], [caption], "owl") == ["a photo of [name]"]
    assert draw(["[filewords]"], ["a cafe\u0301, a ſks"], "caf\u00e9") == ["a [name], a ſks"]
    assert draw(["[name], [filewords]"], ["<owl> a <owl>"], "<owl>") == ["[name], [name] a [name]"]


def test_templates_are_drawn_by_lot() -> None:
    drawn = draw(["a [name]", "the [name]"], [""] * 64, "owl")
    assert set(drawn) == {"a [name]", "the [name]"}


def test_a_text_that_lacks_the_name_is_refused_with_its_picture() -> None:
    captions = {"a": "an owl", "b": "a bird"}
    refuse_silent(["[name] [filewords]", "[name]"], captions, "owl", "birds", UNCHANGED)
    refuse_silent(["[filewords]"], {"a": "an owl"}, "owl", "birds", UNCHANGED)
    with pytest.raises(InputError, match=r"data/birds.*caption of b, `a bird`, lacks `owl`"):
        refuse_silent(["[name]", "[filewords]"], captions, "owl", "birds", UNCHANGED)


@pytest.mark.parametrize(("templates", "reads"), [(["[filewords]"], "prepared"), (["[name]"], "texts")])
def test_captions_are_read_where_a_template_holds_them_and_nowhere_else(templates: list[str], reads: str) -> None:
    with pytest.raises(ValueError, match="`reads` must be `texts` if a template contains"):
        refuse_idle_reading(templates, reads)
