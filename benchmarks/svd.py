"""What the random projection saves compared with a full decomposition, and what it costs: `python -m benchmarks.svd`.

The matrices have the sizes of SD's layers, and singular values that fall as 1/√k: slower than those of learned changes,
so the errors are higher than for these. Both ways take turns on one thread. Run this on an idle machine.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import Tensor

from etude.core.files import write_json
from etude.formats.svd import truncated
from tasks import shell

RESULT = Path(__file__).parent.parent / "logs" / "benchmarks" / "svd.json"
SIZES = {"keys of SD 1.5": (320, 768), "keys of SDXL": (1280, 2048), "convolution of SD 1.5": (1280, 11520)}


def main(
    rank: Annotated[int, typer.Option(min=1, help="Singular values that are kept.")] = 16,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each way is measured.")] = 3,
) -> None:
    """Print, for each size, how many times faster the projection is and how far its error is above the minimum."""
    torch.set_num_threads(1)
    found = {name: _compare(*size, rank, rounds) for name, size in SIZES.items()}
    console = Console()
    for name, numbers in found.items():
        console.print(
            f"{name}: {numbers['ratio']:.1f} times as fast, error {numbers['excess']:.1e} above the least",
            highlight=False,
        )
    write_json(RESULT, {"rank": rank, "sizes": found})


def _compare(rows: int, columns: int, rank: int, rounds: int) -> dict[str, float]:
    given = matrix_of(torch.arange(1, rows + 1, dtype=torch.float64) ** -0.5, columns)
    seconds: dict[str, list[float]] = {"full": [], "truncated": []}
    for _ in range(rounds):
        start = time.perf_counter()
        _, s, _ = torch.linalg.svd(given, full_matrices=False)
        seconds["full"].append(time.perf_counter() - start)
        start = time.perf_counter()
        u, kept, vh = truncated(given, rank)
        seconds["truncated"].append(time.perf_counter() - start)
    error, least = (given - (u * kept) @ vh).norm(), s[rank:].square().sum().sqrt()
    full, short = (statistics.median(times) for times in seconds.values())
    return {"full_s": full, "truncated_s": short, "ratio": full / short, "excess": float(error / least - 1)}


def matrix_of(values: Tensor, columns: int) -> Tensor:
    """A matrix [r, columns] of these r singular values in random directions, always the same."""
    source = torch.Generator().manual_seed(0)
    rows = len(values)
    sides = [torch.randn(n, rows, generator=source, dtype=torch.float64) for n in (rows, columns)]
    u, v = (torch.linalg.qr(side)[0] for side in sides)
    made: Tensor = (u * values) @ v.T
    return made


if __name__ == "__main__":
    shell.run(main)
