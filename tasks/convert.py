"""Turn a file into another format of its kind: LoRA, embedding, whole model; what it is is told by its keys.

python -m tasks.convert otter.safetensors --to diffusers_lora --out converted
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from etude.errors import ConflictError, FormatError, ParamsError
from etude.params import nearest
from tasks import run
from tasks.console import say

if TYPE_CHECKING:
    from etude.artifact import Artifact
    from etude.formats.checkpoints import Frame


def convert(
    source: Annotated[Path, typer.Argument(help="a file or folder: of another program, or an artifact of Étude")],
    to: Annotated[str, typer.Option(help="the format, such as kohya_lora; another name lists those that there are")],
    out: Annotated[Path, typer.Option(help="the folder that it is written to")] = Path("converted"),
    name: Annotated[str, typer.Option(help="its word and file name; else the file's own")] = "",
    family: Annotated[str, typer.Option(help="sd1, sd2 or sdxl, when the file does not tell")] = "",
) -> None:
    """Write SOURCE in the format TO. Nothing existing is overwritten."""
    from etude.artifact import Artifact
    from etude.formats import write
    from etude.formats.kinds import described, open_any, same_kind
    from etude.formats.metadata import BASE_VERSIONS

    if family not in ("", *BASE_VERSIONS):
        raise ParamsError("--family", f"there is no `{family}`{nearest(family, BASE_VERSIONS)}", "say sd1, sd2 or sdxl")
    found, artifact = open_any(source)
    choices = same_kind(artifact)
    if to not in choices:
        fault = f"is of the format {found}, which cannot become `{to}`{nearest(to, choices)}"
        raise FormatError(source, fault, f"choose --to {' or '.join(choices) or 'nothing: it has one format alone'}")
    if family and (told := artifact.facts.get("family", family)) != family:
        raise FormatError(source, f"is made for {told}, not for {family}", "leave --family out")
    chosen = {key: value for key, value in {"name": name, "family": family}.items() if value}
    facts = artifact.facts | chosen
    if to.endswith("_checkpoint"):
        facts = _of_base(source, facts)
    whole = Artifact(artifact.method, artifact.tensors, described(facts, source))
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out, prefix=".convert-") as folder:
        draft = Path(folder)
        paths = [path.relative_to(draft) for path in write(to, whole, draft, lambda: _frame(source, whole))]
        tops = sorted({path.parts[0] for path in paths})
        for top in tops:
            if (out / top).exists():
                raise ConflictError(out / top, "exists already", "choose another --out or --name")
        for top in tops:
            (draft / top).rename(out / top)
    for path in paths:
        say(f"{out / path} ({to}, {(out / path).stat().st_size:,} bytes), from {found}")


def _of_base(source: Path, facts: dict[str, object]) -> dict[str, object]:
    """What a whole model tells as a base: family, prediction and resolution; an artifact tells them itself."""
    if "base" in facts:
        return facts
    from etude.diffusion.base import load_base

    base = load_base(source, parts=())
    return facts | {"family": base.family, "prediction": base.prediction, "resolution": base.resolution}


def _frame(source: Path, artifact: Artifact) -> Frame:
    """What is written besides the weights: of a whole model its own configuration, of an artifact all of its base."""
    from etude.formats.checkpoints import Frame
    from tasks.export import configuration, read_frame

    if "base" in artifact.facts:
        return read_frame(Path(str(artifact.facts["base"])))
    return Frame({}, configuration(source))


if __name__ == "__main__":
    run(convert)
