"""Train a method by its params.yaml: ``artifacts/<method>/build/``.

The loss curve is written to ``…/training/``, pictures drawn during training to ``…/previews/``. During training, both
are in ``logs/curves/<method>/`` and ``logs/previews/<method>/``.
"""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etude.base.settings import Text, text_faults
from etude.core.code import versions
from etude.core.errors import BaseError, ParamsError
from etude.core.families import FAMILIES
from etude.core.files import write_json
from etude.core.memory import advising, during, peak
from etude.core.method import Method, load_method
from etude.core.mixins import OwnBase, base_of, models_of
from etude.core.params import MethodParams, Schema, load, pick
from etude.core.store import key
from etude.training.inputs import Request, load_inputs
from etude.training.optimizer import PACKAGES, refuse_missing
from etude.training.plan import Trained
from etude.training.preview import preview_of
from etude.training.processes import is_launched, is_main, spread
from etude.training.sets import SOURCES, FurtherSets, recorded, refuse_changed_sets
from etude.training.settings import Compute, RunParams, refuse_missing_trackers
from etude.training.start import Start, load_start, refuse_unfit
from etude.training.switches import RESUMING, advice
from tasks.shell import look_of, publish, run
from tasks.shell.console import say, warn
from tasks.shell.digests import forget_others

if TYPE_CHECKING:
    from etude.base.base import Base
    from etude.core.artifact import Artifact
    from etude.training.report import Report
    from etude.watch.looks import Look

__all__ = ["StageParams", "build"]
LOGS = Path("logs")
LIBRARIES = (
    "accelerate",
    "diffusers",
    "peft",
    "safetensors",
    "torch",
    "transformers",
)  # their versions can change the result


class StageParams(Schema):
    """The parts of params.yaml that this stage depends on."""

    base: str
    compute: Compute
    device: str
    precision: str
    processes: int
    seed: int
    text: Text
    threads: int


def build(method: str) -> None:
    """Train METHOD on its image set. A killed run resumes from its last saved state."""
    start, stage_params, module = time.monotonic(), pick("params.yaml", StageParams), load_method(method)
    file = Path("pipelines", method, "params.yaml")
    params = load(file, module.Params)
    refuse_missing_trackers(pick("params.yaml", RunParams).trackers)
    _refuse_excluded(params, stage_params, file)
    path = base_of(params, stage_params.base)
    family = _family(method, module, path, file if isinstance(params, OwnBase) else Path("params.yaml"))
    _tell_of_gpus(stage_params)
    _refuse_too_large(method, stage_params)
    sources = Path("artifacts", method, SOURCES)
    forget_others(sources, params.further_sets if isinstance(params, FurtherSets) else ())
    spread(stage_params.processes)
    beginning, further = load_start(params, sources / "start"), recorded(params, sources)
    refuse_unfit(params, beginning, path, family)
    look = look_of(Path("pipelines", method, "dvc.yaml"), "build")
    look.add([*models_of(params).values(), *further])
    look.add([beginning.path.parent.as_posix()] if beginning else [])
    inputs = look.digests()
    refuse_changed_sets(further, inputs)
    facts = _facts(params, stage_params, inputs, path, beginning) | {"family": family}
    _tell_other_vae(method, path, Path(stage_params.base))
    from etude.training.compute import naming_kernels  # torch is imported only after the parameters were checked

    with advising(lambda: advice(params, stage_params.precision)), naming_kernels():
        data = load_inputs(module, Request(method, params, inputs))
        with during("loading the base"):
            base, report = _open(method, params, stage_params, path, _scratch(method, params, inputs, facts))
        report.beginning = beginning
        facts |= {"prediction": base.prediction, "resolution": base.resolution}
        artifact = module.build(base=base, **data, params=params, report=report)
    if not is_main():
        return
    look.refuse_changed()  # before gigabytes are copied
    _publish(method, artifact, report.finish(), facts, look)
    _keep_state(report, params)
    _measure(LOGS / f"build-{method}.json", time.monotonic() - start)
    say(f"{method}: {len(artifact.tensors)} tensors in artifacts/{method}/build/artifact.safetensors")


def _scratch(method: str, params: MethodParams, inputs: Mapping[str, str], facts: Mapping[str, Any]) -> Path:
    """The folder of a run's state: another one for every change, except of the steps and of the keys in `RESUMING`."""
    lasting = {name: value for name, value in params.recipe().items() if name not in RESUMING}
    if isinstance(params, Trained):  # a longer run may resume from the state of a shorter one: `usable_state`
        lasting["training"] = {name: value for name, value in lasting["training"].items() if name != "steps"}
    return Path(".scratch", f"{method}-{key(inputs, {**facts, 'params': lasting})[:16]}")


def _refuse_excluded(params: MethodParams, stage_params: StageParams, file: Path) -> None:
    """Raise ParamsError if settings exclude each other on this device, or a package is not installed."""
    for fault, action in text_faults(params, stage_params.text):
        raise ParamsError(file, fault, action)
    if not isinstance(params, Trained):
        return
    refuse_missing(params.training.optimizer, file)
    from etude.base.loading import choose_device

    device = choose_device(stage_params.device).type
    for fault, action in params.excluded(stage_params.model_copy(update={"device": device})):
        raise ParamsError(file, fault, action)


def _family(method: str, module: Method, path: Path, file: Path) -> str:
    """The family of the base in ``path``, which ``file`` names; raises BaseError for one that is not supported."""
    from etude.base.family import recognise

    family = recognise(path)
    if reason := module.unsupported.get(family):
        fault = f"is of the family {family}, which {method} does not support: {reason}"
        others = " or ".join(name for name in FAMILIES if name not in module.unsupported)
        raise BaseError(path, fault, f"set `base` in {file.as_posix()} to a base of {others}")
    return family


def _refuse_too_large(method: str, stage_params: StageParams) -> None:
    """Raise InputError, before weights are read, for a build in one process that does not fit on the GPU."""
    room = _room(stage_params.device)
    if room and stage_params.processes == 1 and not is_launched():
        # imported by name, so that the stage does not depend on this code, which changes no result
        import_module("etude.estimates").refuse_too_large(method, room)


def _tell_of_gpus(stage_params: StageParams) -> None:
    """Raise ParamsError for device cuda without a GPU, or with fewer than `processes`: NCCL refuses two on one GPU.

    Warns of bf16 on a GPU that only emulates it.
    """
    import torch

    from etude.base.loading import choose_device

    if choose_device(stage_params.device).type != "cuda" or is_launched():
        return
    there, count = torch.cuda.device_count(), stage_params.processes
    if not there:
        action = "write `device: auto`, or install a torch for CUDA and the GPU's driver"
        raise ParamsError("params.yaml", "`device` is cuda, and torch finds no GPU", action)
    if count > there:
        fault = f"`processes` is {count}, but this stage can use {there} GPU{'s' * (there != 1)}"
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        fault += f" (CUDA_VISIBLE_DEVICES is {shown})" if shown else ""
        raise ParamsError("params.yaml", fault, f"write `processes: {there}`, or give it more GPUs")
    if stage_params.precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name()
        warn(f"params.yaml: {name} only emulates `precision: bf16`, slowly. Next: write `precision: fp16`")


def _room(device: str) -> int:
    """Bytes of the GPU's memory; 0 without one."""
    import torch

    from etude.base.loading import choose_device

    return int(torch.cuda.mem_get_info()[1]) if choose_device(device).type == "cuda" else 0


def _tell_other_vae(method: str, own: Path, shared: Path) -> None:
    """Warn if a method's own base has another VAE than the project's base, with which the latents were encoded."""
    from etude.base.digest import part_digest

    if own != shared and part_digest(own, "vae") != part_digest(shared, "vae"):
        fault = f"{method}: {own}/vae differs from {shared}/vae, with which the pictures were encoded"
        warn(f"{fault}. Next: set `base` in pipelines/{method}/params.yaml to a base with the same VAE")


def _facts(
    params: MethodParams, stage_params: StageParams, inputs: Mapping[str, str], path: Path, beginning: Start | None
) -> dict[str, Any]:
    """The facts about how the artifact was made; with ``inputs``, they contain everything that it depends on."""
    import torch

    from etude.base.loading import choose_device

    device = choose_device(stage_params.device).type
    read = [path, *map(Path, models_of(params).values())]
    read += [beginning.path.parent] if beginning else []
    processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return {
        "params": params.recipe(),
        "base": path.as_posix(),
        "inputs": {name: inputs[name] for name in inputs if name.startswith("data/") or Path(name) in read},
        "seed": stage_params.seed,
        "threads": stage_params.threads,
        "processes": stage_params.processes,
        "precision": stage_params.precision,
        "compute": stage_params.compute.model_dump(),
        **({} if stage_params.text.is_plain else {"reading": stage_params.text.model_dump()}),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "cpu": processor,
        "versions": versions(*LIBRARIES, *_package(params)),
    }


def _package(params: MethodParams) -> tuple[str, ...]:
    """The package that the chosen optimizer needs, if any."""
    package = PACKAGES.get(params.training.optimizer.kind) if isinstance(params, Trained) else None
    return (package,) if package else ()


def _open(
    method: str, params: MethodParams, stage_params: StageParams, path: Path, scratch: Path
) -> tuple[Base, Report]:
    """The base, opened as its method needs it, and a report with previews."""
    from etude.base.loading import choose_device
    from etude.base.waiting import discard
    from etude.training.compute import accelerate, choose_kernels
    from etude.training.curve import Curve
    from etude.training.opening import open_base
    from etude.training.preview import draw, encode_fixed
    from etude.training.report import Report
    from etude.training.trackers import Trackers

    choose_kernels(stage_params.compute, stage_params.threads, choose_device(stage_params.device).type)
    preview, base = preview_of(params), open_base(path, params, stage_params.device, stage_params.text)
    accelerate(base, stage_params.compute)
    chosen, device = pick("params.yaml", RunParams).trackers, base.device.type
    report = Report(scratch, stage_params.seed, device, stage_params.precision, watch=LOGS / "previews" / method)
    report.curve = Curve(LOGS / "curves" / method)
    report.trackers = Trackers(chosen, LOGS / "trackers" / scratch.name, params.recipe(), device)
    if preview and is_main():  # other processes draw nothing
        texts = encode_fixed(base, preview, params, stage_params.precision)
        report.preview = lambda: draw(base, preview, params.word, stage_params.precision, texts)
        report.preview_every = preview.every
        with during("drawing the preview of the untouched base"):
            report.draw_again(0)
    report.prepared = partial(discard, base, "text")  # when steps begin, all texts are encoded, those of previews too
    return base, report


def _publish(method: str, artifact: Artifact, results: Path, facts: Mapping[str, Any], look: Look) -> None:
    """Replace the old artifact, checkpoints, previews and curve by the new ones; artifacts get all facts."""
    from etude.core import artifact as artifacts

    steps = []
    with publish(Path("artifacts", method, "build"), look) as out:
        for path in sorted((results / "checkpoints").glob("*.safetensors")):
            checkpoint = artifacts.load(path)
            steps.append(checkpoint.facts["step"])
            full = artifacts.Artifact(method, checkpoint.tensors, {**facts, **checkpoint.facts})
            artifacts.save(full, out / "checkpoints" / path.name)
        last = {"step": max(steps)} if steps else {}
        full = artifacts.Artifact(method, artifact.tensors, {**facts, **last, **artifact.facts})
        artifacts.save(full, out / "artifact.safetensors")
    for name in ("previews", "training"):  # empty for a method without previews or training
        with publish(Path("artifacts", method, name), look) as out:
            if (results / name).is_dir():
                shutil.copytree(results / name, out, dirs_exist_ok=True)


def _keep_state(report: Report, params: MethodParams) -> None:
    """Keep the state of a run that has ended for `keep_states` days, if a longer run can resume from it."""
    from etude.training.report import forget_finished

    days = pick("params.yaml", RunParams).keep_states
    if isinstance(params, Trained) and days:
        report.retain(params.training.steps, state=params.training.schedule == "constant")
    else:
        report.discard()
    forget_finished(Path(".scratch"), days)


def _measure(path: Path, seconds: float) -> None:
    """Write time and memory of this run to a log; for a resumed run, those since it was resumed."""
    import torch

    costs = {"seconds": round(seconds, 1), "memory_bytes": peak()}
    if torch.cuda.is_available():
        costs["device_memory_bytes"] = torch.cuda.max_memory_allocated()
    write_json(path, costs)


if __name__ == "__main__":
    run(build)
