"""The captioners, and the `caption` block of params.yaml that chooses one.

Imports nothing heavy: parameters are checked before any work. A new captioner is a record in `CAPTIONERS` with its
settings as a block of `Caption`, its module, its test, and that block in params.yaml.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from etude.core.params import Location, Schema, among, refuse_twice

NONE = "none"  # no captioner

Phrase = Annotated[str, Field(min_length=1, pattern=r"^\S(.*\S)?$")]
Template = Annotated[str, Field(pattern=r"\{\}")]


@dataclass(frozen=True)
class Captioner:
    """What describes a picture that nobody named.

    ``module`` has a function ``describe_pictures``. It takes paths of pictures, all of `caption`, and the device, and
    gives a caption for each picture; it raises EtudeError where the model or the settings cannot be used.
    """

    kind: str  # as `caption.captioner` and captions.json call it
    name: str  # as people call it
    module: str

    def describe(self, pictures: Iterable[Path], settings: Caption, device: str) -> list[str]:
        """A caption for each of ``pictures``, which are files."""
        texts: list[str] = import_module(self.module).describe_pictures(pictures, settings, device)
        return texts


CAPTIONERS = {captioner.kind: captioner for captioner in [Captioner("clip", "CLIP", "etude.captions.zero_shot")]}


def _known(kind: str) -> str:
    """Raises ValueError for what is no captioner at the time of asking: a record may have been added."""
    return among("captioner", [*CAPTIONERS, NONE])(kind)


Kind = Annotated[str, AfterValidator(_known), Field(json_schema_extra={"enum": [*CAPTIONERS, NONE]})]


class Caption(Schema):
    """Where the captions of a set come from."""

    former_keys: ClassVar = {"clip": "model"}
    added_keys: ClassVar = {"existing": "replace"}

    existing: Literal["replace", "prepend", "append", "ignore"] = Field(
        description="captions that exist: they replace the captioner's, stand before or behind it, or are ignored"
    )
    file_names: bool = Field(description="use the words of a file's name where no other caption exists")
    captioner: Kind = Field(description="what describes a picture that has no caption")
    model: Location = Field(description="the folder of the captioner's model: for clip, a CLIP")
    words: Location = Field(description="a text file: the words that clip chooses among, one a line")
    templates: list[Template] = Field(min_length=1, description="the sentences in which clip reads a word, at {}")
    top: int = Field(ge=1, le=20, description="how many words clip puts in a caption, the most likely first")
    styles: list[Phrase] = Field(description="phrases of which the best fitting begins the caption; may be empty")
    backgrounds: list[Phrase] = Field(description="phrases of which the best fitting ends it; may be empty")
    prefix: str = Field(description="text before every caption")
    suffix: str = Field(description="text after every caption")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        refuse_twice(templates=self.templates, styles=self.styles, backgrounds=self.backgrounds)
        return self
