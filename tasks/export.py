"""Write an artifact as the files that other programs load: ``artifacts/<method>/export/``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from etude.core.errors import StaleError
from etude.core.files import Draft, write_json
from etude.core.method import load_method
from etude.core.params import Schema, pick
from etude.rendering.built import best_of
from tasks.shell import publish, run
from tasks.shell.console import say

if TYPE_CHECKING:
    from etude.base.family import Family
    from etude.formats.checkpoints import Frame
    from etude.rendering.candidates import Candidate

LISTING = "export.json"  # which checkpoint was written, and each file with its format
CHECKPOINTS = "checkpoints"  # below the export: a folder a checkpoint, where all are wanted

INDEX, SCHEDULER = "model_index.json", "scheduler/scheduler_config.json"
KINDS = {  # what a diffusers folder's index says of each part
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
    "tokenizer": ("transformers", "CLIPTokenizer"),
    "tokenizer_2": ("transformers", "CLIPTokenizer"),
}
PIPELINES: dict[str, dict[str, Any]] = {
    "sd": {"_class_name": "StableDiffusionPipeline", "safety_checker": [None, None], "feature_extractor": [None, None]},
    "sdxl": {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True},
}


class Wanted(Schema):
    """The part of a method's params.yaml that this stage depends on."""

    export: Literal["best", "final", "all"]


def export(method: str) -> None:
    """Write what METHOD made in each of its formats: the best checkpoint, the last one, or the best and each one."""
    wanted = pick(Path("pipelines", method, "params.yaml"), Wanted).export
    forms = load_method(method).formats
    chosen = _chosen(method, wanted)
    frame = cache(read_frame)
    files: list[dict[str, str]] = []
    with publish(Path("artifacts", method, "export")) as out:
        for folder, candidate in chosen.items():
            paths = _write(candidate, forms, Draft(out / folder), frame, apart=bool(folder))
            files += [{"path": p.relative_to(out).as_posix(), **told} for p, told in paths.items()]
        first = chosen[""]
        told = {"export": wanted, "checkpoint": first.name, "step": first.step, "files": files}
        write_json(out / LISTING, told)
    for file in files:
        path = Path("artifacts", method, "export", file["path"])
        say(f"{method}: {path.as_posix()} ({file['format']} of {file['checkpoint']}, {path.stat().st_size:,} bytes)")


def _chosen(method: str, wanted: str) -> dict[str, Candidate]:
    """What is exported, by folder: one checkpoint at the top, and with `all` each of several in a folder of its own."""
    from etude.rendering.candidates import find_made

    made = find_made(Path("artifacts", method, "build"))
    first = next(candidate for candidate in made if candidate.final)
    if wanted != "final":
        best = best_of(method)
        named = [candidate for candidate in made if candidate.name == best]
        if not named:
            fault = f"names {best}, which was not built"
            raise StaleError(f"artifacts/{method}/best.json", fault, "run `dvc repro` again")
        first = named[0]
    each = made if wanted == "all" and len(made) > 1 else []
    return {"": first, **{f"{CHECKPOINTS}/{candidate.name}": candidate for candidate in each}}


def _write(
    candidate: Candidate, forms: Sequence[str], draft: Draft, frame: Callable[[Path], Frame], *, apart: bool
) -> dict[Path, dict[str, str]]:
    """The files of one checkpoint, each with its format; ``apart`` they have its step in their names."""
    from etude.core import artifact as artifacts
    from etude.formats import write
    from etude.formats.metadata import marked

    made = artifacts.load(candidate.path or "")
    named = marked(made, candidate.name) if apart else made
    found = {}
    for form in made.facts.get("formats", forms):  # a method of several kinds says which suit this one
        for path in write(form, named, draft, lambda: frame(Path(made.facts["base"]))):
            found[path] = {"format": form, "checkpoint": candidate.name}
    return found


def read_frame(base: Path) -> Frame:
    """All tensors of a base, and its configuration: what a whole model has besides what was learned."""
    from etude.base.family import recognise
    from etude.formats import load_format
    from etude.formats.checkpoints import Frame

    recognise(base)  # raises BaseError with what is missing
    tensors, _ = load_format("diffusers_checkpoint" if base.is_dir() else "ldm_checkpoint").read(base)
    return Frame(tensors, configuration(base))


def configuration(base: Path) -> dict[str, bytes]:
    """What a diffusers folder of this base holds besides weights, by path; for a single file from what Étude ships."""
    from etude.base.family import folder_parts, recognise
    from etude.base.single import config_folder

    family = recognise(base)
    source = base if base.is_dir() else config_folder(base, family)
    found = [source / INDEX, *(file for part in folder_parts(family) for file in (source / part).glob("*"))]
    kept = [file for file in found if file.suffix in (".json", ".txt") and ".index." not in file.name and file.exists()]
    files = {file.relative_to(source).as_posix(): file.read_bytes() for file in sorted(kept)}
    if base.is_dir():
        return files
    configs = _standard_configs(base, family, source)
    return configs | files | {SCHEDULER: configs[SCHEDULER]}  # a single file's marks count before its configuration


def _standard_configs(base: Path, family: Family, source: Path) -> dict[str, bytes]:
    """What the configuration of a single file may lack: the index of its parts, its scheduler, CLIP's tokenizers."""
    from etude.base.family import folder_parts
    from etude.base.single import single_scheduler
    from etude.base.tokenizer import load_tokenizer

    parts, scheduler = folder_parts(family), single_scheduler(base, family, source)
    kinds = {**KINDS, "scheduler": ("diffusers", scheduler["_class_name"])}
    index = {**PIPELINES["sdxl" if family == "sdxl" else "sd"], **{part: list(kinds[part]) for part in parts}}
    found = {INDEX: _json(index), SCHEDULER: _json(scheduler)}
    for part in (part for part in parts if part.startswith("tokenizer") and not (source / part).is_dir()):
        with TemporaryDirectory() as folder:
            load_tokenizer(source / part, family).save_pretrained(folder)
            found |= {f"{part}/{file.name}": file.read_bytes() for file in sorted(Path(folder).iterdir())}
    return found


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=2, sort_keys=True) + "\n").encode()


if __name__ == "__main__":
    run(export)
