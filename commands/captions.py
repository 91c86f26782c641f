"""Show what the present caption settings would change, before the captions are written again: the command line."""

from __future__ import annotations

from typing import Annotated

import typer

from etude import names
from tasks.shell import run
from tasks.shell.console import say, shorten

LINES = 10  # changes that are printed; the page has more


def captions(
    name: Annotated[str, typer.Argument(help="the image set; it was captioned", autocompletion=names.image_sets)],
    ask: Annotated[int, typer.Option(min=0, help="ask captioners about so many pictures that need them")] = 0,
) -> None:
    """Show how the captions of the image set NAME would change with `caption` in params.yaml as it is now.

    Nothing is written but a page in logs/captions. Captioners run only with --ask.

    Example: etude captions mydog --ask 8
    """
    from commands.caption_preview import draw_preview, preview

    seen = preview(name, ask)
    changed = seen.changed
    same = len(seen.changes) - len(changed) - seen.unknown
    say(f"{name}: {len(seen.changes)} captions: {len(changed)} would change, {same} would stay")
    for change in changed[:LINES]:
        say(f"{change.name}: “{shorten(change.old)}” → “{shorten(change.new or '')}”")
    if len(changed) > LINES:
        say(f"and {len(changed) - LINES} more")
    if seen.unknown:
        say(f"{name}: {seen.unknown} more are known only when captioners run: --ask 8 asks them about eight pictures")
    if changed:
        say(f"{draw_preview(name, seen)}")


if __name__ == "__main__":
    run(captions)
