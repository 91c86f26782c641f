"""Write what a long run has learned so far as the out of the stage *unet*, to be measured and published."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from diffusers import UNet2DConditionModel

from etude.core.files import replace_folder, write_json
from miniature.long_run_state import FOLDER, PUBLISHED, averaged
from miniature.unet import save_unet
from miniature.world import OUT
from tasks.shell import run


def write(state: Annotated[Path, typer.Option(help="the folder of the kept states")] = FOLDER) -> None:
    """Write ``out/unet/`` from the averaged weights of the newest state in STATE."""
    with replace_folder(OUT / "unet") as folder:
        model = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(PUBLISHED.parent))
        names = [name for name, _ in model.named_parameters()]
        found = averaged(state, names)
        model.load_state_dict(found.weights)
        save_unet(model, folder)
        write_json(folder / "metrics.json", {"loss": found.loss, "steps": found.steps})


if __name__ == "__main__":
    run(write)
