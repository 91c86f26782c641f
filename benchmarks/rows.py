"""What a step of textual inversion costs besides the model: `python -m benchmarks.rows`.

Ours trains the rows of the new word; diffusers' script trains the whole table of CLIP, 49,408 × 768, and restores all
other rows after each step. Both look up the tokens of four prompts, and sum their rows: there is no model. The two
sides take turns on one thread.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from torch import Tensor

from benchmarks.bases import random_base
from benchmarks.inputs import VOCABULARY, shipped
from benchmarks.silent import Silent
from etude.core.files import write_json
from etude.core.randomness import make_deterministic
from etude.diffusion.hooks import added_tokens
from etude.training.batches import Batch
from etude.training.fit import fit
from etude.training.opening import Opening
from etude.training.plan import Optimization
from tasks import shell

RESULT = Path(__file__).parent.parent / "logs" / "benchmarks" / "rows.json"
VECTORS, PROMPTS, LENGTH = 4, 4, 77


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each side.")] = 9,
    steps: Annotated[int, typer.Option(min=1, help="Steps of a turn.")] = 20,
) -> None:
    """Print the milliseconds of a step of each side: the median of the turns' CPU time."""
    make_deterministic(1)
    base = random_base("sd1", Opening(("text",), (), "fp32", lambda _: True, recompute=False), "cpu")
    table = base.text_encoders[0].get_input_embeddings()
    rows = table.weight[:VECTORS].detach().clone().requires_grad_()
    seconds: dict[str, list[float]] = {"rows": [], "table": []}
    whole = _whole(table)
    for _ in range(rounds):
        with added_tokens(base, {"word": rows}):
            seconds["rows"].append(_ours(rows, table, steps))
        with _trained(table):
            seconds["table"].append(_timed(whole))
    medians = {side: 1000 * statistics.median(values) for side, values in seconds.items()}
    Console().print(f"rows: {medians['rows']:.2f} ms a step, whole table: {medians['table']:.0f} ms", highlight=False)
    write_json(RESULT, {"seconds": seconds, "vocabulary": VOCABULARY, "vectors": VECTORS})


def _ours(rows: Tensor, table: Callable[[Tensor], Tensor], steps: int) -> float:
    """The median time of a step of `fit`, with everything that `fit` does in a step."""
    never = {"steps": steps, "checkpoint_every": steps, "resume_every": steps, "log_every": steps}
    plan = Optimization.model_validate(shipped("textual_inversion")["training"] | never)
    ids = _ids(-1 - torch.arange(VECTORS))

    def loss(_: Batch) -> Tensor:
        return table(ids).sum()

    with tempfile.TemporaryDirectory() as folder:
        report = _Timed(Path(folder), seed=0, device="cpu", precision="fp32")
        report.times = []
        empty = torch.zeros(0)
        fit({"rows": rows}, loss, lambda _: Batch((), empty, empty), plan, report)
    return statistics.median(later - earlier for earlier, later in pairwise(report.times))


class _Timed(Silent):
    times: list[float]

    def advance(self, done: int) -> None:
        """A step is done."""
        self.times.append(time.process_time())

    def keep(self, state: dict[str, Any]) -> None:
        """Save nothing: only the time of a step is measured."""


def _whole(table: Any) -> Callable[[], None]:
    """A step on the whole table."""
    before = table.weight.detach().clone()
    others = torch.ones(VOCABULARY, dtype=torch.bool)
    others[-VECTORS:] = False
    optimizer = torch.optim.AdamW([table.weight], lr=5e-4)
    ids = _ids(VOCABULARY - 1 - torch.arange(VECTORS))

    def step() -> None:
        table(ids).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            table.weight[others] = before[others]

    return step


@contextmanager
def _trained(table: Any) -> Iterator[None]:
    table.weight.requires_grad_(True)
    try:
        yield
    finally:
        table.weight.requires_grad_(False)


def _ids(word: Tensor) -> Tensor:
    """The tokens of the prompts [B, 77], each with the word."""
    ids = torch.arange(LENGTH).repeat(PROMPTS, 1)
    ids[:, 1 : 1 + VECTORS] = word
    return ids


def _timed(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    shell.run(main)
