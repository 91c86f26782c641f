"""Settings that suit another base model: rewrite the values in all params files, so that git shows what changed."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from etude.errors import ParamsError
from etude.files import atomic_path
from etude.params import nearest
from tasks import run, sources
from tasks.console import say
from tasks.project import check

PRESETS = Path("presets")


def preset(name: str) -> None:
    """Rewrite the params files for NAME: miniature, sd15, sd21 or sdxl. Comments stay; `git diff` shows the rest."""
    known = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    if name not in known:
        raise ParamsError(PRESETS, f"there is no preset `{name}`{nearest(name, known)}", "choose one of these")
    chosen = _round_trip().load((PRESETS / f"{name}.yaml").read_text(encoding="utf-8"))
    chosen.pop("fetch")  # what `tasks.sources` reads
    with TemporaryDirectory() as folder:
        draft = Path(folder)
        for file in ("params.yaml", *sorted(str(p) for p in Path("pipelines").glob("*/params.yaml"))):
            (draft / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, draft / file)
        changes = [line for file, values in chosen.items() for line in rewrite(draft / file, file, values)]
        project = check(draft)  # nothing is changed unless all of it fits together
        for file in chosen:
            with atomic_path(file) as temporary:
                shutil.copy(draft / file, temporary)
    say("\n".join(changes) or f"everything is as the preset {name} wants it")
    if lacking := [each.path for each in sources.missing(Path(), project) if sources.origin(each.path)]:
        say(f"next: make base (python -m tasks.base), which fetches {' and '.join(lacking)}")


def rewrite(path: Path, shown: str, values: dict[str, Any]) -> list[str]:
    """Set dotted keys in a YAML file, comments kept; one line for each value that changed."""
    yaml = _round_trip()
    document = yaml.load(path.read_text(encoding="utf-8"))
    changes = []
    for dotted, value in values.items():
        *parents, last = dotted.split(".")
        block = document
        for parent in parents:
            block = block.get(parent, {})
        if last not in block:
            raise ParamsError(shown, f"has no `{dotted}`, which the preset sets", "correct the preset")
        if block[last] != value:
            changes.append(f"{shown}: {dotted}: {block[last]} → {value}")
            block[last] = _in_place(block[last], value)
    if changes:
        with atomic_path(path) as temporary:
            yaml.dump(document, temporary)
    return changes


def _round_trip() -> YAML:
    """A reader and writer that keeps comments, quotes and the way that numbers are written."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _in_place(old: Any, new: Any) -> Any:
    """A list takes the place of the old one's items: in brackets or an item a line, with what follows the last."""
    if not isinstance(old, CommentedSeq):
        return new
    behind = old.ca.items.pop(len(old) - 1, None)
    old[:] = list(new)
    if behind:
        old.ca.items[len(old) - 1] = behind
    return old


if __name__ == "__main__":
    run(preset)
