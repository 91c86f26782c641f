"""Turn a file into another format of its kind: LoRA, embedding, whole model. Its tensors' names determine the kind."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from etude import names
from etude.command_line import name_or_path
from etude.core.errors import ArgumentError, FormatError
from etude.core.families import FAMILIES, listed
from etude.core.files import REPLACE, add_to_folder, sha256_tree
from tasks.shell import run
from tasks.shell.console import say

if TYPE_CHECKING:
    from etude.core.artifact import Artifact
    from etude.core.files import Draft
    from etude.formats.checkpoints import Frame


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="a file or folder of any program; or what was built: lora, lora@160", autocompletion=names.methods
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            help="the format, such as kohya_lora; another name lists those that there are", autocompletion=names.formats
        ),
    ],
    out: Annotated[Path, typer.Option(help="the folder that it is written to")] = Path("converted"),
    name: Annotated[str, typer.Option(help="its word and file name; else the file's own")] = "",
    family: Annotated[str, typer.Option(help=f"{listed()}, when the file does not tell")] = "",
    base: Annotated[Path | None, typer.Option(help="what it was learned on, when that is not where it was")] = None,
    vae: Annotated[
        Path | None, typer.Option(help="a VAE for a whole model: a file or folder, in place of its own")
    ] = None,
    allow_nan: Annotated[
        bool, typer.Option("--allow-nan", help="read numbers that are not finite, to repair it")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help=REPLACE)] = False,
) -> None:
    """Write SOURCE in the format TO. Nothing existing is overwritten without --replace.

    Without --name, the file names of a checkpoint contain its step: `lora@160` becomes `owl-000160.safetensors`.

    Example: etude convert lora@160 --to kohya_lora --out converted
    """
    from etude.core.artifact import Artifact
    from etude.core.method import method_names
    from etude.core.params import nearest
    from etude.core.weights import allow_nan as nan_allowed
    from etude.formats.kinds import described, same_kind
    from etude.formats.words import choose_word
    from etude.rendering.built import find_path

    if family not in ("", *FAMILIES):
        raise ArgumentError("--family", f"there is no `{family}`{nearest(family, FAMILIES)}", f"give {listed()}")
    name = choose_word("--name", name) if name else ""
    vae = vae and vae.expanduser()
    named = name_or_path(source, method_names())
    path = find_path(named)
    with nan_allowed(allow_nan):
        found, artifact = _opened(source, path, vae, name)
    choices = same_kind(artifact)
    if to not in choices:
        fault = f"is of the format {found}, which cannot become `{to}`{nearest(to, choices)}"
        action = f"choose --to {' or '.join(choices)}" if choices else "use it as it is: it fits no other format"
        raise FormatError(source, fault, action)
    if family and (told := artifact.facts.get("family", family)) != family:
        raise FormatError(
            source, f"is made for {told}, not for {family}", "leave --family out, since the file says its family"
        )
    mark = path.stem if path != Path(named).expanduser() and path.stem.isdecimal() else ""
    chosen = {"name": name, "family": family, "mark": "" if name else mark}
    facts = artifact.facts | {key: value for key, value in chosen.items() if value}
    if to.endswith("_checkpoint"):
        facts = _of_base(path, facts)
    whole = Artifact(artifact.method, artifact.tensors, described(facts, path))
    with add_to_folder(out, replace=replace) as draft:
        paths = _write(to, whole, draft, path, lambda: _frame(path, whole, base, vae))
    for file in paths:
        say(f"{out / file} ({to}, {(out / file).stat().st_size:,} bytes), from {found}")


def _opened(source: str, path: Path, vae: Path | None, name: str) -> tuple[str, Artifact]:
    """The format and the content of a file; raises an EtudeError, also if --vae is given for no whole model."""
    from etude.base.vae import read_with_vae, refuse_missing
    from etude.base.whole import read_model
    from etude.formats import FORMATS, WHOLE
    from etude.formats.kinds import open_any

    if vae:
        refuse_missing(vae)
    found, artifact = open_any(path, name=name, whole=partial(read_with_vae, vae=vae) if vae else read_model)
    if vae and FORMATS.get(found) != WHOLE:
        raise ArgumentError(
            "--vae", f"is for whole models only, and {source} has the format {found}", "leave --vae out"
        )
    return found, artifact


def _write(to: str, whole: Artifact, draft: Draft, source: Path, frame: Callable[[], Frame]) -> list[Path]:
    """Fill the draft; returns the paths in it. Raises FormatError if the artifact lacks something its method needs."""
    from etude.formats import write

    try:
        written = write(to, whole, draft, frame)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, StopIteration) as error:
        fault = f"is not a complete {whole.method}: {type(error).__name__} {error}"
        raise FormatError(source, fault, "make or download this file again") from error
    return [file.relative_to(draft.folder) for file in written]


def _of_base(source: Path, facts: dict[str, object]) -> dict[str, object]:
    """The facts, with family, prediction and resolution of a whole model; an artifact has these facts already."""
    if "base" in facts:
        return facts
    from etude.base.loading import read_kind

    kind = read_kind(source)
    return facts | {"family": kind.family, "prediction": kind.prediction, "resolution": kind.resolution}


def _frame(source: Path, artifact: Artifact, base: Path | None, vae: Path | None) -> Frame:
    """What is written besides the weights: a whole model's own configuration, or all of an artifact's base."""
    from etude.formats.checkpoints import Frame
    from tasks.export import configuration, read_frame

    if "base" not in artifact.facts:
        return Frame({}, configuration(source, vae))
    learned_on = str(artifact.facts["base"])
    return read_frame(base.expanduser() if base else _checked_base(source, learned_on, artifact.facts))


def _checked_base(source: Path, name: str, facts: Mapping[str, Any]) -> Path:
    """The base that an artifact names, if it is in this project and unchanged since the artifact was trained."""
    path, here = Path(os.path.normpath(Path.cwd() / name)), Path.cwd()
    action = "give --base with the path of the base that it was learned on"
    if here not in path.parents or not path.exists():
        raise FormatError(source, f"was learned on {name!r}, which is not in this project", action)
    known = facts.get("inputs", {}).get(name)
    if known and sha256_tree(path) != known:
        raise FormatError(source, f"was learned on {name} with other content than it has now", action)
    return path.relative_to(here)


if __name__ == "__main__":
    run(convert)
