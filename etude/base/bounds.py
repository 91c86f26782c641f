"""Bounds of a model's configuration, checked before a model is made of it: a wrong number could take all memory.

Names and types of the fields are those of diffusers' and transformers' own classes; the bounds are ours, a few times
what published models have.
"""

from __future__ import annotations

import inspect
import json
import math
import sys
import warnings
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from etude.base.libraries import ModelMixin
from etude.core.errors import BaseError, EtudeWarning

LARGEST = 8192  # of whole numbers: widths, heads, sizes
OTHERS = {  # the largest value of some fields
    "layers_per_block": 16,
    "transformer_layers_per_block": 64,
    "reverse_transformer_layers_per_block": 64,
    "num_hidden_layers": 64,
    "vocab_size": 10**6,
    "num_train_timesteps": 10**5,
    "steps_offset": 1,
}
# Class → field → allowed values: others would be ignored, or would fail only when a picture is drawn.
ONLY: dict[str, dict[str, tuple[Any, ...]]] = {
    "UNet2DConditionModel": {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "mid_block_type": ("UNetMidBlock2DCrossAttn", "UNetMidBlock2D", None),
        "downsample_padding": (1,),
        "conv_in_kernel": (3,),
        "conv_out_kernel": (3,),
        "dual_cross_attention": (False,),  # two texts
        "attention_type": ("default",),  # others need boxes or pictures
        "time_embedding_type": ("positional",),  # others take no whole numbers
        "resnet_time_scale_shift": ("default", "scale_shift"),
    },
    "AutoencoderKL": {"in_channels": (3,), "out_channels": (3,)},
    "CLIPTextConfig": {"return_dict": (True,), "is_encoder_decoder": (False,)},
}
LAYERS = 128  # of a UNet, on its way down; SDXL has 60
ENTRIES = {"trained_betas": 10**5}  # the most entries of a list; 16 in other lists
FROM_0 = {"freq_shift", "steps_offset", "chunk_size_feed_forward"}
FROM_0 |= {"transformer_layers_per_block", "reverse_transformer_layers_per_block"}  # a level without attention
ABOVE_0 = ("eps", "scale_factor", "scaling_factor")  # ends of the names of divisors
_LEVELS = ("block_out_channels", "down_block_types", "up_block_types")
ACTION = "fetch the model again, or correct the configuration"


def check_config(file: Path | str, config: Mapping[str, Any], *kinds: type) -> None:
    """Raise BaseError for a field that cannot be used; ``kinds`` are the classes made from the configuration."""
    for kind in kinds:
        for name, field in _fields(kind).items():
            if name in config and (fault := _other(kind, name, config[name]) or _fault(name, config[name], field)):
                raise BaseError(file, f"`{name}` is {repr(config[name])[:60]}, which must be {fault}", ACTION)
        _check_levels(file, config, _fields(kind))
        _warn_of_unknown(file, config, kind)
    depths = ("block_out_channels", "layers_per_block", "transformer_layers_per_block")
    levels, resnets, layers = (list(_flat(config.get(name, 1))) or [1] for name in depths)
    if len(levels) * max(resnets) * max(1, *layers) > LAYERS:
        raise BaseError(file, f"asks for more than {LAYERS} layers, by `{'`, `'.join(depths)}`", ACTION)


class _Field(NamedTuple):
    """A field of a class: its default, a value of its type, and whether it may be null or a list."""

    default: Any
    sample: Any
    nullable: bool
    many: bool


@cache
def _fields(kind: type) -> dict[str, _Field]:
    """The fields of a class, by the defaults and types of its parameters."""
    parameters = list(inspect.signature(kind.__init__).parameters.items())[1:]  # type: ignore[misc]
    fields = {}
    for name, parameter in parameters:
        default, kinds = parameter.default, str(parameter.annotation)
        nullable = default is None or isinstance(default, bool) or "None" in kinds
        many = default is None or "tuple" in kinds or "list" in kinds
        sample = default[0] if isinstance(default, tuple) else default
        if "float" in kinds and type(sample) is int:  # diffusers writes some floats without a decimal point
            sample = float(sample)
        fields[name] = _Field(default, sample, nullable and not name.endswith(ABOVE_0), many)
    return fields


def _check_levels(file: Path | str, config: Mapping[str, Any], fields: Mapping[str, _Field]) -> None:
    """Raise BaseError for lists of levels that differ in length: diffusers would leave levels out of a VAE."""
    counts = {name: len(config.get(name, fields[name].default)) for name in _LEVELS if name in fields}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"`{name}`: {count}" for name, count in counts.items())
        raise BaseError(file, f"has unequal numbers of levels ({listed})", ACTION)


def _other(kind: type, name: str, value: Any) -> str:
    """The values that `ONLY` allows for a field, if ``value`` is not one of them; empty if it may be used."""
    allowed = ONLY.get(kind.__name__, {}).get(name, ())
    right = not allowed or all(entry in allowed for entry in _flat(value))
    return "" if right else " or ".join(f"`{json.dumps(entry)}`" for entry in allowed)


def _warn_of_unknown(file: Path | str, config: Mapping[str, Any], kind: type) -> None:
    """Warn of fields that a model of diffusers does not have and ignores. Names with `_` at the start are notes."""
    if not issubclass(kind, ModelMixin):
        return
    unknown = [name for name, value in config.items() if name not in _fields(kind) and name[:1] != "_" and value]
    if unknown:
        names = f"`{'`, `'.join(unknown[:3])}`"
        text = f"{file}: ignored, because {kind.__name__} of diffusers has no such field: {names}"
        text += ". Next: if the model's pictures are wrong, choose another model"
        warnings.warn(text, EtudeWarning, stacklevel=3)


def _flat(value: Any) -> Iterator[Any]:
    """The entries of a list, also of lists in it."""
    if isinstance(value, list):
        for entry in value:
            yield from _flat(entry)
    else:
        yield value


def _fault(name: str, value: Any, field: _Field) -> str:
    """What a value should be; empty if it may be used."""
    if value is None:
        return "" if field.nullable else "a value"
    entries, most, sample = list(_flat(value)), ENTRIES.get(name, 16), field.sample
    if isinstance(field.default, tuple) and not isinstance(value, list):
        return "a list"
    if isinstance(value, list) and not field.many:
        return "one value"
    if isinstance(value, list) and not 0 < len(entries) <= most:
        return f"a list of 1 to {most} entries"
    if isinstance(sample, bool):
        return "" if all(isinstance(entry, bool) for entry in entries) else "true or false"
    if isinstance(sample, str):
        return "" if all(isinstance(entry, str) for entry in entries) else "text"
    if isinstance(sample, int):
        return _whole_fault(name, entries)
    if isinstance(sample, float):
        return _number_fault(name, entries) if math.isfinite(sample) else ""
    numbers = [entry for entry in entries if isinstance(entry, int | float) and not isinstance(entry, bool)]
    large = any(not abs(number) <= LARGEST for number in numbers)  # also NaN; isfinite cannot take 10**400
    return f"at most {LARGEST}" if large else ""


def _whole_fault(name: str, entries: list[Any]) -> str:
    if name.endswith("_token_id"):
        low, high = -1, OTHERS["vocab_size"]
    else:
        low, high = 0 if name in FROM_0 else 1, OTHERS.get(name, LARGEST)
    right = all(type(entry) is int and low <= entry <= high for entry in entries)
    return "" if right else f"a whole number from {low} to {high}"


def _number_fault(name: str, entries: list[Any]) -> str:
    if not all(type(entry) in (int, float) and 0 <= entry <= sys.float_info.max for entry in entries):
        return "a number from 0 on"
    if name.endswith("eps") and max(entries) > 1:
        return "at most 1"
    return "a number above 0" if name.endswith(ABOVE_0) and 0 in entries else ""
