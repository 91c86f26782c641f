"""Captions as tags between commas: shuffled and with fewer tags, so that no caption is learned as a whole.

The rules are kohya's. Texts are encoded once; so each caption has a fixed number of variants, made from the seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, model_validator

from etude.core.mixins import Captioned
from etude.core.params import MethodParams, Schema
from etude.core.placeholder import FILEWORDS, PLACES
from etude.training.plan import Trained

if TYPE_CHECKING:
    from etude.training.batches import Captions

COMMA = ","


class Tags(Schema):
    """The ``tags`` block of a method's params.yaml: how the tags of captions are shuffled and left out."""

    shuffle: bool
    keep: int = Field(ge=0, le=1000, description="first tags that stay; kohya's keep_tokens")
    separator: str = Field(max_length=16, description="the tags before it stay; kohya's keep_tokens_separator")
    dropout: float = Field(ge=0, lt=1, description="share of tags that are left out; kohya's caption_tag_dropout_rate")
    variants: int = Field(ge=1, le=10_000, description="of each caption; each is encoded once")

    @model_validator(mode="after")
    def _meant(self) -> Self:
        if self.changes and self.variants == 1:
            raise ValueError(
                "`variants` 1 gives each caption one form for the whole training: write more, such as 16, "
                "or `shuffle: false` and `dropout: 0.0`"
            )
        idle = [key for key in ("keep", "separator") if getattr(self, key)] + ["variants"] * (self.variants > 1)
        if idle and not self.changes:
            raise ValueError(f"`{idle[0]}` has no effect without `shuffle: true` or a `dropout` above 0")
        if self.separator and not self.separator.strip():
            raise ValueError("`separator` is a space, which is within tags too: write another, such as `|||`")
        if self.separator.strip() == COMMA:
            raise ValueError("`separator` is a comma, which is between all tags: write another, such as `|||`")
        return self

    @property
    def changes(self) -> bool:
        """Whether variants differ from the caption."""
        return self.shuffle or self.dropout > 0

    def kept(self, caption: str) -> str:
        """The part of a caption that every variant contains."""
        first, others, last = self._split(caption)
        return _joined(first + last) if self.dropout else _joined(first + others + last)

    def variant(self, caption: str, *source: int | str) -> str:
        """A caption in another form, a pure function of the caption and ``source``."""
        import torch

        from etude.core.randomness import generator

        first, others, last = self._split(caption)
        random = generator(*source, "tags", caption)
        if self.shuffle:
            others = [others[place] for place in torch.randperm(len(others), generator=random).tolist()]
        if self.dropout:
            stays = (torch.rand(len(others), generator=random) >= self.dropout).tolist()
            others = [tag for tag, stay in zip(others, stays, strict=True) if stay]
        return _joined(first + others + last)

    def _split(self, caption: str) -> tuple[list[str], list[str], list[str]]:
        """The tags that stay first, those that are shuffled or left out, and those after a second separator."""
        if not self.separator or self.separator not in caption:
            tags = [tag.strip() for tag in caption.strip().split(COMMA)]
            return tags[: self.keep], tags[self.keep :], []
        first, others, *last = caption.split(self.separator, 2)
        return _tags(first), _tags(others), _tags("".join(last))


UNCHANGED = Tags(shuffle=False, keep=0, separator="", dropout=0.0, variants=1)


class HasTags(Schema):
    """A method that learns captions, and can shuffle their tags or leave some out."""

    added_keys: ClassVar = {"tags": UNCHANGED.model_dump()}

    tags: Tags


class LearnsCaptions(Captioned, HasTags, Trained, MethodParams):
    """A method that learns pictures with captions. Unless text encoders are trained, texts are encoded only once."""

    caption_dropout: float = Field(ge=0, lt=1)
    clip_skip: int = Field(ge=0, le=10)

    @model_validator(mode="after")
    def _with_captions(self) -> Self:
        refuse_idle_tags(self.tags, [self.caption])
        return self


def refuse_idle_tags(tags: Tags, texts: Sequence[str], reads: str = "texts") -> None:
    """Raises ValueError if ``tags`` changes captions that none of ``texts`` contains, or that are not read."""
    if not tags.changes:
        return
    if reads != "texts":
        raise ValueError(
            f"`tags` changes captions, but `reads: {reads}` reads none: "
            f"write `reads: texts`, and {FILEWORDS} in a template"
        )
    if not any(place in text for text in texts for place in PLACES):
        raise ValueError(
            f"`tags` changes captions, but no training text contains a caption: write {' or '.join(PLACES)} in one"
        )


def vary(captions: Captions, tags: Tags, seed: int) -> Captions:
    """The captions with their variants, which are not encoded yet; unchanged if ``tags`` changes nothing."""
    if not tags.changes:
        return captions

    def form(number: int) -> Mapping[str, str]:
        return {name: tags.variant(text, seed, number) for name, text in captions.texts.items()}

    forms = (replace(captions, texts=form(number), conditioning={}) for number in range(tags.variants))
    return replace(captions, conditioning={}, variants=tuple(forms))


def _tags(part: str) -> list[str]:
    return [tag.strip() for tag in part.split(COMMA) if tag.strip()]


def _joined(tags: list[str]) -> str:
    return ", ".join(tags)
