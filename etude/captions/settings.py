"""The captioners, and the `caption` block of params.yaml that chooses them.

Imports nothing heavy: parameters are checked before any work. A new captioner is a record in `CAPTIONERS`, its module,
its test, and, if it has settings that no other captioner has, a block of `Caption` for these in params.yaml.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from etude.captions.sentence import Sentence
from etude.captions.tags import Tags
from etude.core.params import Location, Schema, among, refuse_twice

NONE = "none"  # no captioner
MODELS = Path("data/captioners")  # digests of the captioners' models, a dep of *caption*

# The settings of kohya's script: the defaults of params files without the block `tags`.
KOHYA = {
    "general": 0.35,
    "character": 0.35,
    "deepdanbooru": 0.5,
    "resize": "area",
    "categories": ["general", "character"],
    "rating": "none",
    "undesired": [],
    "replacements": {},
    "expand": False,
    "underscores": "kohya",
    "escape": "none",
    "order": "table",
    "characters": "last",
    "first": [],
    "ranks": False,
    "limit": 0,
    "batch": 8,
}
# The settings of A1111's BLIP, but with the most likely words: A1111 draws words at random.
BLIP = {"prompt": "", "beams": 1, "min_length": 24, "max_length": 48, "precision": "fp32", "batch": 8}

Phrase = Annotated[str, Field(min_length=1, pattern=r"^\S(.*\S)?$")]
Template = Annotated[str, Field(pattern=r"\{\}")]


@dataclass(frozen=True)
class Captioner:
    """What describes a picture that has no caption.

    ``module`` has four functions. ``describe_pictures`` takes paths of pictures, the folder or file of the model, the
    block of `caption` with the settings, and the device. It yields a caption for each picture, which depends on this
    picture alone, and raises EtudeError if the model or the settings cannot be used. ``refuse_missing`` takes the model
    and raises EtudeError if a package or a file of it is missing; it takes at most a second. Two functions are for
    `etude base`: ``recognises`` says whether a folder is such a model; ``check_model`` opens it, and raises EtudeError
    if that fails.
    """

    kind: str  # its name in `caption.captioners` and captions.json
    name: str  # its name for people
    settings: str  # the block of `caption`
    module: str

    def describe(self, pictures: Iterable[Path], caption: Caption, device: str) -> Iterator[str]:
        """A caption for each of ``pictures``, which are files."""
        describe_pictures = import_module(self.module).describe_pictures
        model = Path(caption.captioners[self.kind])
        yield from describe_pictures(pictures, model, getattr(caption, self.settings), device)

    def refuse_missing(self, caption: Caption) -> None:
        """Raise EtudeError if a package that the captioner needs is missing, or a file of its model."""
        import_module(self.module).refuse_missing(Path(caption.captioners[self.kind]))

    def recognises(self, model: Path) -> bool:
        """Whether the files in the folder ``model`` are those of a model for this captioner, and for nothing else."""
        found: bool = import_module(self.module).recognises(model)
        return found

    def check_model(self, model: Path) -> None:
        """Open a model that `recognises` knows. Raises EtudeError."""
        import_module(self.module).check_model(model)


_LIST = [
    Captioner("clip", "CLIP", "words", "etude.captions.zero_shot"),
    Captioner("wd14", "WD14", "tags", "etude.captions.wd14"),
    Captioner("deepdanbooru", "DeepDanbooru", "tags", "etude.captions.deepdanbooru"),
    Captioner("transformers", "an image-to-text model", "sentence", "etude.captions.transformer"),
]
CAPTIONERS = {captioner.kind: captioner for captioner in _LIST}


def _known(kind: str) -> str:
    """Raises ValueError for an unknown captioner. CAPTIONERS is read at each call, because a record may be added."""
    return among("captioner", CAPTIONERS)(kind)


Kind = Annotated[str, AfterValidator(_known), Field(json_schema_extra={"enum": list(CAPTIONERS)})]


class Words(Schema):
    """The words and phrases among which CLIP chooses."""

    file: Location = Field(description="a text file: the words that clip chooses among, one a line")
    templates: list[Template] = Field(min_length=1, description="the sentences in which clip reads a word, at {}")
    top: int = Field(ge=1, le=20, description="how many words clip puts in a caption, the most likely first")
    styles: list[Phrase] = Field(description="phrases of which the best fitting begins the caption; may be empty")
    backgrounds: list[Phrase] = Field(description="phrases of which the best fitting ends it; may be empty")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        refuse_twice(templates=self.templates, styles=self.styles, backgrounds=self.backgrounds)
        return self


class Caption(Schema):
    """Where the captions of a set come from."""

    former_keys: ClassVar = {
        "clip": "captioners.clip",
        "model": "captioners.clip",
        "words": "words.file",
        "templates": "words.templates",
        "top": "words.top",
        "styles": "words.styles",
        "backgrounds": "words.backgrounds",
    }
    gone_keys: ClassVar = {"captioner": "clip"}
    added_keys: ClassVar = {"existing": "replace", "tags": KOHYA, "sentence": BLIP}

    existing: Literal["replace", "prepend", "append", "ignore"] = Field(
        description="captions that exist: they replace the captioners', stand before or behind them, or are ignored"
    )
    file_names: bool = Field(description="use the words of a file's name where no other caption exists")
    captioners: dict[Kind, Location] = Field(
        description="what describes a picture that has no caption, in this order: kind: its model; {}: nothing does"
    )
    words: Words = Field(description="the words that clip chooses among")
    tags: Tags = Field(description="which tags a tagger names, and how they are written")
    sentence: Sentence = Field(description="how an image-to-text model describes a picture")
    prefix: str = Field(description="text before every caption")
    suffix: str = Field(description="text after every caption")
