"""Copy an earlier edition from git: its weights are trained further, or kept as they are.

What is published stays in git, so a commit names its weights exactly, and a machine that has only the repository can
continue the training. Stages named in `earlier.as_published` train nothing.
"""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path
from typing import Literal
from zipfile import ZipFile

from torch import Tensor, nn

from etude.core.errors import InputError
from etude.core.files import read_json, replace_folder
from etude.core.params import Schema, pick
from etude.core.tensors import read_tensors
from miniature.world import FOLDER, OUT
from tasks.shell import run

PUBLISHED = "models/miniature"
BEGUN = {part: f"{PUBLISHED}/{part}" for part in ("unet", "vae", "clip")} | {"unclip": f"{PUBLISHED}-unclip/unet"}
"""What trainings go on from → the published folder that holds it."""
PARTS = {
    "tokenizer": "tokenizer",
    "vae": "vae",
    "decoder": "vae",
    "clip": "clip",
    "vision": "clip",
    "unet": "unet",
    "classifier": "judge",  # its folder keeps the name that params files use
}
"""Stage → the published folder that its out can be."""


class Earlier(Schema):
    """The ``earlier`` block of params.yaml."""

    commit: str
    as_published: list[Literal["tokenizer", "vae", "decoder", "clip", "vision", "unet", "classifier"]]


class StageParams(Schema):
    """The part of params.yaml that this stage reads."""

    earlier: Earlier


def take() -> None:
    """Write, from ``models/miniature`` at the commit, ``out/earlier/``: the weights from which training continues, and
    ``out/published/``: the outs of the stages that train nothing. Both are empty without an earlier edition.
    """
    params = FOLDER / "params.yaml"
    earlier = pick(params, StageParams).earlier
    if earlier.as_published and not earlier.commit:
        raise InputError(
            params, "`earlier.as_published` names stages, but `earlier.commit` is empty", "write the commit"
        )
    with replace_folder(OUT / "earlier") as begun, replace_folder(OUT / "published") as published:
        if earlier.commit:
            for part, path in BEGUN.items():
                unpack(earlier.commit, path, begun / part)
        for stage in earlier.as_published:
            unpack(earlier.commit, f"{PUBLISHED}/{PARTS[stage]}", published / stage)


def unpack(commit: str, path: str, folder: Path) -> None:
    """Write the folder ``path`` of ``commit`` to ``folder``; raises InputError when this clone does not have it."""
    made = subprocess.run(["git", "archive", "--format=zip", f"{commit}:{path}"], capture_output=True, check=False)
    if made.returncode:
        action = 'fetch the whole history (`git fetch --unshallow`), or set `earlier.commit: ""` for random weights'
        raise InputError(FOLDER / "params.yaml", f"`earlier.commit`: git has no {path} at {commit}", action)
    with ZipFile(io.BytesIO(made.stdout)) as archive:  # tarfile extracts safely only since Python 3.11.4
        archive.extractall(folder)


def as_published(stage: str) -> bool:
    """Whether ``stage`` trains nothing; its published out is then copied."""
    published = OUT / "published" / stage
    if not published.is_dir():
        return False
    with replace_folder(OUT / stage) as folder:
        shutil.copytree(published, folder, dirs_exist_ok=True)
    return True


def earlier_weights(part: str, file: str = "diffusion_pytorch_model.safetensors") -> dict[str, Tensor] | None:
    """The earlier weights of ``part`` (unet, vae, clip or unclip) as published; None if there are none."""
    path = OUT / "earlier" / part / file
    return read_tensors(path)[0] if path.is_file() else None


def begin_clip(model: nn.Module, vocabulary: dict[str, int]) -> None:
    """Set both towers, in place, to the earlier ones if there are any; tokens that these know keep their embeddings."""
    known = earlier_weights("clip", "model.safetensors")
    if known is None:
        return
    name = "text_model.embeddings.token_embedding.weight"
    rows, before = model.state_dict()[name].clone(), known[name]  # assignments widen float16 to the model's float32
    for token, old in read_json(OUT / "earlier" / "clip" / "vocab.json").items():
        if token in vocabulary:
            rows[vocabulary[token]] = before[old]
    model.load_state_dict({**known, name: rows})


def begin(model: nn.Module, part: str) -> bool:
    """Set ``model``, in place, to the earlier ``part`` if there is one; return whether there is."""
    known = earlier_weights(part)
    if known is None:
        return False
    model.load_state_dict(known)
    return True


if __name__ == "__main__":
    run(take)
