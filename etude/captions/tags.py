"""The text of a picture from a tagger's scores: which tags it names, in which order, and how they are written.

The rules are those of well-known programs: kohya's ``tag_images_by_wd14_tagger.py``, SmilingWolf's app for
the WD14 models, and A1111's DeepDanbooru. A rule in which they differ is a setting. Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from etude.core.params import Count, Schema, refuse_twice

Name = Annotated[str, Field(min_length=1, pattern=r"^\S(.*\S)?$")]
Threshold = Annotated[float, Field(ge=0, le=1)]
Category = Literal["general", "artist", "copyright", "character", "meta"]
RATING = "rating"  # one of a few tags that exclude each other: general, sensitive, questionable, explicit
SHORTEST = 3  # characters: kohya's script treats tags of at most this length as kaomoji
# Tags in which `_` is a mouth: the list of SmilingWolf's app.
KAOMOJI = frozenset({
    "0_0", "(o)_(o)", "+_+", "+_-", "._.", "<o>_<o>", "<|>_<|>", "=_=", ">_<", "3_3", "6_9", ">_o", "@_@", "^_^", "o_o",
    "u_u", "x_x", "|_|", "||_||",
})  # fmt: skip
ESCAPED = {"none": "", "smilingwolf": "()", "a1111": r"\()"}  # characters that get a backslash; the backslash first


class Tags(Schema):
    """Which tags the taggers (wd14, deepdanbooru) name, and how these are written."""

    general: Threshold = Field(description="wd14: the score from which a tag is named; 0.35 in kohya's script")
    character: Threshold = Field(description="wd14: the same for names of characters; 0.35 in kohya's script")
    deepdanbooru: Threshold = Field(description="deepdanbooru: the score from which a tag is named; 0.5 in A1111")
    resize: Literal["area", "bicubic"] = Field(
        description="wd14: how a picture gets the model's size: as kohya's script does (area), or SmilingWolf's app"
    )
    categories: list[Category] = Field(min_length=1, description="the kinds of tags that are named")
    rating: Literal["none", "first", "last"] = Field(description="where the most likely rating stands")
    undesired: list[Name] = Field(description="tags that are never named, as they are written; may be empty")
    replacements: dict[Name, Name] = Field(description="tag: what is written in its place; may be empty")
    expand: bool = Field(description="write name_(series) as two tags, name and series, as kohya's script can")
    underscores: Literal["keep", "kohya", "smilingwolf", "a1111"] = Field(
        description="write _ as a space: in no tag (keep), in those of four characters or more (kohya), "
        "in all but kaomoji such as ^_^ (smilingwolf), in all (a1111)"
    )
    escape: Literal["none", "smilingwolf", "a1111"] = Field(
        description=r"put \ before: nothing (none), ( and ) (smilingwolf), these and \ (a1111)"
    )
    order: Literal["table", "score", "alphabet"] = Field(
        description="tags as the model lists them (kohya's script), the most likely first, or by the alphabet"
    )
    characters: Literal["last", "first", "among"] = Field(
        description="names of characters: behind the other tags, before them, or sorted among them"
    )
    first: list[Name] = Field(
        description="tags that stand at the beginning where they are named, the last of this list first (as kohya's)"
    )
    ranks: bool = Field(description="write each tag as (tag:score), as A1111 can")
    limit: int = Field(ge=0, le=10_000, description="how many tags are named at most, the most likely ones; 0: all")
    batch: Count = Field(description="pictures that the model sees at once; the last digits of scores depend on it")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        refuse_twice(categories=self.categories, undesired=self.undesired, first=self.first)
        return self


class Tag(NamedTuple):
    """A tag, by its name in the model or as it is written, and its score for one picture."""

    name: str
    category: str
    score: float = 0.0  # 0 to 1


def write_tags(scored: Iterable[Tag], thresholds: Mapping[str, float], settings: Tags) -> str:
    """The text of a picture from all tags of the model with their scores, in the model's order.

    ``thresholds`` has one for "general", which is used for every category without its own.
    """
    listed = list(scored)
    named = [tag for tag in listed if _is_named(tag, thresholds, settings)]
    written = [_written(tag, settings) for tag in _ordered(named, settings)]
    undesired = set(map(_plain, settings.undesired))
    written = [tag for tag in written if _plain(tag.name) not in undesired]
    if settings.limit:
        best = sorted(written, key=_by_score)[: settings.limit]
        written = [tag for tag in written if tag in best]
    ratings = [tag for tag in listed if tag.category == RATING]
    if ratings and settings.rating != "none":
        rating = _written(max(ratings, key=lambda tag: tag.score), settings)
        if _plain(rating.name) not in undesired:
            written.insert(0 if settings.rating == "first" else len(written), rating)
    for name in map(_plain, settings.first):  # one after the other, so that the last one comes first: kohya's rule
        found = [tag for tag in written if _plain(tag.name) == name]
        written = found + [tag for tag in written if tag not in found]
    return ", ".join(_shown(tag, settings) for tag in written)


def _is_named(tag: Tag, thresholds: Mapping[str, float], settings: Tags) -> bool:
    threshold = thresholds.get(tag.category, thresholds["general"])
    return tag.category in settings.categories and tag.score >= threshold


def _ordered(tags: list[Tag], settings: Tags) -> list[Tag]:
    """The tags in order. They are sorted by the model's names, not as they are written; equal scores stay in order."""
    if settings.order == "score":
        tags = sorted(tags, key=_by_score)
    elif settings.order == "alphabet":
        tags = sorted(tags, key=lambda tag: tag.name)
    if settings.characters == "among":
        return tags
    others = [tag for tag in tags if tag.category != "character"]
    characters = [tag for tag in tags if tag.category == "character"]
    if settings.characters == "last":
        return others + characters
    if settings.order == "table":  # kohya's script inserts them one after the other at the beginning
        characters.reverse()
    return characters + others


def _by_score(tag: Tag) -> float:
    return -tag.score


def _written(tag: Tag, settings: Tags) -> Tag:
    """The tag as it is written. Steps are in the order of kohya's script, so replacements use the name without `_`."""
    name = tag.name
    if settings.expand and tag.category == "character" and name.endswith(")") and "(" in name:
        character, _, series = name.rpartition("(")
        name = f"{character.removesuffix('_')}, {series.replace(')', '')}"
    kept = {
        "keep": True,
        "kohya": len(name) <= SHORTEST,
        "smilingwolf": name in KAOMOJI,
        "a1111": False,
    }
    if not kept[settings.underscores]:
        name = name.replace("_", " ")
    return tag._replace(name=settings.replacements.get(name, name))


def _plain(name: str) -> str:
    """The form in which names in the settings and written tags are compared: `_` equals a space."""
    return name.replace("_", " ")


def _shown(tag: Tag, settings: Tags) -> str:
    name = tag.name
    for character in ESCAPED[settings.escape]:
        name = name.replace(character, "\\" + character)
    return f"({name}:{tag.score:.3f})" if settings.ranks else name
