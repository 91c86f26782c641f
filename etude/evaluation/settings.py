"""The ``evaluate`` block of params.yaml: what is measured, and which checkpoint is the best."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from etude.core.errors import InputError
from etude.core.params import Count, Location, Schema, Seed, among, refuse_twice
from etude.metrics import BY_KEY, CLASSIFIER

MetricKey = Annotated[str, AfterValidator(among("metric", BY_KEY)), Field(json_schema_extra={"enum": list(BY_KEY)})]


class Best(Schema):
    """The rule that chooses the best checkpoint: the one with the largest or smallest value of a metric.

    Of several with the same value, it is the earliest.
    """

    former_values: ClassVar = {"metric": {"truth_similarity": "heldout_similarity"}}

    metric: MetricKey
    direction: Literal["max", "min"]

    @model_validator(mode="after")
    def _better(self) -> Self:
        better = {"higher": "max", "lower": "min", "": self.direction}[BY_KEY[self.metric].better]
        if self.direction != better:
            raise ValueError(f"`direction: {self.direction}` would choose the worst `{self.metric}`: write `{better}`")
        return self


class Validation(Schema):
    """The validation loss. Its noise and timesteps are fixed: they are the same for all checkpoints and methods."""

    prompt: str = Field(description="the prompt; [name] is the method's name")
    images: Count = Field(description="largest number of training pictures, evenly chosen")
    timesteps: list[Annotated[int, Field(ge=0, le=999)]] = Field(min_length=1)
    seed: Seed


class Evaluate(Schema):
    """How checkpoints are measured."""

    former_keys: ClassVar = {"truths": "heldout", "judge": "classifier", "judging": "classify"}

    clip: Location = Field(description="the folder of the CLIP used for measuring")
    heldout: Location = Field(description="folder that may contain <set>-heldout: pictures to measure against")
    classifier: Location = Field(description="folder of the classifier that names concept, style and background")
    classify: bool = Field(description="whether pictures are classified, for sets with held-out pictures")
    seeds: list[Seed] = Field(min_length=1, max_length=1000, description="one picture for each prompt and seed")
    name: str = Field(description="the word that CLIP reads instead of [name]; empty: none")
    best: Best
    validation: Validation

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        refuse_twice(**{"seeds": self.seeds, "validation.timesteps": self.validation.timesteps})
        if CLASSIFIER in BY_KEY[self.best.metric].needs and not self.classify:
            raise ValueError(
                f"`best.metric: {self.best.metric}` needs the classifier: write `classify: true`, or another metric"
            )
        return self

    def heldout_folder(self, name: str, root: Path = Path()) -> Path:
        """The folder for held-out pictures of the image set ``name``, which may not exist; ``root``: project's folder.

        The folder may also be called <set>-truth, as before 0.2. Raises InputError if both exist.
        """
        folder, earlier = (root / self.heldout / f"{name}-{end}" for end in ("heldout", "truth"))
        if folder.is_dir() and earlier.is_dir():
            fault = f"may contain the held-out pictures of `{name}`, but {folder} exists too"
            raise InputError(earlier, fault, f"move its pictures to {folder}, and remove it")
        return earlier if earlier.is_dir() else folder
