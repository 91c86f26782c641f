"""The files of whole models, single ones and diffusers folders: their tensors in the common form.

The common form of a model is ``<part>.<tensor>``, where a part is ``unet``, ``vae`` or a text encoder of the family,
and tensors have diffusers' names, those of text encoders without ``text_model.``. A file may name one tensor in several
ways, if the numbers are the same (`united`). Whether a model is whole is decided in `etude.base.whole`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from etude.core.errors import FormatError
from etude.core.families import (
    PREDICTIONS,
    PROJECTED,
    UNET,
    VAE,
    Family,
    TextEncoder,
    by_config,
    by_tensors,
    listed,
    text_parts,
)
from etude.core.ldm_names import (
    OLD_ATTENTION,
    OPEN_CLIP,
    OPEN_CLIP_ENDS,
    Table,
    inverse,
    translate,
    unet_table,
    vae_table,
)
from etude.core.model_folders import read_config, read_shapes, weight_paths
from etude.core.pickles import read_either

BLOCK = "transformer.resblocks."  # of OpenCLIP
Named = Iterable[tuple[str, str, Tensor]]  # a tensor's name in its file, its new name, and the tensor


def united(path: Path | str, named: Named) -> dict[str, Tensor]:
    """New name → tensor. Raises FormatError if a file names one tensor twice, with different numbers."""
    tensors: dict[str, Tensor] = {}
    origins: dict[str, str] = {}
    for origin, name, tensor in named:
        if name in tensors and not _is_equal(tensors[name], tensor):
            fault = f"has one tensor under two names, with different numbers: `{origins[name]}` and `{origin}`"
            raise FormatError(path, fault, "remove one of the two, or fetch the file again")
        if name not in tensors:
            tensors[name], origins[name] = tensor, origin
    return tensors


def _is_equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool((one.double() == other.double()).all())


def read_single(
    path: Path, parts: Collection[str] | None = None, family: Family | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of ``parts`` (None: all) in the common form; the facts family and, if the file has them, prediction
    and name.

    What no model needs is not read: averages (``model_ema.``), schedules, OpenCLIP's ``logit_scale``, which kohya
    writes as a whole number. Names that no Stable Diffusion has stay as they are; `etude.base.whole` decides on them.
    """
    path = Path(path)
    family = family or _family_of(read_shapes(path))
    prefixes = _prefixes(family, family.parts if parts is None else parts)
    tensors, metadata = read_either(path, lambda name: _is_needed(name, prefixes))
    found: dict[str, Tensor] = {}
    for part, beginnings in prefixes.items():
        found |= united(path, _of_ldm(part, _below(tensors, beginnings), family))
    facts = {"family": family.name}
    label = "v" if "v_pred" in tensors else metadata.get("modelspec.prediction_type", "")
    labels = {"prediction": PREDICTIONS.get(label), "name": metadata.get("modelspec.title")}
    return found, facts | {key: value for key, value in labels.items() if value}


def names_beside(path: Path, family: Family) -> list[str]:
    """The tensors of a single file without the prefix of any part; `etude.base.whole` decides on them."""
    prefixes = tuple(prefix for beginnings in _prefixes(family, family.parts).values() for prefix in beginnings)
    return [name for name in read_shapes(path) if not name.startswith(prefixes)]


def _family_of(shapes: Mapping[str, tuple[int, ...]]) -> Family:
    return by_tensors({name: len(shape) for name, shape in shapes.items()})


def _prefixes(family: Family, parts: Collection[str]) -> dict[str, tuple[str, str]]:
    """Part → the prefixes of its tensors: LDM's, and the part's own name (some tools write both into one file)."""
    every = {"unet": UNET, "vae": VAE}
    every |= {encoder.part: family.texts + encoder.single for encoder in family.text_encoders}
    return {part: (prefix, f"{part}.") for part, prefix in every.items() if part in parts}


def _is_needed(name: str, prefixes: Mapping[str, tuple[str, str]]) -> bool:
    if name in ("v_pred", "ztsnr"):
        return True
    every = [prefix for beginnings in prefixes.values() for prefix in beginnings]
    rest = next((name.removeprefix(prefix) for prefix in every if name.startswith(prefix)), None)
    unused = ("position_ids", "logit_scale")
    return rest is not None and not rest.startswith(("loss.", "model_ema.")) and not rest.endswith(unused)


def _of_ldm(part: str, own: Sequence[tuple[str, str, Tensor]], family: Family) -> Named:
    """A part in the common form."""
    encoder = next((encoder for encoder in family.text_encoders if encoder.part == part), None)
    if encoder:
        return _common(part, _from_open_clip(encoder, own) if encoder.open_clip else own)
    names = [name for _, name, _ in own]
    if not names:
        return ()
    return _common(part, _from_ldm(own, unet_table(names) if part == "unet" else vae_table(names)))


def _from_ldm(own: Named, table: Table) -> Named:
    """Tensors under diffusers' names; those that ``table`` does not know stay as they are."""
    names = inverse(table)
    for origin, name, tensor in own:
        yield origin, translate(name, names) or name, tensor


def is_vae(name: str) -> bool:
    """Whether a tensor belongs to a VAE, by its name: with the prefix of whole models, or as in a VAE's own file."""
    short = name.removeprefix(VAE).removeprefix("vae.")
    return short.startswith(("encoder.", "decoder.", "quant_conv.", "post_quant_conv."))


def read_vae_files(path: Path, files: Sequence[Path]) -> dict[str, Tensor]:
    """The VAE in files, in LDM's or diffusers' names, with or without a prefix, in the common form."""
    own = [(origin, name.removeprefix(VAE).removeprefix("vae."), t) for origin, name, t in _read(files, is_vae)]
    names = [name for _, name, _ in own]
    ldm = any(name.startswith("encoder.down.") for name in names)
    return united(path, _common("vae", _from_ldm(own, vae_table(names)) if ldm else own))


def _read(files: Sequence[Path], wanted: Callable[[str], bool]) -> Named:
    """The tensors of the shards of a model, one after the other."""
    for file in files:
        for name, tensor in read_either(file, wanted)[0].items():
            yield name if len(files) == 1 else f"{name} in {file.name}", name, tensor


def _below(tensors: Mapping[str, Tensor], prefixes: Iterable[str]) -> list[tuple[str, str, Tensor]]:
    own = []
    for prefix in prefixes:
        own += [(name, name.removeprefix(prefix), t) for name, t in tensors.items() if name.startswith(prefix)]
    return own


def _from_open_clip(encoder: TextEncoder, own: Named) -> Named:
    """A text encoder in transformers' names; tensors without one, and unused layers, stay as they are."""
    ends, layers = inverse(OPEN_CLIP_ENDS), inverse(OPEN_CLIP)
    for origin, name, tensor in own:
        match = re.match(rf"{re.escape(BLOCK)}(\d+)\.(.+)$", name)
        used = match is not None and not (encoder.layers and int(match[1]) >= encoder.layers)
        stem, rest = (f"encoder.layers.{match[1]}", match[2]) if match and used else ("", "")
        if name in ends:
            yield origin, ends[name], tensor
        elif name == "text_projection" and encoder.model == PROJECTED and tensor.ndim == 2:
            yield origin, "text_projection.weight", tensor.T
        elif rest.startswith("attn.in_proj_") and tensor.ndim:
            for letter, third in zip("qkv", tensor.chunk(3), strict=False):  # shapes are checked by `etude.base.whole`
                yield origin, f"{stem}.self_attn.{letter}_proj.{rest.removeprefix('attn.in_proj_')}", third
        elif rest and (other := translate(rest, layers)):
            yield origin, f"{stem}.{other}", tensor
        else:
            yield origin, name, tensor


def read_folder(
    path: Path, parts: Collection[str] | None = None, family: Family | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of ``parts`` (None: all) in the common form, and the facts family, prediction and name."""
    path = Path(path)
    family = family or by_config(read_config(path / "unet" / "config.json"))
    if family is None:
        raise FormatError(path, "has a unet of no family that Étude knows", f"give a model of {listed()}")
    found: dict[str, Tensor] = {}
    for part in family.parts if parts is None else parts:
        own = _read(weight_paths(path / part), lambda name: not name.endswith("position_ids"))
        found |= united(path / part, _common(part, own))
    prediction = read_config(path / "scheduler" / "scheduler_config.json").get("prediction_type", "epsilon")
    return found, {"family": family.name, "prediction": prediction, "name": path.name}


def of_part(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors of one part, without its name."""
    return {name.removeprefix(f"{part}."): tensor for name, tensor in tensors.items() if name.startswith(f"{part}.")}


def common(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A part's tensors in the common form: no ``text_model.``, no counters, today's names in the VAE's attention."""
    return united(part, _common(part, ((name, name, tensor) for name, tensor in tensors.items())))


def _common(part: str, own: Named) -> Named:
    is_text = part in text_parts()
    for origin, name, tensor in own:
        if name.endswith("position_ids"):
            continue
        if is_text:
            name = name.removeprefix("text_model.")
        if part == "vae" and ".mid_block.attentions." in name:
            head, _, last = name.rpartition(".")
            start, _, layer = head.rpartition(".")
            name = f"{start}.{OLD_ATTENTION.get(layer, layer)}.{last}"
            if tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
                tensor = tensor[:, :, 0, 0]  # LDM's attention layers are 1 × 1 convolutions, diffusers' are linear
        yield origin, f"{part}.{name}", tensor
