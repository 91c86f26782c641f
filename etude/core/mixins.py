"""What a method's `Params` may declare besides what all have: stages ask for these classes and look at nothing else.

Blocks are declared beside their schema: `Trained` in `etude.training.plan`, `HasPreview` in `etude.training.preview`,
`HasViews` in `etude.training.augmentation`, `ClassPictures` in `etude.base.settings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from etude.core.params import Location, Schema, SetName


class OwnBase(Schema):
    """A method that needs another base than the project's, such as an unCLIP model."""

    base: Location = Field(description="the base model of this method, in place of the one in the root's params.yaml")

    def sources(self) -> dict[str, str]:
        """It is one of the models that the method reads."""
        return {"base": self.base}


class Captioned(Schema):
    """A method whose pictures are learned under one text, with their captions in it."""

    caption: str = Field(pattern=r"\[caption\]|\[name\]", description="a text with [caption] or [name] in it")


class ReadsCaptions(Schema):
    """A method that may do without captions: an edited caption then builds nothing again."""

    reads: Literal["prepared", "texts"]  # a folder of the image set, which the build stage depends on

    @property
    def reads_captions(self) -> bool:
        """Whether `build` is given captions; else it gets None."""
        return self.reads == "texts"


class Concepts(Schema):
    """A method that learns several image sets at once."""

    concepts: Mapping[SetName, Any] = Field(min_length=1)  # image set → what is learned from it


class Models(Schema):
    """A method that is made from other models, each a file or a folder."""

    models: Mapping[str, Location] = Field(min_length=1)

    def sources(self) -> dict[str, str]:
        """They are the models that the method reads."""
        return {f"models.{name}": path for name, path in self.models.items()}


def base_of(params: Schema, shared: str) -> Path:
    """The base that a method learns on and is drawn with: its own, else ``shared``, the project's."""
    return Path(params.base if isinstance(params, OwnBase) else shared)


def models_of(params: Schema) -> Mapping[str, str]:
    """The models that a method is made from, by the names that params.yaml gives them; most methods have none."""
    return params.models if isinstance(params, Models) else {}
