"""Our training step beside a plain diffusers (+ peft) loop's: `python -m benchmarks.training [methods]`.

Both learn from the same pictures with the miniature's weights, on one thread, in float32. Each side is a process of its
own; the two take turns, some steps at a time, so that what else the machine does meets both. A ratio below 1 means that
ours is faster, or needs less memory. The median of the rounds' ratios counts.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
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
SIDES = ("etude", "plain")


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
        """Take steps: the seconds of each, and with ``memory`` the most bytes that the process held meanwhile."""
        into, out = _pipe(self.process.stdin), _pipe(self.process.stdout)
        into.write(f"{steps} memory\n" if memory else f"{steps}\n")
        into.flush()
        line = out.readline()
        while line and not line.startswith("{"):  # a library's own words
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
) -> None:
    """Print, for each method, the ratios of a step's CPU time and of peak memory."""
    from benchmarks.inputs import encode

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="etude-benchmark-") as folder:
        inputs = Path(folder, "inputs.safetensors")
        encode().save(inputs)
        for method in methods or METHODS:
            found[method] = compare(method, inputs, rounds, steps)
            write_json(RESULT, {"rounds": rounds, "steps": steps, "methods": found})
    show(found)


def compare(method: str, inputs: Path, rounds: int, steps: int) -> dict[str, Any]:
    """Both sides in turn: the seconds of the median step, ratios round by round, and peak bytes."""
    sides = {name: Side(name, method, inputs) for name in SIDES}
    try:
        for side in sides.values():
            side.take(3)  # the first steps make the optimizer's states
        turns: dict[str, list[float]] = {name: [] for name in SIDES}
        for number in range(rounds):
            for name in SIDES if number % 2 else reversed(SIDES):
                turns[name].append(statistics.median(sides[name].take(steps)["cpu"]))
        peaks = {name: side.take(3, memory=True)["peak"] for name, side in sides.items()}
    finally:
        for side in sides.values():
            side.end()
    ratios = [own / other for own, other in zip(turns["etude"], turns["plain"], strict=True)]
    return {
        "seconds": {name: statistics.median(values) for name, values in turns.items()},
        "ratios": ratios,
        "ratio": statistics.median(ratios),
        "peak_bytes": peaks,
        "memory_ratio": peaks["etude"] / peaks["plain"],
    }


def show(found: dict[str, Any]) -> None:
    """Print the table."""
    table = Table("method", "ours, ms", "plain, ms", "time: median (least, most)", "peak memory")
    for method, numbers in found.items():
        ours, other = (1000 * numbers["seconds"][side] for side in SIDES)
        spread = f"{numbers['ratio']:.2f} ({min(numbers['ratios']):.2f}, {max(numbers['ratios']):.2f})"
        table.add_row(method, f"{ours:.0f}", f"{other:.0f}", spread, f"{numbers['memory_ratio']:.2f}")
    Console().print(table)


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


if __name__ == "__main__":
    shell.run(main)
