"""How texts are read and pictures drawn: which values are allowed, and what follows from them."""

from __future__ import annotations

from typing import Any

import pytest

from etude.base.settings import (
    NONE_DRAWN,
    ClassImages,
    HasClassImages,
    KeepsClass,
    OneChunk,
    Sampling,
    Text,
    text_faults,
)
from etude.core.errors import ParamsError
from etude.core.params import Schema, validate

TEXT = {"chunks": 1, "rule": "a1111", "emphasis": "none"}
DRAWING = {"sampler": "ddim", "steps": 20, "guidance": 4.0, "negative": "", "clip_skip": 0}
CLASS = DRAWING | {"prompts": ["dog"], "count": 4, "seed": 0, "batch_size": 8, "real": []}


@pytest.mark.parametrize(
    ("schema", "values", "name", "low", "high"),
    [
        (Text, TEXT, "chunks", 1, 20),
        (Sampling, DRAWING, "steps", 1, 500),
        (Sampling, DRAWING, "clip_skip", 0, 10),
        (ClassImages, CLASS, "count", 0, 100_000),
        (ClassImages, CLASS, "batch_size", 1, 10_000),
    ],
)
def test_a_number_is_allowed_from_its_least_to_its_most(
    schema: type[Schema], values: dict[str, Any], name: str, low: int, high: int
) -> None:
    for number in (low, high):
        assert getattr(validate(values | {name: number}, schema, "p.yaml"), name) == number
    for number in (low - 1, high + 1):
        with pytest.raises(ParamsError, match=f"`{name}`"):
            validate(values | {name: number}, schema, "p.yaml")


@pytest.mark.parametrize(
    ("values", "plain", "like_a1111"),
    [
        ({}, True, False),
        ({"rule": "kohya"}, True, False),
        ({"chunks": 2}, False, False),
        ({"emphasis": "a1111"}, False, True),
        ({"emphasis": "a1111", "rule": "kohya"}, False, True),
        ({"emphasis": "kohya"}, False, True),
        ({"emphasis": "kohya", "rule": "kohya"}, False, False),
    ],
)
def test_what_texts_may_hold_follows_from_how_they_are_read(
    values: dict[str, Any], plain: bool, like_a1111: bool
) -> None:
    text = Text(**TEXT | values)
    assert (text.is_plain, text.follows_a1111) == (plain, like_a1111)
    assert len(list(text_faults(OneChunk(), text))) == (not plain)
    assert list(text_faults(text, text)) == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"prompts": []}, "`prompts` is empty, and `count` is 4"),
        ({"prompts": ["dog", "dog"]}, "`prompts` holds 'dog' twice"),
        ({"real": ["dogs", "dogs"]}, "`real` holds 'dogs' twice"),
    ],
)
def test_class_images_are_drawn_of_prompts_and_each_once(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ParamsError, match=said):
        validate(CLASS | values, ClassImages, "p.yaml")
    assert validate(CLASS | {"prompts": [], "count": 0}, ClassImages, "p.yaml").count == 0
    assert validate(NONE_DRAWN, ClassImages, "p.yaml").count == 0


@pytest.mark.parametrize(("weight", "drawn"), [(0.0, 0), (0.5, 4)])
def test_class_images_are_drawn_only_if_they_have_a_weight(weight: float, drawn: int) -> None:
    assert validate({"class_images": CLASS, "prior_weight": weight}, HasClassImages, "p.yaml").drawn == drawn


@pytest.mark.parametrize(
    ("weight", "images", "allowed"),
    [
        (0.0, {"count": 0}, True),
        (0.5, {}, True),
        (0.5, {"count": 0, "real": ["dogs"]}, True),
        (0.5, {"count": 0}, False),
    ],
)
def test_a_weight_of_the_class_needs_pictures_of_it(weight: float, images: dict[str, Any], allowed: bool) -> None:
    values = {"class_images": CLASS | images, "prior_weight": weight, "prior_batch_size": 1}
    if allowed:
        assert validate(values, KeepsClass, "p.yaml").prior_batch_size == 1
    else:
        with pytest.raises(ParamsError, match="`prior_weight` needs pictures of the class"):
            validate(values, KeepsClass, "p.yaml")


def test_params_from_before_there_were_class_images_learn_none_of_them() -> None:
    added = validate(dict(KeepsClass.added_keys), KeepsClass, "p.yaml")
    assert (added.prior_weight, added.drawn, added.prior_batch_size) == (0.0, 0, 1)
    assert added.class_images.real == []
