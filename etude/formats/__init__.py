"""The files of other programs: tensor dictionaries in, files out, and back. No model is imported.

A folder is a kind of content; its docstring describes the common form of that content. A module in it is a format: the
folders are the registry. Every format has ``recognise(keys, metadata)``, ``read(path)`` and ``write(artifact, draft)``.
If its files hold whole models, ``write`` also has an argument ``frame``, with the rest of the model. Code that several
formats share is beside the folders.

If two formats may recognise the same file, one names the other in ``AFTER`` and is asked after it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.factors import refuse_overflow
from etude.core.files import Draft
from etude.core.model_folders import paths_in
from etude.core.pickles import pickle_keys
from etude.core.tensors import read_header
from etude.formats.checkpoints import Frame
from etude.formats.embedding import embedding_image
from etude.formats.resembling import described

_MODULES = sorted(Path(__file__).parent.glob("*/[!_]*.py"))
COMMON = ("kohya's LoRA", "A1111's embedding", "an LDM or diffusers checkpoint")  # what every program can write
FORMATS = {module.stem: module.parent.name for module in _MODULES}  # name → kind


class Format(Protocol):
    """What the module of a format offers."""

    def recognise(self, keys: Collection[str], metadata: Mapping[str, str]) -> bool:
        """Whether a file with these tensor names and metadata has this format."""

    def read(self, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors in the common form, and facts from the file; raises FormatError."""

    @property
    def write(self) -> Callable[..., list[Path]]:
        """``write(artifact, draft[, frame])``: fill the draft of a folder; equal artifacts give equal bytes."""


def load_format(name: str) -> Format:
    """The module ``etude.formats.<kind>.<name>``; raises FormatError when there is none."""
    if name not in FORMATS:
        raise FormatError(name, "is not a format of Étude", f"give one of {', '.join(FORMATS)}")
    return cast("Format", import_module(f"etude.formats.{FORMATS[name]}.{name}"))


Read = Callable[[Path], tuple[dict[str, Tensor], dict[str, Any]]]
WHOLE = "checkpoint"  # the kind whose files are whole models


def read(name: str, path: Path, whole: Read | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors in the common form and facts of a file of the format ``name``; all errors are EtudeErrors.

    ``whole`` reads whole models, and refuses incomplete ones (`etude.base.whole.read_model`).
    """
    try:
        tensors, facts = whole(path) if whole and FORMATS[name] == WHOLE else load_format(name).read(path)
    except OSError as error:
        fault = f"cannot be read ({error.strerror or type(error).__name__})"
        raise FormatError(path, fault, "check that it is there, and that you may read it") from error
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        reason = (str(error).strip().splitlines() or [""])[0][:80]
        fault = f"is damaged: it cannot be read as {name} ({type(error).__name__}: {reason})"
        raise FormatError(path, fault, "make or fetch it again") from error
    strange = [key for key, tensor in tensors.items() if not isinstance(tensor, Tensor)]
    if strange:
        fault = f"has a {type(tensors[strange[0]]).__name__} where the tensor `{strange[0][:80]}` should be"
        raise FormatError(path, fault, "make or fetch it again")
    return tensors, facts


def method_of(name: str) -> str:
    """The method whose `apply` uses the content of a file of the format ``name``."""
    return str(import_module(f"etude.formats.{FORMATS[name]}").METHOD)


def write(name: str, artifact: Artifact, draft: Draft, frame: Callable[[], Frame]) -> list[Path]:
    """Write an artifact in the format ``name``; ``frame`` is called only for formats that hold whole models."""
    module = load_format(name)
    if "alpha" in artifact.facts:
        refuse_overflow(str(artifact.facts.get("name", "LoRA")), artifact.tensors, artifact.facts)
    asked = "frame" in inspect.signature(module.write).parameters
    return module.write(artifact, draft, frame()) if asked else module.write(artifact, draft)


def identify(path: Path | str) -> str:
    """The name of a file's format, recognised by its keys; raises FormatError if it is none of FORMATS.

    The error describes the keys. The keys of a folder are the paths in it.
    """
    keys, metadata = keys_of(Path(path))
    for name in in_order():
        if load_format(name).recognise(keys, metadata):
            return name
    action = f"with the program that made it, save it in a format that Étude reads: {', '.join(COMMON)}"
    raise FormatError(path, f"has a format that Étude does not know: it holds {described(keys)}", action)


def keys_of(path: Path) -> tuple[list[str], dict[str, str]]:
    """What formats are recognised by: the keys and the metadata of a file; raises FormatError."""
    if path.is_dir():
        return paths_in(path), {}
    if path.suffix.lower() == ".safetensors":
        header = read_header(path)
        metadata = dict(header.pop("__metadata__", None) or {})
        return list(header), metadata
    if path.suffix.lower() in embedding_image.SUFFIXES:
        embedding_image.read_dictionary(path)
        return [embedding_image.CHUNK], {}
    return pickle_keys(path), {}


@cache
def in_order() -> tuple[str, ...]:
    """The formats in the order in which they are asked whether they recognise a file."""
    return tuple(TopologicalSorter({name: getattr(load_format(name), "AFTER", ()) for name in FORMATS}).static_order())
