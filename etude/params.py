"""Strict parameters: every fault at once, with the file, the key and the nearest known name.

YAML is read as 1.2, as DVC reads it (``1e-4`` is a number). Nothing here imports torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from etude.errors import ParamsError


class Schema(BaseModel):
    """A block of parameters: no unknown keys, no silent conversions, no change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Learned(Schema):
    """What every method's params.yaml says of what is learned."""

    set: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="the image set to learn from: a key of `sets`")
    name: str = Field(
        min_length=1, max_length=64, pattern=r"^\S+( \S+)*$", description="the word, or words, for what is learned"
    )
    trigger: bool = Field(description="whether texts say the name; without, what is learned shows in every picture")

    @property
    def word(self) -> str:
        """What stands for [name] in prompts, captions and templates."""
        return self.name if self.trigger else ""


class MethodParams(Learned):
    """What every method's params.yaml has."""

    export: Literal["best", "final", "all"] = Field(description="which checkpoints are written for other programs")

    def recipe(self) -> dict[str, Any]:
        """The values that a build depends on, as JSON; what is exported of it afterwards is none of them."""
        return self.model_dump(mode="json", exclude={"export"})

    def image_sets(self) -> list[str]:
        """Every image set that the method reads: keys of `sets`."""
        return [self.set]

    def sources(self) -> dict[str, str]:
        """Every model that the method reads besides the project's: the key that names it, and its path."""
        return {}


S = TypeVar("S", bound=Schema)


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The mapping in a YAML 1.2 file; raises ParamsError for anything else."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ParamsError(path, "is missing", f"restore it with `git checkout -- {path}`") from None
    except UnicodeDecodeError as error:
        raise ParamsError(path, f"is not text in UTF-8 (byte {error.start})", "save it as UTF-8") from None
    try:
        data = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        place = getattr(error, "problem_mark", None)
        where = f"{path}:{place.line + 1}" if place else path
        raise ParamsError(where, f"is not YAML ({getattr(error, 'problem', error)})", "mend that line") from error
    if not isinstance(data, dict):
        raise ParamsError(path, "holds no mapping of keys to values", "write `key: value` lines")
    return data


def load(path: Path | str, schema: type[S]) -> S:
    """Read and check a whole params file; raises one ParamsError that lists every fault."""
    return validate(read_yaml(path), schema, path)


def pick(path: Path | str, schema: type[S]) -> S:
    """A stage's view of a params file: only the keys of ``schema``, so that it depends on no others."""
    data = read_yaml(path)
    return validate({name: data[name] for name in schema.model_fields if name in data}, schema, path)


def validate(data: Mapping[str, Any], schema: type[S], path: Path | str) -> S:
    """``data`` as ``schema``; ``path`` is named in the faults."""
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        faults = [_fault(detail, schema) for detail in error.errors()]
        many = "" if len(faults) == 1 else f"{len(faults)} faults: "
        raise ParamsError(path, many + "; ".join(faults), "correct the file; its comments tell the choices") from None


def _fault(detail: ErrorDetails, schema: type[BaseModel]) -> str:
    where = ".".join(str(part) for part in detail["loc"]) or "(whole file)"
    if detail["type"] == "extra_forbidden":
        return f"unknown key `{where}`{nearest(str(detail['loc'][-1]), _keys_at(schema, detail['loc'][:-1]))}"
    if detail["type"] == "missing":
        return f"`{where}` is missing"
    if detail["type"] == "value_error":
        return ": ".join(filter(None, [".".join(str(part) for part in detail["loc"]), str(detail["ctx"]["error"])]))
    if detail["type"] in ("too_short", "string_too_short"):
        return f"`{where}` needs {detail['ctx']['min_length']} or more, not {detail['input']!r}"
    if detail["type"] == "string_pattern_mismatch" and (wanted := _description(schema, detail["loc"])):
        return f"`{where}` is {detail['input']!r}, which does not fit `{detail['ctx']['pattern']}`: {wanted}"
    return f"`{where}` {detail['msg'][0].lower()}{detail['msg'][1:]}, not {detail['input']!r}"


def nearest(name: str, known: Iterable[str]) -> str:
    """``, did you mean `rank`?`` when a known name is near; else the list of known names."""
    known = sorted(known)
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if match:
        return f", did you mean `{match[0]}`?"
    return f" (known: {', '.join(known)})" if known else ""


def _description(schema: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """What the innermost field around ``location`` says of itself."""
    models, said = [schema], ""
    for part in location:
        for field in [model.model_fields[str(part)] for model in models if str(part) in model.model_fields]:
            said, models = field.description or said, _models(field.annotation) or models
    return said


def _keys_at(schema: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys that the block at ``location`` knows."""
    models = [schema]
    for part in location:
        models = [
            m for model in models for m in _models(getattr(model.model_fields.get(str(part)), "annotation", None))
        ] or models
    return sorted({name for model in models for name in model.model_fields})


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in getattr(annotation, "__args__", ()) for model in _models(inner)]
