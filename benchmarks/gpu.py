"""Full-size steps on a GPU, ours beside a plain diffusers (+ peft) loop's, in nine minutes: `python -m benchmarks.gpu`.

Cells are measured one after the other, the most informative first; after each, the results so far are written as JSON.
A cell that fails is reported, and the others still run. A limit is the time that a picture's matrix products alone take
at the rate of one large matrix product, which is measured first. Without a GPU the script runs on the miniature, and
measures nothing.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.bases import random_base, schedule
from benchmarks.inputs import MINIATURE, Inputs, shipped
from benchmarks.plain import Loop, Model, load
from benchmarks.silent import Silent
from etude.base.base import Base
from etude.base.conditioning import Conditioning
from etude.base.loading import load_base
from etude.core.files import write_json
from etude.core.method import load_method
from etude.core.params import MethodParams, Part, validate
from etude.diffusion.sample import generate
from etude.training.compute import accelerate, choose_kernels
from etude.training.opening import Opening, open_base, opening
from etude.training.settings import Compute
from tasks import shell

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "logs" / "benchmarks" / "gpu.json"
MOST = 540.0  # seconds of all cells
SIDES = {"sd1": 64, "sdxl": 128}  # of the latents of a training picture
STATES = {"sd1": (768, None), "sdxl": (2048, 1280)}  # widths of the text's states, and of the pooled state
WARM, TIMED = 5, 20  # steps
DETERMINISTIC = {**Compute.added_keys, "channels_last": True}
WAYS: Mapping[str, dict[str, Any] | None] = {
    "etude": DETERMINISTIC,
    "any kernels": DETERMINISTIC | {"deterministic": False},
    "graphs": DETERMINISTIC | {"deterministic": False, "graphs": True},
    "compiled": DETERMINISTIC | {"deterministic": False, "compile": True},
    "plain": None,
}


class Cell(NamedTuple):
    """What is measured: pictures a second of a method's step, or of drawing (``draw``), with ``batch`` at once."""

    goal: str
    family: str
    work: str
    batch: int
    teraflops: float  # of a picture's products
    ways: tuple[str, ...] = ("etude", "any kernels", "plain")


CELLS = (
    Cell("G3", "sd1", "lora", 1, 1.725),
    Cell("G2", "sd1", "lora", 32, 1.725),
    Cell("G1", "sd1", "fine_tuning", 32, 2.407),
    Cell("G6", "sdxl", "lora", 8, 14.188),
    Cell("G4", "sd1", "lora", 4, 1.725),
    Cell("G5", "sd1", "textual_inversion", 4, 1.696),
    Cell("G8", "sd1", "draw", 8, 34.6, ("etude",)),
    Cell("G5", "sd1", "textual_inversion", 16, 1.696),
    Cell("G7", "sdxl", "fine_tuning", 8, 20.231),
    Cell("G9", "sdxl", "draw", 4, 280.9, ("etude",)),
    Cell("G3", "sd1", "lora", 1, 1.725, ("graphs", "compiled")),
    Cell("G2", "sd1", "lora", 32, 1.725, ("compiled",)),
)


class _EnoughError(Exception):
    """All steps are done."""


class Clock:
    """Seconds of the steps after the first ones; it waits for the device only before and after them."""

    def __init__(self, device: str, warm: int, timed: int) -> None:
        self.device, self.warm, self.timed, self.done = device, warm, timed, 0
        self.began = self.seconds = 0.0

    def tick(self) -> None:
        """A step is done; raises `_EnoughError` after the last one."""
        self.done += 1
        if self.done == self.warm:
            self.began = self._now()
        if self.done == self.warm + self.timed:
            self.seconds = (self._now() - self.began) / self.timed
            raise _EnoughError

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


class _Report(Silent):
    clock: Clock

    def advance(self, done: int) -> None:
        """A step is done."""
        self.clock.tick()


class Machine(NamedTuple):
    """Where the cells are measured: a GPU at full size, or a CPU with the miniature."""

    device: str

    @property
    def precision(self) -> str:
        """The precision of the computation, as params.yaml names it."""
        return "bf16" if self.device == "cuda" else "fp32"

    def base(self, family: str, params: MethodParams) -> Base:
        """The base of a cell."""
        if self.device == "cuda":
            return opening(params).prepare(random_base(family, opening(params), "cuda"))
        return open_base(MINIATURE, params)

    def inputs(self, family: str, count: int) -> Inputs:
        """Random moments and states of ``count`` pictures."""
        width, summary = STATES[family] if self.device == "cuda" else (128, None)
        side = SIDES[family] if self.device == "cuda" else 16
        mean, texts = torch.randn(count, 4, side, side), tuple(f"owl {number}" for number in range(count))
        pooled = None if summary is None else torch.randn(count, summary)
        states = torch.randn(count, 77, width)
        return Inputs(mean, torch.full_like(mean, -6.0), texts, states, states[:1], pooled)

    def model(self, family: str, method: str) -> Model:
        """What the plain loop trains: frozen weights in bf16, trained ones in float32, as diffusers' scripts do."""
        if self.device == "cpu":
            return load()
        parts: tuple[Part, ...] = ("unet", "text") if method == "textual_inversion" else ("unet",)
        whole = method == "fine_tuning"
        base = random_base(family, Opening(parts, (), "fp32" if whole else "bf16", _none, False), "cuda")
        encoder = base.text_encoders[0] if base.text_encoders else None
        return Model(base.unet, schedule(family), encoder, "cuda", "bf16")


def main(limit: Annotated[float, typer.Option(min=1, help="Seconds for all cells.")] = MOST) -> None:
    """Measure what the time allows, and print the table of the goals."""
    machine, began = Machine("cuda" if torch.cuda.is_available() else "cpu"), time.monotonic()
    rate = products(machine.device)
    found: list[dict[str, Any]] = []
    for cell in CELLS if machine.device == "cuda" else toys():
        for way in cell.ways:
            row: dict[str, Any] = {"goal": cell.goal, "family": cell.family, "work": cell.work, "batch": cell.batch}
            row["way"] = way
            if time.monotonic() - began > limit:
                row["fault"] = "no time was left"
            else:
                row |= measure(cell, way, machine)
            found.append(row)
            facts = {"device": name(machine.device), "torch": torch.__version__, "rate": rate}
            write_json(RESULT, facts | {"rows": found})
    show(found, rate, machine.device)


def toys() -> list[Cell]:
    """The cells on the miniature: one of each kind of work, with one picture."""
    kinds = {(cell.work, cell.ways): cell._replace(batch=1) for cell in reversed(CELLS) if "compiled" not in cell.ways}
    return list(kinds.values())


def measure(cell: Cell, way: str, machine: Machine) -> dict[str, Any]:
    """Seconds of a step and peak bytes of the device; or the fault."""
    if machine.device == "cuda":
        torch.compiler.reset()  # gives up the recordings of an earlier cell, and their memory
    gc.collect()
    if machine.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    timed = (WARM, TIMED) if machine.device == "cuda" else (1, 1)
    clock, settings = Clock(machine.device, *timed), WAYS[way]
    threads = torch.get_num_threads() if machine.device == "cuda" else 1
    choose_kernels(Compute.model_validate(settings or WAYS["any kernels"]), threads, machine.device)
    step: Callable[..., None] = draw if cell.work == "draw" else plain if settings is None else own
    try:
        step(cell, settings, machine, clock)
    except _EnoughError:
        peak = torch.cuda.max_memory_allocated() if machine.device == "cuda" else 0
        return {"seconds": clock.seconds, "peak_bytes": peak}
    except Exception as error:  # noqa: BLE001  # the other cells still run
        return {"fault": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    return {"fault": "it ended before its steps were done"}


def own(cell: Cell, settings: dict[str, Any], machine: Machine, clock: Clock) -> None:
    """Steps of the method's own build."""
    params, module = _params(cell, machine), load_method(cell.work)
    base = machine.base(cell.family, params)
    accelerate(base, Compute.model_validate(settings))
    inputs = machine.inputs(cell.family, 2 * cell.batch)
    with tempfile.TemporaryDirectory() as folder:
        report = _Report(Path(folder), seed=0, device=machine.device, precision=machine.precision)
        report.clock = clock
        module.build(base=base, params=params, report=report, **inputs.given(module, params))


def plain(cell: Cell, _: None, machine: Machine, clock: Clock) -> None:
    """Steps of the plain loop."""
    inputs = machine.inputs(cell.family, 2 * cell.batch)
    loop = Loop(cell.work, inputs, machine.model(cell.family, cell.work), cell.batch)
    while True:
        loop.step()
        clock.tick()


def draw(cell: Cell, settings: dict[str, Any], machine: Machine, clock: Clock) -> None:
    """Pictures of 20 steps of DPM-Solver++ with guidance, decoded; a step of the clock is a batch of them."""
    how, on_gpu = Opening(("unet", "vae"), (), machine.precision, _none, False), machine.device == "cuda"
    base = random_base(cell.family, how, "cuda") if on_gpu else load_base(MINIATURE)
    accelerate(base, Compute.model_validate(settings))
    inputs = machine.inputs(cell.family, cell.batch)
    pooled = None if inputs.pooled is None else inputs.pooled.to(base.device, base.dtype)
    text = Conditioning(inputs.hidden.to(base.device, base.dtype), pooled)
    asked: dict[str, Any] = {"negative": text, "seeds": range(cell.batch), "guidance": 5.0, "sampler": "dpm++"}
    again = partial(generate, base, text, steps=20 if on_gpu else 2, **asked)
    clock.warm, clock.timed = 1, 2
    while True:
        again()
        clock.tick()


def products(device: str) -> float:
    """Rate of a large matrix product in bf16, in 10¹² operations a second: each multiplication or addition is one."""
    size, times = (8192, 30) if device == "cuda" else (256, 2)
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    clock = Clock(device, 3, times)
    try:
        while True:
            a @ b
            clock.tick()
    except _EnoughError:
        return 2 * size**3 / clock.seconds / 1e12


def show(found: list[dict[str, Any]], rate: float, device: str) -> None:
    """Print the table."""
    cells = {(cell.goal, cell.work, cell.batch): cell for cell in CELLS}
    table = Table("goal", "work", "way", "ms a step", "pictures a second", "of the limit", "peak, GB")
    for row in found:
        work = f"{row['family']} {row['work']}, {row['batch']} at once"
        if "fault" in row or device != "cuda":
            table.add_row(row["goal"], work, row["way"], row.get("fault", "runs; not measured"), "", "", "")
            continue
        pace = row["batch"] / row["seconds"]
        share = pace * cells[row["goal"], row["work"], row["batch"]].teraflops / rate
        numbers = (f"{1000 * row['seconds']:.1f}", f"{pace:.1f}", f"{share:.0%}", f"{row['peak_bytes'] / 1e9:.1f}")
        table.add_row(row["goal"], work, row["way"], *numbers)
    Console().print(table)
    said = f"products: {rate:.0f} · 10¹² a second" if device == "cuda" else "No GPU: nothing was measured."
    Console().print(f"{name(device)}, torch {torch.__version__}. {said}", highlight=False)


def name(device: str) -> str:
    """The device's name."""
    return torch.cuda.get_device_name() if device == "cuda" else "CPU"


def _params(cell: Cell, machine: Machine) -> MethodParams:
    """The shipped params with this batch, without previews; on a GPU with frozen weights in bf16."""
    method, steps = cell.work, 10_000
    values = shipped(method)
    never = {"steps": steps, "checkpoint_every": steps, "resume_every": steps, "log_every": 1000}
    values["training"] |= never | {"batch_size": cell.batch, "accumulation": 1}
    values["preview"] |= {"seeds": []}
    values["base_precision"] = "bf16" if machine.device == "cuda" and method != "fine_tuning" else "fp32"
    values |= {"targets": ["attention"], "rank": 16} if method == "lora" else {}
    return validate(values, load_method(method).Params, Path("pipelines", method, "params.yaml"))


def _none(_weight: str) -> bool:
    return False


if __name__ == "__main__":
    shell.run(main)
