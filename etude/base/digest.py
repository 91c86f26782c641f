"""The digest of a part of a base, which is in the cache keys of everything computed with that part.

Digests of large files are cached in ``.cache/digests``: see `etude.core.store.remembered`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import get_args

from etude.base.checkpoint import read_part
from etude.base.family import recognise
from etude.base.single import config_folder, single_scheduler
from etude.core.errors import BaseError
from etude.core.families import FAMILIES
from etude.core.files import sha256_file, sha256_tree
from etude.core.model_folders import weight_files
from etude.core.params import Part
from etude.core.store import key, remembered

PARTS: tuple[Part, ...] = get_args(Part)

_UNET = ("unet", "scheduler", "image_normalizer", "image_noising_scheduler")  # folders that decide its output


def part_digest(path: Path | str, part: Part) -> str:
    """Hex digest of the weights and the configuration of one part of a base. Changes of other parts do not change it.

    The digest of the unet includes the scheduler (noise schedule, ε- or v-prediction) and the files by which an
    unCLIP base is conditioned on a picture. Raises BaseError.
    """
    path = Path(path)
    if part not in PARTS:
        raise BaseError(path, f"has no part `{part}`", f"give one of {', '.join(PARTS)}")
    family = recognise(path)
    folders = {"unet": _UNET, "vae": ("vae",), "text": FAMILIES[family].text_folders}[part]
    if path.is_dir():
        return key("folder", part, [_folder_digest(path / name) for name in folders if (path / name).is_dir()])
    configs = config_folder(path, family)
    config = [sha256_tree(configs / name) for name in folders if (configs / name).is_dir()]
    scheduler = single_scheduler(path, family, configs) if part == "unet" else None
    return key("single", part, _remembered(path, part), config, scheduler)


def _folder_digest(folder: Path) -> list[list[str]]:
    """Name and digest of each file that is loaded from a folder; other variants and formats in it are ignored."""
    weights = weight_files(folder)
    if weights:
        files = [folder / "config.json", *weights]
    else:
        files = sorted(file for file in folder.iterdir() if file.suffix in (".json", ".txt"))
    return [[file.name, _remembered(file)] for file in files]


def _remembered(file: Path, part: Part | None = None) -> str:
    """The digest of a file, or of a part of a single-file base, from the store if it is cached."""
    return remembered(file, lambda path: _digest(path, part), part)


def _digest(file: Path, part: Part | None) -> str:
    """The digest of a whole file, or of the tensors of one part in a single file, in the order of their names."""
    if part is None:
        return sha256_file(file)
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(read_part(file, part).items()):
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
