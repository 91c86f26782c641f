"""Classes from which a method's `Params` may derive, in addition to MethodParams. Stages check only for these classes.

Other mixins are beside the schema of their block: `Trained` in `etude.training.plan`, `HasPreview` in
`etude.training.preview`, `HasViews` in `etude.training.augmentation`, `KeepsClass` in `etude.base.settings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from etude.core.params import Location, Part, Scale, Schema, SetName


class OwnBase(Schema):
    """A method that needs another base than the project's, such as an unCLIP model."""

    base: Location = Field(description="the base model of this method, in place of the one in the root's params.yaml")

    def sources(self) -> dict[str, str]:
        """The base: one of the models that the method reads."""
        return {"base": self.base}


class Captioned(Schema):
    """A method that trains with one text, into which the caption of each picture is inserted."""

    caption: str = Field(
        pattern=r"\[(caption|filewords|name)\]",
        description="a text with [caption] (A1111: [filewords]) or [name] in it",
    )


class ReadsCaptions(Schema):
    """A method that can work without captions. If it does, an edited caption causes no new build."""

    reads: Literal["prepared", "texts"]  # a folder of the image set, which the build stage depends on

    @property
    def reads_captions(self) -> bool:
        """Whether `build` gets captions; otherwise it gets None."""
        return self.reads == "texts"


class TrainsText(Schema):
    """A method whose steps use the UNet. They use the text encoders, too, if these are trained."""

    text_encoder_rate: Scale

    @property
    def step_parts(self) -> tuple[Part, ...]:
        """The UNet, and the text encoders if they are trained; otherwise their states are encoded once."""
        return ("unet", "text") if self.text_encoder_rate else ("unet",)


class TrainsWeights(TrainsText):
    """A method that trains the base's own weights."""

    def trains(self, weight: str) -> bool:
        """All weights of the UNet, and those of the text encoders if ``text_encoder_rate`` is above 0."""
        return weight.startswith("unet.") or (self.text_encoder_rate > 0 and weight.startswith("text_encoder"))


class Concepts(Schema):
    """A method that learns several image sets at once."""

    concepts: Mapping[SetName, Any] = Field(min_length=1)  # image set → what is learned from it


class Models(Schema):
    """A method that is made from other models, each a file or a folder."""

    models: Mapping[str, Location] = Field(min_length=1)

    def sources(self) -> dict[str, str]:
        """The models that the method reads."""
        return {f"models.{name}": path for name, path in self.models.items()}


def base_of(params: Schema, shared: str) -> Path:
    """The base with which a method trains and draws: its own if it has one, otherwise ``shared``, the project's."""
    return Path(params.base if isinstance(params, OwnBase) else shared)


def models_of(params: Schema) -> Mapping[str, str]:
    """The models from which a method is made, by their names in params.yaml; most methods have none."""
    return params.models if isinstance(params, Models) else {}
