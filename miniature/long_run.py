"""Train the denoiser further for as long as there is time: beside other work for days, or for minutes on one GPU.

The stage *unet* trains a number of steps at a rate that falls to 0. This command trains at a constant rate and ends
when it is stopped, or after some minutes; another start resumes exactly. What is measured and published is the average
of the weights, which ``miniature.long_run_out`` writes as the out of the stage *unet*.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from diffusers.models.attention_processor import AttnProcessor
from pydantic import Field

from etude.core.params import Schema, pick
from etude.core.randomness import make_deterministic
from etude.training.compute import compile_in_place
from etude.training.fit import fit
from etude.training.plan import Optimization
from etude.training.processes import spread
from miniature.draws import randomiser
from miniature.long_run_state import FOLDER as STATES
from miniature.long_run_state import Rolling, TimeUpError, averaged, read_pieces, write_pieces
from miniature.stage import Run
from miniature.unet import Denoising, build_unet, denoising_loss, draw_batch, encoded_on, read_encoded
from miniature.unet import StageParams as UnetParams
from miniature.vae import read_vae
from miniature.world import FOLDER, read_world
from tasks.shell import run


class LongRun(Schema):
    """The ``long_run`` block of params.yaml."""

    threads: int
    compile: bool
    snr_floor: float
    timestep_power: float = Field(ge=1)
    training: Optimization
    gpu: dict[str, Any]

    def plan(self, device: str) -> Optimization:
        """The training on ``device``; ``gpu`` has the values that differ there."""
        return Optimization(**{**self.training.model_dump(), **(self.gpu if device == "cuda" else {})})


class StageParams(UnetParams):
    """The part of params.yaml that this command reads."""

    run: Run
    long_run: LongRun


def train(
    state: Annotated[Path, typer.Option(help="the folder of the kept states")] = STATES,
    minutes: Annotated[float, typer.Option(help="minutes after which it ends; 0: none")] = 0,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="what trains")] = "cpu",
) -> None:
    """Continue from the newest state in STATE, else from the pieces there, else from the published denoiser."""
    began = time.monotonic()
    stage_params, world = pick(FOLDER / "params.yaml", StageParams), read_world()
    long_run = stage_params.long_run
    plan = long_run.plan(device)
    spread(stage_params.run.processes if device == "cpu" else 1)
    make_deterministic(long_run.threads)
    encoded = encoded_on(read_encoded(), device)
    scale = float(read_vae().config.scaling_factor)
    settings = stage_params.unet.model_copy(update={"training": plan})
    stage_params = stage_params.model_copy(update={"unet": settings})
    model = build_unet(settings.widths, settings.groups, settings.heads, encoded.hidden.shape[-1])
    model.load_state_dict(read_pieces(state))
    model.to(device)
    model.set_attn_processor(AttnProcessor())  # torch's fused attention takes twice the step's time on CPU in bf16
    if long_run.compile and device == "cpu":  # on a GPU, compiling takes more time than it saves
        compile_in_place(model)
    parameters = dict(model.named_parameters())
    report = Rolling(state, stage_params.run.seed, device, stage_params.run.precision)
    report.pictures = plan.batch_size * (stage_params.run.processes if device == "cpu" else 1)
    report.until = began + 60 * minutes if minutes else None

    def batches(step: int) -> Denoising:
        return draw_batch(encoded, world, stage_params, scale, randomiser(report.seed, "long run", step))

    def loss(batch: Denoising) -> Any:
        return denoising_loss(model, batch, plan.min_snr, long_run.snr_floor, long_run.timestep_power)

    try:
        fit(parameters, loss, batches, plan, report)
    except TimeUpError:
        write_pieces(state, averaged(state, list(parameters)).weights)


if __name__ == "__main__":
    run(train)
