"""One side of a training benchmark, in a process of its own: `python -m benchmarks.side etude lora FILE`.

The sides: ours (etude), ours with `compute.compile` (compiled), and a plain loop (plain).

Each line of its input is a number of steps to take; for each line, it prints the steps' seconds and its memory as JSON.
Each side has a process of its own, because settings of torch, such as deterministic kernels, apply to a whole process.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer

from benchmarks.inputs import MINIATURE, ROOT, VOCABULARY, Inputs, read, shipped
from benchmarks.silent import Silent
from etude.base.waiting import discard
from etude.core.method import load_method
from etude.core.params import MethodParams, read_yaml, validate
from etude.training.compute import accelerate, choose_kernels
from etude.training.opening import open_base
from etude.training.settings import Compute
from tasks import shell

FOREVER = 1_000_000
LEAN = {"lora": {"targets": ["attention"]}}  # the layers of the plain loop


class Steps:
    """Reads orders, which are numbers of steps to take, and answers each when its steps are done."""

    def __init__(self) -> None:
        self.left, self.last = 0, (0.0, 0.0)
        self.seconds: list[tuple[float, float]] = []
        self.peak, self._over = 0, threading.Event()

    def done(self) -> None:
        """Call this after each step, and once before the first: waits for the next order if the last one is done."""
        now = time.process_time(), time.perf_counter()
        if self.left:
            self.seconds.append((now[0] - self.last[0], now[1] - self.last[1]))
            self.left -= 1
        while not self.left:
            self._answer()
        self.last = time.process_time(), time.perf_counter()

    def _answer(self) -> None:
        if self.seconds:
            self._over.set()
            cpu, wall = zip(*self.seconds, strict=True)
            # the other side of the pipe reads a line for each order
            sys.stdout.write(json.dumps({"cpu": cpu, "wall": wall, "peak": self.peak}) + "\n")
            sys.stdout.flush()
        order = sys.stdin.readline().split()
        if not order:
            raise SystemExit
        self.left, self.seconds, self.peak = int(order[0]), [], 0
        if "memory" in order:
            self._over = threading.Event()
            threading.Thread(target=self._watch, args=[self._over], daemon=True).start()

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(0.002):
            self.peak = max(self.peak, anonymous())


class Waiting(Silent):
    """A report of a run that takes steps when it is told to."""

    steps: Steps

    def start(self, step: int, steps: int) -> None:
        """Wait for the first order."""
        self.steps.done()

    def advance(self, done: int) -> None:
        """A step is done."""
        self.steps.done()


def anonymous() -> int:
    """Bytes of this process's memory that are not pages of files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    return 0


def etude(method: str, inputs: Inputs, **switches: bool) -> None:
    """Take steps with the method's own `build`, as the stage does, with further switches of `compute`."""
    compute = Compute.model_validate(read_yaml(ROOT / "params.yaml")["compute"] | switches)
    choose_kernels(compute, 1, "cpu")
    params = short(method)
    base = open_base(MINIATURE, params)
    accelerate(base, compute)
    if method == "textual_inversion":
        for encoder in base.text_encoders:
            encoder.resize_token_embeddings(VOCABULARY, mean_resizing=False)
    module = load_method(method)
    with tempfile.TemporaryDirectory() as folder:
        report = Waiting(Path(folder), seed=0, device="cpu", precision="fp32")
        report.steps, report.prepared = Steps(), partial(discard, base, "text")
        module.build(base=base, params=params, report=report, **inputs.given(module, params))


def compiled(method: str, inputs: Inputs) -> None:
    """Take steps as `etude` does, with a compiled UNet."""
    etude(method, inputs, compile=True)


def short(method: str) -> MethodParams:
    """The method's shipped params, without previews, for a run that ends only when its orders end."""
    values = shipped(method)
    never = {"steps": FOREVER, "checkpoint_every": FOREVER, "resume_every": FOREVER}
    values["training"] |= never
    values["preview"] |= {"seeds": []}
    values |= LEAN.get(method, {})
    return validate(values, load_method(method).Params, Path("pipelines", method, "params.yaml"))


def plain(method: str, inputs: Inputs) -> None:
    """Take steps with the plain loop, with torch's own settings."""
    from benchmarks.plain import Loop, load

    torch.set_num_threads(1)
    params: Any = short(method)
    size = params.prior_batch_size if method == "dreambooth" else 0
    loop = Loop(method, inputs, load(), params.training.batch_size, size, getattr(params, "rank", 0))
    steps = Steps()
    steps.done()
    while True:
        loop.step()
        steps.done()


def main(
    side: Annotated[Literal["etude", "compiled", "plain"], typer.Argument(help="Whose loop.")],
    method: Annotated[str, typer.Argument(help="What is trained.")],
    inputs: Annotated[Path, typer.Argument(help="A file of `benchmarks.inputs`.")],
) -> None:
    """Take as many steps as each line of the input says, and print what they cost."""
    {"etude": etude, "compiled": compiled, "plain": plain}[side](method, read(inputs))


if __name__ == "__main__":
    shell.run(main)
