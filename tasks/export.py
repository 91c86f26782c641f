"""Export an artifact to the file formats of other programs: ``artifacts/<method>/export/``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from etude.core.errors import StaleError
from etude.core.families import FAMILIES, Family
from etude.core.files import Draft, write_json
from etude.core.method import load_method
from etude.core.params import Schema, pick
from etude.rendering.built import best_of
from tasks.shell import publish, run
from tasks.shell.console import say

if TYPE_CHECKING:
    from etude.formats.checkpoints import Frame
    from etude.rendering.candidates import Candidate

LISTING = "export.json"  # which checkpoint was written, and each file with its format
CHECKPOINTS = "checkpoints"  # subfolder of the export with one folder for each checkpoint, if all are exported

INDEX, SCHEDULER = "model_index.json", "scheduler/scheduler_config.json"
VAE_CLASS = ["diffusers", "AutoencoderKL"]  # in the index


class Wanted(Schema):
    """The part of a method's params.yaml that this stage depends on."""

    export: Literal["best", "final", "all"]


def export(method: str) -> None:
    """Write METHOD's artifact in each of its formats: the best checkpoint, the last one, or the best and all."""
    wanted = pick(Path("pipelines", method, "params.yaml"), Wanted).export
    forms = load_method(method).formats
    chosen = _chosen(method, wanted)
    frame = cache(read_frame)
    files: list[dict[str, str]] = []
    with publish(Path("artifacts", method, "export")) as out:
        for folder, candidate in chosen.items():
            paths = _write(candidate, forms, Draft(out / folder), frame, apart=bool(folder))
            files += [{"path": p.relative_to(out).as_posix(), **listing} for p, listing in paths.items()]
        first = chosen[""]
        listing = {"export": wanted, "checkpoint": first.name, "step": first.step, "files": files}
        write_json(out / LISTING, listing)
    for file in files:
        path = Path("artifacts", method, "export", file["path"])
        say(f"{method}: {path.as_posix()} ({file['format']} of {file['checkpoint']}, {path.stat().st_size:,} bytes)")


def _chosen(method: str, wanted: str) -> dict[str, Candidate]:
    """The exported checkpoints by folder: one in the export itself, and with `all` each one in its own subfolder."""
    from etude.rendering.candidates import find_built

    candidates = find_built(Path("artifacts", method, "build"))
    first = next(candidate for candidate in candidates if candidate.final)
    if wanted != "final":
        best = best_of(method)
        named = [candidate for candidate in candidates if candidate.name == best]
        if not named:
            fault = f"names {best}, which was not built"
            raise StaleError(f"artifacts/{method}/best.json", fault, "run `dvc repro` again")
        first = named[0]
    each = candidates if wanted == "all" and len(candidates) > 1 else []
    return {"": first, **{f"{CHECKPOINTS}/{candidate.name}": candidate for candidate in each}}


def _write(
    candidate: Candidate, forms: Sequence[str], draft: Draft, frame: Callable[[Path], Frame], *, apart: bool
) -> dict[Path, dict[str, str]]:
    """Write the files of one checkpoint: path → format and checkpoint. If ``apart``, their names contain its step."""
    from etude.core import artifact as artifacts
    from etude.formats import write
    from etude.formats.metadata import marked

    artifact = artifacts.load(candidate.path or "")
    named = marked(artifact, candidate.name) if apart else artifact
    paths = {}
    for form in artifact.facts.get("formats", forms):  # the fact, if the artifact has only some of the method's formats
        for path in write(form, named, draft, lambda: frame(Path(artifact.facts["base"]))):
            paths[path] = {"format": form, "checkpoint": candidate.name}
    return paths


def read_frame(base: Path) -> Frame:
    """All tensors of a base, and its configuration: the parts of a whole model that were not learned."""
    from etude.base.whole import read_model
    from etude.formats.checkpoints import Frame

    return Frame(read_model(base)[0], configuration(base))


def configuration(base: Path, vae: Path | None = None) -> dict[str, bytes]:
    """The files of a diffusers folder of this base, except weights, by path; for a single file, Étude's own copies.

    ``vae``: a VAE that replaces the base's; its own configuration is used, if it has one.
    """
    from etude.base.family import recognise
    from etude.base.single import config_folder, vae_config
    from etude.base.vae import own_config

    family = FAMILIES[recognise(base, without_vae=True)]
    source = base if base.is_dir() else config_folder(base, family.name)
    paths = [source / INDEX, *(file for part in family.folders for file in (source / part).glob("*"))]
    texts = []
    for file in paths:
        if file.suffix in (".json", ".txt") and ".index." not in file.name and file.exists():
            texts.append(file)
    files = {file.relative_to(source).as_posix(): file.read_bytes() for file in sorted(texts)}
    if vae:
        files["vae/config.json"] = ((own_config(vae) or vae_config(base, family.name)) / "config.json").read_bytes()
    if base.is_dir():
        return files | ({INDEX: _with_vae(files[INDEX])} if vae and INDEX in files else {})
    configs = _standard_configs(base, family, source)
    # the scheduler depends on marks in the single file, which have precedence over its configuration
    return configs | files | {SCHEDULER: configs[SCHEDULER]}


def _standard_configs(base: Path, family: Family, source: Path) -> dict[str, bytes]:
    """Files that a single file's configuration may lack: the index of its parts, its scheduler, CLIP's tokenizers."""
    from etude.base.single import single_scheduler
    from etude.base.tokenizer import load_tokenizer

    scheduler = single_scheduler(base, family.name, source)
    configs = {INDEX: _json(_index(family, scheduler["_class_name"])), SCHEDULER: _json(scheduler)}
    for encoder in family.text_encoders:
        part = encoder.tokenizer
        if (source / part).is_dir():
            continue
        with TemporaryDirectory() as folder:
            load_tokenizer(source / part, encoder.pad).save_pretrained(folder)
            configs |= {f"{part}/{file.name}": file.read_bytes() for file in sorted(Path(folder).iterdir())}
    return configs


def _with_vae(index: bytes) -> bytes:
    """A diffusers folder's index with an entry for the VAE: the index of a folder without a VAE may lack it."""
    return _json(json.loads(index) | {"vae": VAE_CLASS})


def _index(family: Family, scheduler: str) -> dict[str, Any]:
    """The content of a diffusers folder's index: the library and class of each part."""
    parts = {"unet": ["diffusers", "UNet2DConditionModel"], "vae": VAE_CLASS}
    for encoder in family.text_encoders:
        parts[encoder.part] = ["transformers", encoder.model]
        parts[encoder.tokenizer] = ["transformers", "CLIPTokenizer"]
    return {**family.index, **parts, "scheduler": ["diffusers", scheduler]}


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=2, sort_keys=True) + "\n").encode()


if __name__ == "__main__":
    run(export)
