"""Settings that suit another base model: rewrite the values in all params files, so that git shows what changed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from etude import names
from tasks.shell import run
from tasks.shell.console import say, warn

CLASS = "[class]"  # in a preset: the class of what a method learns


def preset(
    name: Annotated[str, typer.Argument(help="miniature, sd15, sd21 or sdxl", autocompletion=names.presets)],
) -> None:
    """Rewrite the params files for NAME: miniature, sd15, sd21 or sdxl. Comments stay; `git diff` shows the rest.

    Example: etude preset sd15
    """
    from commands.rewriting import drafts
    from etude import sources
    from etude.project import check, params_files

    with drafts() as draft:
        changes = apply_preset(name, draft)
        project = check(draft)  # nothing is changed unless the whole draft is valid
    here, chosen = {file.as_posix() for file in params_files(Path())}, _values(name)
    say("\n".join(changes) or f"everything is as the preset {name} wants it")
    for file in sorted(here - set(chosen)):
        warn(f"the preset {name} has no values for {file}: the file is unchanged; check that it suits the base")
    for file in sorted(set(chosen) - here):
        warn(f"the preset {name} has values for {file}, but this method is not here: they are left out")
    if lacking := [each.path for each in sources.missing(Path(), project) if sources.origin(each.path)]:
        say(f"next: etude base, which fetches {' and '.join(lacking)}")


def apply_preset(name: str, draft: Path) -> list[str]:
    """Rewrite the params files in ``draft`` for a preset; returns one line for each changed value.

    Raises ArgumentError for an unknown preset.
    """
    from commands.pointing import fitting_prompts
    from commands.rewriting import rewrite
    from etude.arguments import refuse_unknown

    refuse_unknown("NAME", "preset", name, names.presets())
    changes = []
    for file, values in sorted(_values(name).items()):
        if (draft / file).exists():
            changes += rewrite(draft / file, file, _of_the_class(draft / file, values))
    return changes + fitting_prompts(draft)


def _values(name: str) -> dict[str, Any]:
    """The values of a preset, by params file."""
    from commands.rewriting import read_commented
    from etude.sources import PRESETS

    chosen: dict[str, Any] = read_commented(PRESETS / f"{name}.yaml")
    chosen.pop("fetch")  # what `etude.sources` reads
    return chosen


def _of_the_class(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """The values with [class] filled in: the class that the method learns now, which a preset does not change."""
    from etude.core.method import load_method
    from etude.core.params import classed, load

    with_class = {key: texts for key, texts in values.items() if CLASS in str(texts)}
    if not with_class:
        return values
    kind = load(path, load_method(path.parent.name).Params).class_word
    filled = dict(values)
    for key, texts in with_class.items():
        filled[key] = [classed(text, CLASS, kind) for text in texts]
    return filled


if __name__ == "__main__":
    run(preset)
