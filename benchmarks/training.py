"""Our training step beside a plain diffusers (+ peft) loop's: `python -m benchmarks.training [methods]`.

Both learn from the same pictures with the miniature's weights, on one thread, in float32. Each side is a process of its
own; the two take turns, some steps at a time, so that other work of the machine slows both. A ratio below 1 means that
ours is faster, or needs less memory. The result is the median of the rounds' ratios.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from etude.core.errors import InputError
from etude.core.files import write_json
from tasks import shell

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "logs" / "benchmarks" / "training.json"
METHODS = ("lora", "dreambooth", "fine_tuning", "textual_inversion")
PLAIN = "plain"  # the side that the others are compared with


class Side:
    """A process that takes training steps when it is told to."""

    def __init__(self, side: str, method: str, inputs: Path) -> None:
        command = [sys.executable, "-m", "benchmarks.side", side, method, str(inputs)]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self.name = f"{side} {method}"
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def take(self, steps: int, memory: bool = False) -> dict[str, Any]:
        """Take steps; returns the seconds of each, and with ``memory`` the peak bytes of the process meanwhile."""
        into, out = _pipe(self.process.stdin), _pipe(self.process.stdout)
        into.write(f"{steps} memory\n" if memory else f"{steps}\n")
        into.flush()
        line = out.readline()
        while line and not line.startswith("{"):  # a message of a library
            line = out.readline()
        if not line:
            raise InputError(self.name, "ended before its steps were done", "read what it wrote above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """Let the process end, and wait for it."""
        _pipe(self.process.stdin).close()
        self.process.wait()


def main(
    methods: Annotated[list[str] | None, typer.Argument(help=f"Of: {', '.join(METHODS)}.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each side.")] = 9,
    steps: Annotated[int, typer.Option(min=1, help="Steps of a turn.")] = 5,
    compiled: Annotated[bool, typer.Option("--compiled", help="Also with `compute.compile`: minutes more.")] = False,
) -> None:
    """Print, for each method, the ratios of a step's CPU time and of peak memory."""
    from benchmarks.inputs import encode

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="etude-benchmark-") as folder:
        inputs = Path(folder, "inputs.safetensors")
        encode().save(inputs)
        for method in methods or METHODS:
            found[method] = compare(method, inputs, rounds, steps, ("etude", *["compiled"] * compiled, PLAIN))
            write_json(RESULT, {"rounds": rounds, "steps": steps, "methods": found})
    show(found)


def compare(method: str, inputs: Path, rounds: int, steps: int, names: Sequence[str]) -> dict[str, Any]:
    """Run the sides in turn: the seconds of a median step and the peak bytes of each, and their ratios to plain's."""
    sides = {name: Side(name, method, inputs) for name in names}
    try:
        for side in sides.values():
            side.take(3)  # not measured: the first steps make the optimizer's states, and compile
        turns: dict[str, list[float]] = {name: [] for name in names}
        for number in range(rounds):
            for name in names if number % 2 else reversed(names):
                turns[name].append(statistics.median(sides[name].take(steps)["cpu"]))
        peaks = {name: side.take(3, memory=True)["peak"] for name, side in sides.items()}
    finally:
        for side in sides.values():
            side.end()
    return {name: _numbers(turns[name], turns[PLAIN], peaks[name], peaks[PLAIN]) for name in names}


def _numbers(own: list[float], other: list[float], peak: int, other_peak: int) -> dict[str, Any]:
    ratios = [ours / plain for ours, plain in zip(own, other, strict=True)]
    return {
        "seconds": statistics.median(own),
        "ratios": ratios,
        "ratio": statistics.median(ratios),
        "peak_bytes": peak,
        "memory_ratio": peak / other_peak,
    }


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    table = Table("method", "side", "a step, ms", "time beside plain: median (least, most)", "peak memory beside plain")
    for method, sides in found.items():
        for name, side in sides.items():
            ratios = side["ratios"]
            spread = f"{side['ratio']:.2f} ({min(ratios):.2f}, {max(ratios):.2f})"
            beside = [spread, f"{side['memory_ratio']:.2f}"] if name != PLAIN else ["", ""]
            table.add_row(method, name, f"{1000 * side['seconds']:.0f}", *beside)
    Console().print(table)


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


if __name__ == "__main__":
    shell.run(main)
