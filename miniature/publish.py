"""Copy what was trained to ``models/miniature`` and ``models/miniature-unclip``, with cards, and keep the icons in use.

A command, not a stage (``make miniature-publish``): what is published is in git, and no stage writes there.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from etude.core.files import replace_folder
from miniature.assembly import assemble_all, vision_config
from miniature.card import write_card
from miniature.clip import read_clip
from miniature.kept import keep
from miniature.unclip_card import write_unclip_card
from miniature.unclip_folder import assemble_unclip, is_of, shared
from miniature.world import OUT, World, read_world
from tasks.shell import run
from tasks.shell.console import say

MODEL, UNCLIP = Path("models/miniature"), Path("models/miniature-unclip")


def publish() -> None:
    """Write ``models/miniature`` and ``models/miniature-unclip`` from the stages' outs, and ``icons/``."""
    world, linked = read_world(), shared(MODEL)
    keep()
    with replace_folder(MODEL) as folder:
        assemble_all(folder)
        write_words(folder, world)
        write_card(folder, world)
    publish_unclip(world, linked)


def publish_unclip(world: World, linked: Mapping[str, str]) -> None:
    """Write ``models/miniature-unclip`` if its stage started from the UNet just published.

    An older folder stays if all files that it links to are unchanged (``linked``); else it would link to other weights.
    """
    stage = OUT / "unclip"
    if stage.is_dir() and is_of(stage, OUT / "unet"):
        with replace_folder(UNCLIP) as folder:
            clip = read_clip(OUT / "vision")
            assemble_unclip(folder, MODEL, stage, clip, vision_config(clip))
            write_unclip_card(folder, stage, world)
        return
    missing = f"{stage} is missing, or of another UNet: run the stage unclip and publish again"
    if UNCLIP.is_dir() and linked == shared(MODEL):
        say(f"{UNCLIP} stays as it is; {missing} to have it go on from this one")
    else:
        shutil.rmtree(UNCLIP, ignore_errors=True)
        say(f"{UNCLIP} is left out; {missing}")


def write_words(folder: Path, world: World) -> None:
    """Write ``words.txt``: the names that a captioner can give a picture, one per line."""
    (folder / "words.txt").write_text("\n".join(sorted(world.concepts)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(publish)
