"""The schema of the method's params.yaml.

Both terms of the loss are means over values. diffusers' script divides the first term by the number of cells in the
mask, but not by the four channels that it sums over, so its ``prior_loss_weight`` 1 is ``prior_weight`` 0.25 here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from etude.base.settings import KeepsClass
from etude.core.files import file_name
from etude.core.mixins import Concepts
from etude.core.params import MethodParams, Scale, Schema, SetName, Words, callable_by, classed
from etude.core.spelling import as_read, has_word
from etude.training.augmentation import HasViews
from etude.training.masks import MaskedLoss
from etude.training.plan import Trained
from etude.training.preview import HasPreview
from etude.training.start import Start, Starts, rows, shape_faults, weights

if TYPE_CHECKING:
    from torch import nn

LEARNED = {"crossattn_kv": r"\.attn2\.to_[kv]\.weight$", "crossattn": r"\.attn2\."}


class Concept(Schema):
    """The concept that is learned from one image set."""

    word: Annotated[str, AfterValidator(callable_by)] = Field(
        min_length=1, max_length=64, pattern=r"^\S+$", description="one word, without spaces"
    )
    initializer: Words
    prompt: str = Field(pattern=r"\[word\]", description="a text with [word] in it")

    def worded(self) -> str:
        """The training text of its pictures."""
        return self.prompt.replace("[word]", self.word)


class Params(Concepts, HasViews, KeepsClass, MaskedLoss, Starts, Trained, HasPreview, MethodParams):
    """The method's params.yaml."""

    needs_class: ClassVar[bool] = True

    trigger: Literal[True]
    concepts: dict[SetName, Concept] = Field(min_length=1)
    layers: Literal["crossattn_kv", "crossattn"]
    word_rate: Scale
    far: list[Words] = Field(min_length=1)
    near: list[Words] = Field(min_length=1)
    clip_skip: int = Field(ge=0, le=10)
    save: Literal["fp32", "fp16", "bf16"]
    compress: float = Field(ge=0, lt=1)
    lora_rank: int = Field(ge=0, le=1024)

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        words = [concept.word for concept in self.concepts.values()]
        if len(set(map(as_read, words))) < len(words):
            raise ValueError("`concepts` has one word twice: give each concept its own")
        if len({file_name(word).casefold() for word in words}) < len(words):
            raise ValueError(f"`concepts` has words whose files would have the same name: {', '.join(words)}")
        if self.set not in self.concepts:
            raise ValueError(f"`set` is {self.set!r}, which is none of `concepts`: {', '.join(self.concepts)}")
        if not has_word(word := self.concepts[self.set].word, self.name):
            raise ValueError(f"`name` is {self.name!r}, without {word!r}, the word of the concept {self.set!r}")
        return self

    def image_sets(self) -> list[str]:
        """The sets of the concepts, and those of real class images."""
        return [*self.concepts, *self.class_images.real]

    def trains(self, weight: str) -> bool:
        """The weights of the cross-attention that `layers` names."""
        return weight.startswith("unet.") and bool(re.search(LEARNED[self.layers], weight))

    def misfits(self, start: Start, parts: Mapping[str, nn.Module]) -> Iterator[str]:
        """Compare the words in their order, and the weights of the cross-attention."""
        words, found = [concept.word for concept in self.concepts.values()], start.facts.get("words", [])
        if found != words:
            yield f"has the words {', '.join(found) or '(none)'}, and `concepts` has {', '.join(words)}"
        wanted = weights(parts, self.trains)
        for number in range(len(words)):
            wanted |= rows(parts, 1, f"words.{number}.")
        yield from shape_faults(start.shapes, wanted)

    @property
    def class_word(self) -> str:
        """The known word from which the new word of `set` starts."""
        return self.concepts[self.set].initializer

    def pointed(self, images: str, word: str, kind: str) -> dict[str, Any]:
        """One concept, named by its new word and its class; for another class, class images are drawn again."""
        before, new = self.class_word, f"<{word}>"
        prompt = classed(self.concepts[self.set].prompt, before, kind)
        prompts = [classed(prompt, before, kind) for prompt in self.class_images.prompts]
        return {
            "set": images,
            "name": f"{new} {kind}",
            "concepts": {images: {"word": new, "initializer": kind, "prompt": prompt}},
            "class_images.prompts": prompts,
            "class_images.real": self.class_images.real if kind == before else [],
        }
