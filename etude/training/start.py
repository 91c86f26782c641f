"""What training continues from: the ``start`` of a method's params.yaml, and whether it fits what is learned now.

The stage *start* reads it, whatever its format, and writes it in the common form, on which the build depends. So a
changed reader of formats causes a new build only if its result differs. Importing this module imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from etude.core.artifact import facts_of
from etude.core.errors import InputError
from etude.core.params import Location, Schema
from etude.core.tensors import read_header

if TYPE_CHECKING:
    from torch import Tensor, nn

NOTHING = "models/none"  # a file that always exists: a dependency in DVC cannot be optional
FILE = "start.safetensors"
DELTA = ".delta"  # end of the name of a difference to the base's weight
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Start:
    """An artifact, or a file of another program in the common form; its tensors are read when they are needed."""

    source: str  # as params.yaml names it
    path: Path

    @property
    def facts(self) -> dict[str, Any]:
        """Its facts."""
        return facts_of(self.path)

    @cached_property
    def shapes(self) -> Shapes:
        """The shape of each tensor; a difference to a weight has the weight's name."""
        header = read_header(self.path)
        header.pop("__metadata__", None)
        return {name.removesuffix(DELTA): tuple(entry["shape"]) for name, entry in header.items()}

    def copy_into(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy the start into ``tensors``, one after the other; a difference is added to the present value.

        Tensors that only the start has are left out. Raises InputError if one is missing or has another shape.
        """
        import torch
        from safetensors import safe_open

        wanted = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        for fault in shape_faults(self.shapes, wanted, lambda _: True):
            raise unfit(self.source, fault)
        with safe_open(self.path, "pt") as file, torch.no_grad():
            for name in file.keys():  # noqa: SIM118  # the file has no iterator
                own = tensors.get(name.removesuffix(DELTA))
                if own is not None:
                    value = file.get_tensor(name).to(own)
                    own.copy_(own + value if name.endswith(DELTA) else value)


class Starts(Schema):
    """A method whose training can continue from an artifact, or from a file of another program."""

    added_keys: ClassVar = {"start": NOTHING}

    start: Location = Field(
        description="what learning goes on from: an artifact, or a file of any format; "
        f"{NOTHING}: training starts from scratch"
    )

    def sources(self) -> dict[str, str]:
        """The start, which the stage *start* reads."""
        return {"start": self.start}

    def misfits(self, start: Start, parts: Mapping[str, nn.Module]) -> Iterator[str]:
        """The reasons why ``start`` does not fit these params, each with both values.

        ``parts``: UNet and text encoders of the base by their names in artifacts, without values (meta device).
        """
        raise NotImplementedError


class StartsWhole(Starts):
    """A method that trains the base's own weights, and can begin with those of another model."""

    def trains(self, weight: str) -> bool:
        """Whether this weight of the base is trained: see `MethodParams.trains`."""
        raise NotImplementedError

    def misfits(self, start: Start, parts: Mapping[str, nn.Module]) -> Iterator[str]:
        """The trained weights are compared by name and shape; other tensors of a whole model are left out."""
        whole = any(name.startswith("vae.") for name in start.shapes)
        yield from shape_faults(start.shapes, weights(parts, self.trains), lambda _: whole)


def load_start(params: Schema, folder: Path) -> Start | None:
    """What the stage *start* wrote to ``folder``; None for a method that starts from scratch."""
    if not isinstance(params, Starts) or params.start == NOTHING:
        return None
    return Start(params.start, folder / FILE)


def refuse_unfit(params: Schema, start: Start | None, base: Path, family: str) -> None:
    """Raise InputError if training cannot continue from ``start`` with this base, whose weights are not read."""
    if start is None or not isinstance(params, Starts):
        return
    own = start.facts.get("family", family)
    if own != family:
        raise unfit(start.source, f"was made for a base of {own}, but the base {base} is {family}")
    for fault in params.misfits(start, _empty_parts(base, family)):
        raise unfit(start.source, fault)


def unfit(source: str, fault: str) -> InputError:
    """The error for a start that does not fit."""
    action = f"change the params so that they fit this file, or set `start` to another file, or to {NOTHING}"
    return InputError(source, fault, action)


def shape_faults(found: Shapes, wanted: Shapes, may_have: Callable[[str], bool] = lambda _: False) -> Iterator[str]:
    """How a start's tensors differ from the ``wanted`` ones; it may also have those for which ``may_have`` holds."""
    lacking = [name for name in wanted if name not in found]
    if lacking:
        yield f"lacks {len(lacking)} of the {len(wanted)} tensors that this run learns, such as `{lacking[0]}`"
    for name in wanted:
        if name in found and found[name] != wanted[name]:
            yield f"its `{name}` has the shape {list(found[name])}, and this run needs {list(wanted[name])}"
    others = [name for name in found if name not in wanted and not may_have(name)]
    if others:
        yield f"has {len(others)} tensors that this run does not learn, such as `{others[0]}`"


def weights(parts: Mapping[str, nn.Module], chosen: Callable[[str], bool]) -> dict[str, tuple[int, ...]]:
    """Name and shape of the ``chosen`` weights of a base."""
    from etude.diffusion.weights import parameters_of

    shapes: dict[str, tuple[int, ...]] = {}
    for part, module in parts.items():
        named = parameters_of(part, module).items()
        shapes |= {name: tuple(parameter.shape) for name, parameter in named if chosen(name)}
    return shapes


def rows(parts: Mapping[str, nn.Module], count: int, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Name and shape of the rows of a word: ``count`` of them for each text encoder."""
    shapes: dict[str, tuple[int, ...]] = {}
    for part, module in parts.items():
        if part != "unet":
            encoder: Any = module
            shapes[prefix + part] = (count, int(encoder.config.hidden_size))
    return shapes


def _empty_parts(base: Path, family: str) -> dict[str, Any]:
    """The UNet and the text encoders of a base as its configuration describes them, without values."""
    from etude.base.single import config_folder
    from etude.base.whole import empty_model
    from etude.core.families import FAMILIES

    record, configs = FAMILIES[family], config_folder(base, family) if base.is_file() else base
    names = ["unet", *(encoder.part for encoder in record.text_encoders)]
    return {part: empty_model(base, configs / part, record, part) for part in names}
