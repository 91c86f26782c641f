"""Copy what was trained to ``models/miniature`` and ``models/miniature-unclip``, with cards, and keep the icons in use.

A command, not a stage (``make miniature-publish``): what is published lies in git, and no stage writes there.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from etude.files import replace_folder
from pipelines.miniature.assembly import assemble_all, vision_config
from pipelines.miniature.card import write_card
from pipelines.miniature.clip import read_clip
from pipelines.miniature.kept import keep
from pipelines.miniature.unclip_card import write_unclip_card
from pipelines.miniature.unclip_folder import assemble_unclip, is_of
from pipelines.miniature.world import OUT, World, read_world
from tasks import run
from tasks.console import say

MODEL, UNCLIP = Path("models/miniature"), Path("models/miniature-unclip")


def publish() -> None:
    """Write ``models/miniature`` and ``models/miniature-unclip`` from the stages' outs, and ``icons/``."""
    world = read_world()
    keep()
    with replace_folder(MODEL) as folder:
        assemble_all(folder)
        write_words(folder, world)
        write_card(folder, world)
    publish_unclip(world)


def publish_unclip(world: World) -> None:
    """``models/miniature-unclip`` if it is of the UNet just published; an older one would point at other weights."""
    stage = OUT / "unclip"
    if not stage.is_dir() or not is_of(stage, OUT / "unet"):
        shutil.rmtree(UNCLIP, ignore_errors=True)
        say(f"{UNCLIP} is left out: {stage} is missing, or of another UNet; run the stage unclip and publish again")
        return
    with replace_folder(UNCLIP) as folder:
        clip = read_clip(OUT / "vision")
        assemble_unclip(folder, MODEL, stage, clip, vision_config(clip))
        write_unclip_card(folder, stage, world)


def write_words(folder: Path, world: World) -> None:
    """``words.txt``: what a captioner can call a picture, one name a line."""
    (folder / "words.txt").write_text("\n".join(sorted(world.concepts)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(publish)
