"""Strict parameters: all faults are reported at once, with the file, the key and the nearest known name.

YAML is read as 1.2, as DVC reads it (``1e-4`` is a number). Nothing here imports torch.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from etude.core.errors import ParamsError
from etude.core.files import file_name_fault
from etude.core.yaml import SHOWN, read_yaml, shortened

__all__ = ["read_yaml"]  # reads a whole file, unchecked


class Schema(BaseModel):
    """A block of parameters. Unknown keys are refused, values are not converted, and nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    # renamed keys and values: errors name the new one, and `etude migrate` writes it
    former_keys: ClassVar[Mapping[str, str]] = {}  # old key → key, or `block.key` for one that was moved into a block
    # removed keys → the value with which nothing changes if the key is deleted
    gone_keys: ClassVar[Mapping[str, Any]] = {}
    former_values: ClassVar[Mapping[str, Mapping[str, str]]] = {}  # key → old value → value
    listed_keys: ClassVar[tuple[str, ...]] = ()  # keys whose value became a list: `etude migrate` writes the list
    refused_keys: ClassVar[Mapping[str, str]] = {}  # keys of similar blocks → why this block has no such key
    # keys that are new since the last release, each with the value that keeps the old behaviour
    added_keys: ClassVar[Mapping[str, Any]] = {}


Part = Literal["unet", "vae", "text"]  # of a base

# Numbers and texts of several schemas. Each has bounds: a value outside has no meaning, or the work would never end.
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # torch allows 64 bits; further pictures have the following seeds
Steps = Annotated[int, Field(ge=1, le=10_000_000)]  # of training
Count = Annotated[int, Field(ge=1, le=10_000)]  # of pictures: in a batch, or in total
Rate = Annotated[float, Field(gt=0, le=100)]  # a learning rate
Scale = Annotated[float, Field(ge=0, le=100)]  # of guidance, or the weight of one term against another
Words = Annotated[str, Field(pattern=r"\S", description="one word or more")]
SetName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$", description="small letters, digits and _")]


def _something(path: str) -> str:
    """``path``; raises ValueError for the project's folder and its parents: a stage would read all of it."""
    if set(PurePosixPath(normpath(path)).parts) <= {"/", ".."}:
        raise ValueError(f"{path!r} is the project's folder or a parent of it: write a folder in the project")
    return path


Location = Annotated[  # no ~: only a shell replaces it, and these paths do not pass through a shell
    str,
    Field(pattern=r"^[^\s~-]([^\n]*\S)?$", description="a path that does not begin with a space, - or ~"),
    AfterValidator(_something),
]


def among(kind: str, names: Iterable[str]) -> Callable[[str], str]:
    """A validator for a text that must be one of ``names``; ``kind`` is what the error calls them, such as "metric"."""
    known = list(names)

    def check(name: str) -> str:
        if name not in known:
            raise ValueError(f"there is no {kind} `{shortened(name)}`{nearest(name, known)}")
        return name

    return check


def callable_by(text: str) -> str:
    """A word that files are named after; raises ValueError if no file can be named after it."""
    if fault := file_name_fault(text):
        raise ValueError(f"{text!r} {fault}, as A1111 needs")
    return text


class Learned(Schema):
    """The keys of every method's params.yaml that say what is learned."""

    set: SetName = Field(description="the image set to learn from: a key of `sets`")
    name: str = Field(
        min_length=1,
        max_length=64,
        pattern=r"^[^\s\[\]]+( [^\s\[\]]+)*$",
        description="the word, or words, for what is learned, without [ or ]",
    )
    trigger: bool = Field(description="whether prompts need the name; false: every picture shows what was learned")

    @field_validator("name")
    @classmethod
    def _names_files(cls, name: str) -> str:
        return callable_by(name)

    @property
    def word(self) -> str:
        """The text that replaces [name] in prompts, captions and templates."""
        return self.name if self.trigger else ""


class MethodParams(Learned):
    """The keys of every method's params.yaml."""

    needs_class: ClassVar[bool] = False  # whether `pointed` needs the class, such as dog

    export: Literal["best", "final", "all"] = Field(description="which checkpoints are exported for other programs")

    def recipe(self) -> dict[str, Any]:
        """The values on which a build depends, as JSON: all but `export`."""
        return self.model_dump(mode="json", exclude={"export"})

    def image_sets(self) -> list[str]:
        """Every image set that the method reads: keys of `sets`."""
        return [self.set]

    def sources(self) -> dict[str, str]:
        """Every model that the method reads, except the project's own: key in params.yaml → path."""
        return {}

    @property
    def base_parts(self) -> tuple[Part, ...]:
        """The parts of the base that `build` needs; for previews all parts are loaded."""
        return ("unet", "text")

    @property
    def step_parts(self) -> tuple[Part, ...]:
        """The parts of the base that each step of `build` uses.

        The others wait on the host; text encoders among them are freed before the first step.
        """
        return ("unet", "text")

    def trains(self, weight: str) -> bool:
        """Whether `build` trains this weight of the base itself, by its name in artifacts: it is loaded in float32."""
        return False

    @property
    def class_word(self) -> str:
        """The class of what is learned, such as dog, if params.yaml contains it; else empty."""
        return ""

    def pointed(self, images: str, word: str, kind: str) -> dict[str, Any]:
        """The changed keys that make the method learn ``word``, of the class ``kind``, from the image set ``images``.

        ``kind`` may be empty, except for a method with `needs_class`.
        """
        return {"set": images, "name": word}


S = TypeVar("S", bound=Schema)
REPORTED = 20  # faults of a file that are reported


def classed(text: str, before: str, kind: str) -> str:
    """``text`` with the class ``before`` replaced by ``kind``, and the article adapted: an eagle → a dog."""
    if not before:
        return text
    article = "an" if kind[:1].lower() in "aeiou" else "a"
    text = re.sub(rf"\ban? (?={re.escape(before)}(?!\w))", f"{article} ", text)
    return re.sub(rf"(?<!\w){re.escape(before)}(?!\w)", lambda _: kind, text)


def new_keys(model: type[Schema]) -> dict[str, Any]:
    """The keys of a block that are new since the last release, with those of the classes from which it derives."""
    classes = [each for each in model.__mro__ if issubclass(each, Schema)]
    return {key: value for each in reversed(classes) for key, value in vars(each).get("added_keys", {}).items()}


def image_folder(name: str) -> Path:
    """The folder of an image set, from params.yaml; raises ParamsError."""
    sets = read_yaml("params.yaml").get("sets")
    folders = sets if isinstance(sets, dict) else {}
    if not isinstance(folders.get(name), str):
        raise ParamsError(
            "params.yaml", f"`sets` has no folder `{name}`{nearest(name, map(str, folders))}", "correct `sets`"
        )
    return Path(folders[name])


def load(path: Path | str, schema: type[S]) -> S:
    """Read and check a whole params file; raises one ParamsError that lists every fault."""
    return validate(read_yaml(path), schema, path)


def pick(path: Path | str, schema: type[S]) -> S:
    """The keys of ``schema`` in a params file, checked; a stage reads only these, so that it depends on no others."""
    data = read_yaml(path)
    return validate({name: data[name] for name in schema.model_fields if name in data}, schema, path)


def validate(data: Mapping[str, Any], schema: type[S], path: Path | str) -> S:
    """``data`` as ``schema``; raises ParamsError with all faults, which names ``path``."""
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        raise _params_error(error.errors(), schema, path) from None


def _params_error(details: list[ErrorDetails], schema: type[BaseModel], path: Path | str) -> ParamsError:
    """One error with all faults. Renamed keys come first, and are not reported again as missing keys."""
    renamed, rest, added = [], [], False
    for detail in details:
        if renaming := _renamed(detail, schema):
            renamed.append(renaming)
        else:
            rest.append(detail)
            added |= _is_new(detail, schema)
    renamed_keys = {key for _, key in renamed}
    others = [detail for detail in rest if not (detail["type"] == "missing" and _dotted(detail) in renamed_keys)]
    texts = [*(text for text, _ in renamed), *(_fault(detail, schema) for detail in others)]
    faults = [shortened(text, 10 * SHOWN) for text in texts[:REPORTED]]
    faults += [f"{len(texts) - REPORTED} more"] if len(texts) > REPORTED else []
    many = "" if len(texts) == 1 else f"{len(texts)} faults: "
    action = "correct the file; its comments list the choices"
    if renamed or added:
        does = " and ".join(["writes the new names"] * bool(renamed) + ["adds the new keys"] * added)
        left = [detail for detail in others if not _is_new(detail, schema)]
        action = f"run `etude migrate`, which {does}" + (", and correct the rest" if left else "")
    return ParamsError(path, many + "; ".join(faults).replace("?; ", "? "), action)


def _dotted(detail: ErrorDetails) -> str:
    return ".".join(map(str, detail["loc"]))


def _is_new(detail: ErrorDetails, schema: type[BaseModel]) -> bool:
    """Whether a fault is that a new key is missing."""
    blocks = models_at(schema, detail["loc"][:-1]) if detail["type"] == "missing" else []
    return any(issubclass(block, Schema) and str(detail["loc"][-1]) in new_keys(block) for block in blocks)


def _renamed(detail: ErrorDetails, schema: type[BaseModel]) -> tuple[str, str] | None:
    """A sentence for a key that is renamed or gone, or a renamed value, and the key; None for any other fault."""
    *block, name = map(str, detail["loc"] or ("",))
    where = ".".join([*block, name])
    for model in models_at(schema, detail["loc"][:-1]):
        if not issubclass(model, Schema):
            continue
        key = model.former_keys.get(name, "")
        if key and (detail["type"] == "extra_forbidden" or _was_no_block(detail, key)):
            now = ".".join([*block, key])
            return f"`{where}` is called `{now}` now", now
        if name in model.gone_keys and detail["type"] == "extra_forbidden":
            return f"`{where}` is gone", where
        if value := model.former_values.get(name, {}).get(str(detail["input"])):
            return f"`{where}: {detail['input']}` is called `{value}` now", where
    return None


def _was_no_block(detail: ErrorDetails, key: str) -> bool:
    """Whether a single value has a key that is the name of a block now."""
    return detail["type"] == "model_type" and key.startswith(f"{detail['loc'][-1]}.")


def _fault(detail: ErrorDetails, schema: type[BaseModel]) -> str:
    where, value = (
        shortened(".".join(str(part) for part in detail["loc"] if part != "[key]")),
        shortened(repr(detail["input"])),
    )
    if detail["type"] == "value_error":
        return ": ".join(filter(None, [where, str(detail["ctx"]["error"])]))
    where = where or "(whole file)"
    if detail["type"] == "extra_forbidden":
        name, block = str(detail["loc"][-1]), detail["loc"][:-1]
        models = [model for model in models_at(schema, block) if issubclass(model, Schema)]
        if reason := next((model.refused_keys[name] for model in models if name in model.refused_keys), None):
            return f"there is no `{where}` here: {reason}"
        return f"unknown key `{where}`{nearest(name, _keys_at(schema, block))}"
    if detail["type"] == "missing":
        return f"`{where}` is missing"
    if detail["type"] in ("too_short", "string_too_short"):
        return f"`{where}` needs {detail['ctx']['min_length']} or more, not {value}"
    if detail["type"] == "string_pattern_mismatch":
        pattern = detail["ctx"]["pattern"]
        if wanted := _description(schema, detail["loc"], pattern):
            return f"`{where}` is {value}, which does not fit `{pattern}`: {wanted}"
    return f"`{where}` {detail['msg'][0].lower()}{detail['msg'][1:]}, not {value}"


def refuse_twice(**lists: Iterable[object]) -> None:
    """Raises ValueError if a list contains a value twice; each argument's name is the key of its list."""
    for key, values in lists.items():
        earlier: list[object] = []
        for value in values:
            if value in earlier:
                raise ValueError(f"`{key}` holds {value!r} twice")
            earlier.append(value)


def nearest(name: str, known: Iterable[str]) -> str:
    """``, did you mean `rank`?`` if a known name is similar; else the list of known names."""
    known = sorted(known)
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if match:
        return f", did you mean `{match[0]}`?"
    return f" (known: {', '.join(known)})" if known else ""


def _description(schema: type[BaseModel], location: tuple[int | str, ...], pattern: str) -> str:
    """The description of the innermost field around ``location``, or of the type in it that has this pattern."""
    models, description = [schema], ""
    for part in location:
        for field in [model.model_fields[str(part)] for model in models if str(part) in model.model_fields]:
            inner = [info.description for info in _infos(field.annotation) if pattern in map(_pattern, info.metadata)]
            description = next(filter(None, inner), None) or field.description or description
            models = _models(field.annotation) or models
    return description


def _infos(annotation: Any) -> list[FieldInfo]:
    """The FieldInfo of each type in an annotation."""
    own = [info for info in getattr(annotation, "__metadata__", ()) if isinstance(info, FieldInfo)]
    return own + [info for inner in get_args(annotation) for info in _infos(inner)]


def _pattern(metadata: Any) -> str | None:
    return getattr(metadata, "pattern", None)


def _keys_at(schema: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys of the block at ``location``."""
    return sorted({name for model in models_at(schema, location) for name in model.model_fields})


def models_at(schema: type[BaseModel], location: tuple[int | str, ...]) -> list[type[BaseModel]]:
    """The schemas that the block at ``location`` may have."""
    models = [schema]
    for part in location:
        annotations = [getattr(model.model_fields.get(str(part)), "annotation", None) for model in models]
        models = [inner for annotation in annotations for inner in _models(annotation)] or models
    return models


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in getattr(annotation, "__args__", ()) for model in _models(inner)]
