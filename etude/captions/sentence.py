"""Settings of the models that describe a picture in a sentence. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from etude.core.params import Count, Schema


class Sentence(Schema):
    """How a model (BLIP, BLIP-2, GIT, Florence-2, a vision-language model) describes a picture."""

    prompt: str = Field(
        description="what the model is asked, or how its sentence begins; for Florence-2 a task such as "
        "<MORE_DETAILED_CAPTION>; may be empty"
    )
    beams: int = Field(ge=1, le=64, description="sentences that the search keeps at each token; 1: the likeliest token")
    min_length: int = Field(ge=0, le=10_000, description="tokens of a sentence at least; 24 in A1111's BLIP")
    max_length: int = Field(ge=1, le=10_000, description="tokens of a sentence at most; 48 in A1111's BLIP")
    precision: Literal["fp32", "fp16", "bf16"] = Field(
        description="the numbers that a GPU computes with; a CPU takes fp32"
    )
    batch: Count = Field(
        description="pictures that the model sees at once; the last digits of its numbers depend on it"
    )

    @model_validator(mode="after")
    def _least_and_most(self) -> Self:
        if self.min_length > self.max_length:
            raise ValueError(f"`min_length` {self.min_length} is more than `max_length` {self.max_length}")
        return self
