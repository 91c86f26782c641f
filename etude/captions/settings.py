"""The `caption` block of params.yaml. Imports nothing heavy: parameters are checked before any work."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from etude.core.params import Location, Schema, refuse_twice

Phrase = Annotated[str, Field(min_length=1, pattern=r"^\S(.*\S)?$")]
Template = Annotated[str, Field(pattern=r"\{\}")]


class Caption(Schema):
    """Where the captions of a set come from. A ``.txt`` beside a picture always comes first."""

    file_names: bool = Field(description="use the words of a file's name where there is no .txt")
    captioner: Literal["clip", "none"] = Field(description="what describes a picture that has neither")
    clip: Location = Field(description="the CLIP folder that the captioner looks with")
    words: Location = Field(description="a text file: the words that it chooses among, one a line")
    templates: list[Template] = Field(min_length=1, description="the sentences in which CLIP reads a word, at {}")
    top: int = Field(ge=1, le=20, description="how many words it puts in a caption, the most likely first")
    styles: list[Phrase] = Field(description="phrases of which the best fitting begins the caption; may be empty")
    backgrounds: list[Phrase] = Field(description="phrases of which the best fitting ends it; may be empty")
    prefix: str = Field(description="text before every caption")
    suffix: str = Field(description="text after every caption")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        refuse_twice(templates=self.templates, styles=self.styles, backgrounds=self.backgrounds)
        return self
