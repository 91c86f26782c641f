"""A VAE that replaces a model's own: its tensors, and the configuration that belongs to them."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import Tensor

from etude.base.checkpoint import read_shapes
from etude.base.family import recognise
from etude.base.schedule import read_scaling
from etude.base.single import vae_config
from etude.base.whole import as_base_errors, empty_model, expected_shapes, parts_of, read_model, whole
from etude.core.errors import BaseError, EtudeWarning
from etude.core.families import FAMILIES, UNET, Family
from etude.core.model_files import read_vae_files
from etude.core.model_folders import STEMS, read_config, weight_paths

_SIZE = "sample_size"  # the side of its training pictures: it changes no result


def read_with_vae(path: Path, vae: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """`read_model`, with another VAE instead of the model's own, which may be missing. Raises BaseError."""
    refuse_missing(vae)
    family = FAMILIES[recognise(path, without_vae=True)]
    tensors, facts = read_model(path, [part for part in parts_of(path, family) if part != "vae"])
    return tensors | read_vae(vae, family, path), facts


def read_vae(path: Path, family: Family, model: Path) -> dict[str, Tensor]:
    """The ``vae.`` tensors of a VAE's own file (.safetensors, .pt, .ckpt, in LDM's or diffusers' names) or folder.

    ``path`` may also be a whole model. Raises BaseError unless the VAE is whole by its own configuration or, if it has
    none, by that of the ``model`` that gets it.
    """
    refuse_missing(path)
    files = weight_paths(_folder(path)) if path.is_dir() else [path]
    if not files:
        raise BaseError(path, "holds no VAE", "give a file or a folder with a VAE")
    own = own_config(path)
    folder = own or vae_config(model, family.name)
    factor = read_scaling(path, read_config(folder / "config.json"))
    with as_base_errors(path):
        tensors = read_vae_files(path, files)
        if not any(name.startswith("vae.decoder.") for name in tensors):
            raise BaseError(path, "holds no VAE", "give a file or a folder with a VAE")
    tensors = whole(path, tensors, expected_shapes({"vae": empty_model(path, folder, family, "vae")}))
    if own is None:
        text = f"{path}: has no configuration, so its latents are scaled by {factor}, as those of {model}"
        warnings.warn(text, EtudeWarning, stacklevel=2)
    return tensors


def refuse_missing(path: Path) -> None:
    """Raise BaseError if there is no such file or folder."""
    if not path.exists():
        raise BaseError(path, "is missing: there is no such file or folder of a VAE", "correct the path")


def own_config(path: Path) -> Path | None:
    """The folder with the ``config.json`` that belongs to a VAE's file or folder; None if it has none."""
    if path.is_dir():
        folder = _folder(path)
        return folder if (folder / "config.json").exists() else None
    if (path.with_suffix(".config") / "vae" / "config.json").exists():
        return path.with_suffix(".config") / "vae"
    if path.name.partition(".")[0] in STEMS and (path.parent / "config.json").exists():
        return path.parent  # a file in a folder of diffusers
    if f"{UNET}input_blocks.0.0.weight" in read_shapes(path):
        return vae_config(path, recognise(path))
    return None


def refuse_other_config(path: Path, family: Family, model: Path) -> None:
    """Raise BaseError if a VAE's own configuration has other values than that of the VAE of ``model``.

    A merge has the configuration of its base, and cannot have another.
    """
    if (folder := own_config(path)) is None:
        return
    theirs, ours = (empty_model(path, each, family, "vae").config for each in (folder, vae_config(model, family.name)))
    for name, value in ours.items():
        other = theirs.get(name)
        if name.startswith("_") or name == _SIZE or _listed(other) == _listed(value):
            continue
        if name == "force_upcast" and value:
            continue  # then the base computes in float32, which is right for every VAE
        fault = f"has `{name}: {other}` in its configuration, but the base has {value}, which a merge keeps"
        action = f"give the base this VAE: `etude convert {model} --to diffusers_checkpoint --vae {path}`"
        raise BaseError(path, fault, action)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, Collection) and not isinstance(value, str) else value


def _folder(path: Path) -> Path:
    """The folder of the VAE if ``path`` is a whole model; otherwise ``path``."""
    return path / "vae" if (path / "vae" / "config.json").exists() else path
