"""Bring params files of an earlier version to this one: keys that are renamed, moved, gone or new."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from tasks.shell import run
from tasks.shell.console import say


def migrate(
    dry: Annotated[bool, typer.Option("--dry", help="Only tell what would change.")] = False,
) -> None:
    """Write the present names of keys and values into all params files, remove keys that are gone, and add new ones.

    A new key gets the value with which everything is as before. Comments, order and quotes stay.

    Example: etude migrate --dry
    """
    from commands.adding import add_to
    from commands.moving import move_in
    from commands.removing import remove_from
    from commands.renaming import rename_in
    from commands.rewriting import drafts
    from etude.project import schemas_of

    changes: list[str] = []
    with nullcontext(Path()) if dry else drafts() as folder:
        for file, schema in schemas_of(Path()):
            text, renamed = rename_in(folder / file, file.as_posix(), schema)
            text, moved = move_in(text, file.as_posix(), schema)
            text, removed = remove_from(text, file.as_posix(), schema)
            text, added = add_to(text, file.as_posix(), schema)
            own = renamed + moved + removed + added
            changes += own
            if own and not dry:
                (folder / file).write_bytes(text.encode())
    say("\n".join(changes) or "all params files have the present names and keys: nothing to change")
    if changes:
        say(
            "nothing is changed: this was --dry"
            if dry
            else "next: `git diff` shows it, `etude check` what else is wrong"
        )
    for line in _folders():
        say(line)


def _folders() -> Iterator[str]:
    """A message for each folder of held-out pictures with its former name, which is still read."""
    from etude.core.params import read_yaml

    block = read_yaml("params.yaml").get("evaluate")
    place = (block.get("heldout") or block.get("truths")) if isinstance(block, dict) else None
    for folder in sorted(Path(str(place)).glob("*-truth")) if place else []:
        yield f"{folder}: is read as it is; its present name would be {folder.name.removesuffix('-truth')}-heldout"


if __name__ == "__main__":
    run(migrate)
