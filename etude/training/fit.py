"""The one training loop: it updates parameters to lower ``loss(batch)``. It contains nothing about diffusion.

Random numbers are seeded from the run's seed and the step, and batches are a function of the step. So the saved state
consists only of parameters, optimizer, average and losses, and a resumed run ends with the same result, to the bit.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import check_cuda_p2p_ib_support
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from etude.core.artifact import Artifact
from etude.core.errors import TrainingError
from etude.core.memory import during
from etude.core.randomness import mix, seed_generators
from etude.training.autocast import computing
from etude.training.average import Average
from etude.training.further import usable_state
from etude.training.plan import Optimization
from etude.training.processes import forget_scheduler
from etude.training.report import Report
from etude.training.updates import Apart, Group, Together, Updates


class Named(Protocol):
    """A batch: any data that ``loss`` reads, and the names of its images for error messages."""

    @property
    def names(self) -> Sequence[str]:
        """One name for each sample."""


B = TypeVar("B", bound=Named)


def _nothing(*_: object) -> None:
    pass


def fit(
    parameters: Mapping[str, Tensor] | Sequence[Group],
    loss: Callable[[B], Tensor],
    batches: Callable[[int], B],
    plan: Optimization,
    report: Report,
    learned: Artifact | None = None,
    *,
    release: bool = False,
    refresh: Callable[[], None] = _nothing,
    after_step: Callable[[int], None] = _nothing,
) -> Artifact:
    """Train ``parameters`` (leaf tensors that require gradients) for ``plan.steps`` steps.

    They are in float32, or in bfloat16 with random rounding. See `updates.Apart` for this and for ``release``.

    ``batches(i)`` is a pure function of i; ``loss`` uses torch's global random generator. At the end, the parameters
    have the values of the average if ``plan.ema`` is on.

    ``learned`` is the artifact whose tensors are the parameters, or views of them. It is saved at every checkpoint, and
    a copy of it is returned. Without ``learned`` nothing is saved, and the returned artifact has no tensors.
    ``refresh`` is called before saving and copying: it updates tensors that are computed from the parameters.

    Raises TrainingError, with step and images, if a loss is not finite. Losses are checked only at log intervals and
    before saving, so that no other step waits for the device.
    """
    if report.beginning and learned:
        report.beginning.copy_into(learned.tensors)
    groups = [Group(parameters)] if isinstance(parameters, Mapping) else list(parameters)
    tensors = [tensor for group in groups for tensor in group.parameters.values()]
    device = _accelerator(report)
    if release or any(tensor.dtype == torch.bfloat16 for tensor in tensors):
        updates: Updates = Apart(groups, plan.optimizer, seed=report.seed, release=release)
    else:
        updates = Together(groups, plan.optimizer, device)
    average = Average(tensors, plan.ema)
    run = _Run(tensors, updates, average, device, plan.steps)
    start = run.restore(usable_state(report, plan))
    device.wait_for_everyone()  # all have read the state before one of them writes there
    if device.is_main_process:
        report.clear(start, partial(_saved, start, plan), partial(_drawn, start, plan, report))
    report.prepared()
    report.start(start, plan.steps)
    if start and _draws(start, plan, report) and device.is_main_process:
        with during(f"drawing the preview of step {start}"), run.published():
            refresh()
            report.draw_again(start)
    for step in range(start, plan.steps):
        with during(f"step {step + 1} of the training"):
            release_recordings()
            with updates.step(step, plan.rate(step)):
                run.losses.append(_gradients(loss, batches, step, plan, report, device))
                _share(tensors, device)
                if plan.clip:
                    device.unscale_gradients()  # of fp16
                    clip_grad_norm_(tensors, plan.clip)
            if (step + 1) % plan.ema_every == 0 or _is_checkpoint(step + 1, plan):
                average.update(step + 1)
        after_step(step)
        if _is_due(step + 1, plan, report):
            _check(run, batches, step + 1, plan, device)
            if device.is_main_process:
                _record(run, step + 1, plan, report, learned, refresh)
        report.advance(step + 1)
    if run.window and device.is_main_process:  # since the last interval; not in a state, as more steps may follow
        report.log(plan.steps, run.mean_loss(), plan.rate(plan.steps - 1))
    updates.end()
    average.load()
    refresh()
    return (learned or Artifact("", {}, {})).copied()


def _is_due(done: int, plan: Optimization, report: Report) -> bool:
    """Whether anything is logged, saved or drawn after ``done`` steps; if so, losses are read and checked first."""
    intervals = (plan.log_every, plan.checkpoint_every, plan.resume_every)
    return done == plan.steps or any(done % interval == 0 for interval in intervals) or _draws(done, plan, report)


def _draws(done: int, plan: Optimization, report: Report) -> bool:
    return report.draws(done, checkpoint=_is_checkpoint(done, plan), last=done == plan.steps)


def _saved(start: int, plan: Optimization, done: int) -> bool:
    """Whether a run that resumes after ``start`` steps already has the checkpoint after ``done`` steps."""
    return done <= start and _is_checkpoint(done, plan)


def _drawn(start: int, plan: Optimization, report: Report, done: int) -> bool:
    """Whether a run that resumes after ``start`` steps has the preview after ``done`` steps already (0: the base)."""
    return done == 0 or (done <= start and _draws(done, plan, report))


def _record(
    run: _Run,
    done: int,
    plan: Optimization,
    report: Report,
    learned: Artifact | None,
    refresh: Callable[[], None],
) -> None:
    """Log and save after ``done`` steps, each at its interval: a point of the curve, a checkpoint, the resume state.

    The state is saved before the preview is drawn: otherwise a preview that fails would fail in each resumed run.
    """
    last, at_checkpoint = done == plan.steps, _is_checkpoint(done, plan)
    if done % plan.log_every == 0:
        report.log(done, run.mean_loss(), plan.rate(done - 1))
    if at_checkpoint:
        with during(f"saving the checkpoint of step {done}"), run.published():
            refresh()
            report.checkpoint(done, learned)
    draws = _draws(done, plan, report)
    if done % plan.resume_every == 0 or last or draws:
        with during(f"saving the state of step {done}"):
            report.keep(run.state(done))
    if draws:
        with during(f"drawing the preview of step {done}"), run.published():
            refresh()
            report.draw(done)


def _is_checkpoint(done: int, plan: Optimization) -> bool:
    return done % plan.checkpoint_every == 0 or done == plan.steps


def _accelerator(report: Report) -> Accelerator:
    precision = {"fp32": "no", "fp16": "fp16", "bf16": "bf16"}[report.precision]
    if report.device == "cpu" and precision == "fp16":
        raise TrainingError("params.yaml", "`precision: fp16` needs a GPU", "choose fp32 or bf16")
    forget_scheduler()
    if report.device == "cuda" and not check_cuda_p2p_ib_support():
        # several GPUs of the kind RTX 40 with a driver before 550: accelerate raises an error without these two
        for name in ("NCCL_P2P_DISABLE", "NCCL_IB_DISABLE"):
            os.environ.setdefault(name, "1")
    threads = torch.get_num_threads()
    accelerator = Accelerator(cpu=report.device == "cpu", mixed_precision=precision)
    torch.set_num_threads(threads)  # with several processes on a CPU, accelerate changes their number
    return accelerator


def release_recordings() -> None:
    """From now on, the graphs of `compute.graphs` may overwrite what the UNet has computed so far.

    Without this call in each step they would do so at each forward pass, and overwrite a gradient that is summed over
    batches. Without it in drawing, each step of a picture would be recorded by itself, as one after the other.
    """
    if trees := sys.modules.get("torch._inductor.cudagraph_trees"):  # imported with the first recording
        trees.mark_step_begin()


def _gradients(
    loss: Callable[[B], Tensor],
    batches: Callable[[int], B],
    step: int,
    plan: Optimization,
    report: Report,
    device: Accelerator,
) -> Tensor:
    """Add up the gradients of one step's batches; returns the mean loss, still on the device."""
    total: Tensor | None = None
    for part in range(plan.accumulation):
        index = (step * plan.accumulation + part) * device.num_processes + device.process_index
        seed_generators(mix(report.seed, "step", index), report.device)
        batch = batches(index)
        with computing(report.device, report.precision):
            value = loss(batch) / plan.accumulation
        (device.scaler.scale(value) if device.scaler else value).backward()
        total = value.detach() if total is None else total + value.detach()
    assert total is not None
    return total.float()


def _share(tensors: Sequence[Tensor], device: Accelerator) -> None:
    """Average the gradients over processes, many in each message. DDP would need a module; there are only tensors."""
    if device.num_processes > 1:
        for bucket in _buckets([tensor.grad for tensor in tensors if tensor.grad is not None]):
            mean = device.reduce(torch.cat([gradient.flatten() for gradient in bucket]), reduction="mean")
            for gradient, part in zip(bucket, mean.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(part.view_as(gradient))


def _buckets(gradients: Sequence[Tensor], size: int = 2**24) -> list[list[Tensor]]:
    """``gradients`` in groups of at least ``size`` numbers (the last may be smaller): few messages, limited memory."""
    buckets: list[list[Tensor]] = [[]]
    count = 0
    for gradient in gradients:
        if count >= size:
            buckets.append([])
            count = 0
        buckets[-1].append(gradient)
        count += gradient.numel()
    return [bucket for bucket in buckets if bucket]


def _check(run: _Run, batches: Callable[[int], B], done: int, plan: Optimization, device: Accelerator) -> None:
    """Raise TrainingError if a loss since the last check is not finite; it names the first such step."""
    losses = run.collect()
    for position, value in enumerate(losses):
        if not math.isfinite(value):
            step = done - len(losses) + position
            first = step * plan.accumulation * device.num_processes
            count = plan.accumulation * device.num_processes
            names = sorted({name for i in range(first, first + count) for name in batches(i).names})
            action = "lower `training.learning_rate`, set `precision: fp32`, or check these images"
            raise TrainingError(f"step {step + 1}", f"the loss is {value} on {', '.join(names)}", action)


class _Run:
    """The state of a run that changes during training, and how it is saved and restored."""

    def __init__(
        self, tensors: Sequence[Tensor], updates: Updates, average: Average, device: Accelerator, steps: int
    ) -> None:
        self.tensors, self.updates, self.average, self.device = tensors, updates, average, device
        self.steps = steps  # of the whole run
        self.losses: list[Tensor] = []  # on the device, not yet read
        self.window: list[float] = []  # read, not yet logged

    def collect(self) -> list[float]:
        """Read the losses since the last call; waits for the device once."""
        values: list[float] = torch.stack(self.losses).tolist() if self.losses else []
        self.losses.clear()
        self.window += values
        return values

    @contextmanager
    def published(self) -> Iterator[None]:
        """Within the block, the parameters have the values to be saved."""
        with self.updates.published(), self.average.applied():
            yield

    def mean_loss(self) -> float:
        """Mean of the losses since the last point of the curve."""
        mean = sum(self.window) / len(self.window)
        self.window.clear()
        return mean

    def state(self, step: int) -> dict[str, Any]:
        """The state on which the rest of the run depends."""
        scaler = self.device.scaler
        return {
            "step": step,
            "steps": self.steps,
            "parameters": [tensor.detach() for tensor in self.tensors],
            "optimizer": self.updates.state(),
            "average": self.average.values,
            "averaged": self.average.steps,
            "window": self.window,
            "scaler": scaler.state_dict() if scaler else {},
        }

    def restore(self, state: dict[str, Any] | None) -> int:
        """Restore a saved state; returns the step at which to resume, 0 without a state."""
        if state is None:
            return 0
        with torch.no_grad():
            for tensor, value in zip(self.tensors, state["parameters"], strict=True):
                tensor.copy_(value)
        self.average.restore(state["average"], state["averaged"])
        self.updates.load(state["optimizer"])
        if self.device.scaler:
            self.device.scaler.load_state_dict(state["scaler"])
        self.window = list(state["window"])
        return int(state["step"])
