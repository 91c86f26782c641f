"""A LoRA step on a Stable Diffusion 1.5 of the true size, on the CPU: `python -m benchmarks.true_size`.

The weights are random, in a diffusers folder in float16, as people's files are. What is measured is anonymous memory:
what a process holds besides pages of files. Two things are compared with it: what is counted for the same run, as
`etude memory` does it for a GPU, and what diffusers + peft hold with the same recomputing: in a plain loop that gets
latents and texts encoded (plain), and as diffusers' script does it, which encodes both at each step (script).
Each side is a process of its own, and there twice. The second time the allocator gives every freed tensor of 1 MB back
to the system at once: that is what the tensors take. The first time it is glibc's as it is, which keeps freed pieces
below 32 MB, in gaps that the next ones may not fit. It takes a quarter of an hour on two cores, and 8 GB.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML

from benchmarks.bases import schedule, write_base
from benchmarks.inputs import ROOT, Inputs, shipped
from benchmarks.plain import Loop, Model, Script
from benchmarks.side import anonymous
from benchmarks.silent import Silent
from etude.base.waiting import discard
from etude.core.errors import InputError
from etude.core.files import write_json
from etude.core.method import load_method
from etude.core.params import MethodParams, validate
from etude.memory.build import count_build
from etude.memory.footprint import Footprint, Setup
from etude.training.compute import accelerate, choose_kernels
from etude.training.opening import open_base
from etude.training.settings import Compute
from tasks import shell

RESULT = ROOT / "logs" / "benchmarks" / "true_size.json"
METHOD = "lora"
SIZE = 512  # px
PICTURES = 4
Precision = Literal["bf16", "fp32"]
RUNS: dict[str, dict[str, Any]] = {
    "etude, as in the preset": {},
    "etude, the UNet alone": {"text_encoder_rate": 0.0},  # what the plain loop trains
    "plain": {"text_encoder_rate": 0.0},
    "script": {"text_encoder_rate": 0.0},
}


ALLOCATORS: dict[str, dict[str, str]] = {"glibc's": {}, "all given back": {"MALLOC_MMAP_THRESHOLD_": f"{1 << 20}"}}


def main(
    precision: Annotated[Precision, typer.Option(help="Of the computation and of the frozen weights.")] = "bf16",
    steps: Annotated[int, typer.Option(min=1, help="Of each side.")] = 2,
    base: Annotated[Path | None, typer.Option(help="A folder for the base, which is kept; it may be there.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of each side.")] = 2,
    only: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Print what each side held, and what was counted for it."""
    if only:
        assert base
        answer = measure(only, base, precision, steps, threads)
        sys.stdout.write(json.dumps(answer) + "\n")  # the other process reads it
        return
    with tempfile.TemporaryDirectory(prefix="etude-benchmark-") as folder:
        place = base or Path(folder, "base")
        if not place.exists():
            write_base(place, "sd1")
        counts = {name: counted(place, precision, RUNS[name]) for name in RUNS if name not in OTHERS}
        kept = {name: asdict(count) | {"peak": count.peak} for name, count in counts.items()}
        how = {"precision": precision, "steps": steps, "threads": threads, "torch": torch.__version__, "counted": kept}
        found: dict[str, dict[str, Any]] = {allocator: {} for allocator in ALLOCATORS}
        for allocator, settings in ALLOCATORS.items():
            runs = found[allocator]
            for name in RUNS:
                runs[name] = _apart(name, place, precision, steps, threads, settings)
                write_json(RESULT, how | {"allocators": found})  # each run takes minutes
            ours = runs["etude, the UNet alone"]["steps"]
            runs["ratios"] = {other: ours / runs[other]["steps"] for other in OTHERS}
        write_json(RESULT, how | {"allocators": found})
    show(found, counts)


def measure(name: str, base: Path, precision: Precision, steps: int, threads: int) -> dict[str, int]:
    """Bytes that a side held: at the start, above it after loading, and above it at most, in all and in the steps."""
    params = params_of(precision, RUNS[name], steps)
    with _watched() as peaks:
        start = anonymous()
        take = OTHERS.get(name, _etude)
        loaded = take(base, precision, params, threads, peaks)
    return {"start": start, "loaded": loaded - start, "most": max(peaks) - start, "steps": peaks[-1] - start}


def params_of(precision: Precision, changes: dict[str, Any], steps: int = 2) -> MethodParams:
    """The method's params with the values of the preset sd15, without previews, for so many steps."""
    values = shipped(METHOD)
    for key, value in preset()[f"pipelines/{METHOD}/params.yaml"].items():
        *blocks, last = key.split(".")
        block = values
        for each in blocks:
            block = block[each]
        block[last] = value
    plan = {"steps": steps, "checkpoint_every": steps, "resume_every": steps, "log_every": 1, "warmup_steps": 0}
    values["training"] |= plan
    values["preview"] |= {"seeds": []}
    values |= {"base_precision": precision} | changes
    return validate(values, load_method(METHOD).Params, Path("pipelines", METHOD, "params.yaml"))


def counted(base: Path, precision: Precision, changes: dict[str, Any]) -> Footprint:
    """What `etude memory` counts for the same build, on the host."""
    setup = Setup(base, "sd1", SIZE, precision, device="cpu")
    return count_build(load_method(METHOD), METHOD, params_of(precision, changes), setup)


def show(found: dict[str, dict[str, Any]], counts: dict[str, Footprint]) -> None:
    """Print the table."""
    table = Table("allocator", "run", "loaded, GB", "most, GB", "counted, GB", "more than counted")
    for allocator, runs in found.items():
        for name in RUNS:
            row = [allocator, name, *(f"{runs[name][key] / 1e9:.2f}" for key in ("loaded", "most"))]
            if count := counts.get(name):
                row += [f"{count.peak / 1e9:.2f}", f"{runs[name]['most'] / count.peak - 1:+.0%}"]
            table.add_row(*row)
    Console().print(table)
    for other in OTHERS:
        ratios = ", ".join(f"{runs['ratios'][other]:.2f} ({allocator})" for allocator, runs in found.items())
        Console().print(f"steps of the UNet alone, ours beside {other}: {ratios}", highlight=False)


class _Report(Silent):
    """Says when loading is over and steps begin."""

    peaks: list[int]
    loaded: int

    def start(self, step: int, steps: int) -> None:
        """All that stays is there."""
        self.loaded = anonymous()
        self.peaks.append(0)


def _etude(base: Path, precision: Precision, params: Any, threads: int, peaks: list[int]) -> int:
    compute = preset()["params.yaml"]
    compute = {key.partition(".")[2]: value for key, value in compute.items() if key.startswith("compute.")}
    settings = Compute.model_validate(compute)
    choose_kernels(settings, threads, "cpu")
    opened = open_base(base, params)
    accelerate(opened, settings)
    inputs, module = _inputs(), load_method(METHOD)
    with tempfile.TemporaryDirectory() as folder:
        report = _Report(Path(folder), seed=0, device="cpu", precision=precision)
        report.peaks, report.prepared = peaks, partial(discard, opened, "text")
        module.build(base=opened, params=params, report=report, **inputs.given(module, params))
    return report.loaded


def _plain(base: Path, precision: Precision, params: Any, threads: int, peaks: list[int]) -> int:
    model, _ = _model(base, precision, threads)
    return _run(Loop(METHOD, _inputs(), model, params.training.batch_size, rank=params.rank), params, peaks)


def _model(base: Path, precision: Precision, threads: int) -> tuple[Model, torch.dtype]:
    """As diffusers' script: frozen weights in the precision of the computation, and gradient checkpointing."""
    from diffusers import UNet2DConditionModel

    torch.set_num_threads(threads)
    dtype, mixed = (torch.bfloat16, "bf16") if precision == "bf16" else (torch.float32, "no")
    unet = UNet2DConditionModel.from_pretrained(base / "unet", torch_dtype=dtype)
    unet.enable_gradient_checkpointing()
    return Model(unet, schedule("sd1"), precision=mixed), dtype


def _script(base: Path, precision: Precision, params: Any, threads: int, peaks: list[int]) -> int:
    """As `_plain`, with VAE and text encoder."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel

    model, dtype = _model(base, precision, threads)
    model.encoder = CLIPTextModel.from_pretrained(base / "text_encoder", dtype=dtype)
    vae = AutoencoderKL.from_pretrained(base / "vae", torch_dtype=dtype)
    return _run(Script(METHOD, _inputs(), model, params.training.batch_size, params.rank, vae, SIZE), params, peaks)


def _run(loop: Loop, params: Any, peaks: list[int]) -> int:
    loaded = anonymous()
    peaks.append(0)
    for _ in range(params.training.steps):
        loop.step()
    return loaded


OTHERS = {"plain": _plain, "script": _script}


@contextmanager
def _watched() -> Iterator[list[int]]:
    """Inside, the last number of the list becomes the most bytes held since it is there."""
    peaks, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.002):
            peaks[-1] = max(peaks[-1], anonymous())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


def _apart(
    name: str, base: Path, precision: Precision, steps: int, threads: int, settings: dict[str, str]
) -> dict[str, Any]:
    """`measure` in a process of its own, with these settings of its allocator."""
    command = [sys.executable, "-m", "benchmarks.true_size", "--only", name, "--base", str(base)]
    command += ["--precision", precision, "--steps", str(steps), "--threads", str(threads)]
    env = os.environ | {"HF_HUB_OFFLINE": "1"} | settings
    done = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise InputError(name, "ended before its steps were done", "read what it wrote above")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@cache
def preset() -> dict[str, dict[str, Any]]:
    """The values of the preset sd15, by file."""
    values: dict[str, dict[str, Any]] = YAML(typ="safe").load(ROOT / "presets" / "sd15.yaml")
    return values


def _inputs() -> Inputs:
    """Random moments and states of some pictures."""
    side = SIZE // 8
    mean, states = torch.randn(PICTURES, 4, side, side), torch.randn(PICTURES, 77, 768)
    texts = tuple(f"owl {number}" for number in range(PICTURES))
    return Inputs(mean, torch.full_like(mean, -6.0), texts, states, states[:1])


if __name__ == "__main__":
    shell.run(main)
