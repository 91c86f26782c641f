"""What changes the parameters of a run: one optimizer for all of them, or one for each.

One for each allows weights in bfloat16, and gradients that are freed as soon as they are used (``release``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from etude.core.randomness import mix
from etude.training import average
from etude.training.optimizer import Optimizer


@dataclass(frozen=True)
class Group:
    """Parameters with the same learning rate: ``rate`` times the plan's."""

    parameters: Mapping[str, Tensor]
    rate: float = 1.0

    @property
    def tensors(self) -> list[Tensor]:
        """The parameters without their names."""
        return list(self.parameters.values())


def make_optimizer(groups: Sequence[Sequence[Tensor]], settings: Optimizer) -> torch.optim.Optimizer:
    """The optimizer of these groups of float32 tensors. Each group's ``lr`` must be set before each step."""
    return _MAKERS[settings.kind]([{"params": group} for group in groups], settings)  # type: ignore[no-any-return]


def _adamw(groups: Any, settings: Optimizer) -> Any:
    return torch.optim.AdamW(groups, **_of_adam(settings), fused=True)


def _adamw8bit(groups: Any, settings: Optimizer) -> Any:
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(groups, **_of_adam(settings))


def _adafactor(groups: Any, settings: Optimizer) -> Any:
    """That of transformers: torch's multiplies the rate by the size of each weight, so no tool's rates fit it."""
    from transformers.optimization import Adafactor

    own = {"scale_parameter": False, "relative_step": False, "warmup_init": False}
    return Adafactor(groups, lr=0.0, weight_decay=settings.weight_decay, **own)


def _prodigy(groups: Any, settings: Optimizer) -> Any:
    """Prodigy with the two switches that its authors advise for diffusion models; the second matters with a warm-up."""
    from prodigyopt import Prodigy

    own = {"use_bias_correction": True, "safeguard_warmup": True}
    with redirect_stdout(StringIO()):  # it prints which weight decay it uses
        return Prodigy(groups, **{**_of_adam(settings), "lr": 1.0}, **own)


def _schedule_free(groups: Any, settings: Optimizer) -> Any:
    from schedulefree import AdamWScheduleFree

    optimizer = AdamWScheduleFree(groups, **_of_adam(settings))
    optimizer.train()
    return optimizer


def _sgd(groups: Any, settings: Optimizer) -> Any:
    return torch.optim.SGD(groups, lr=0.0, weight_decay=settings.weight_decay)


def _of_adam(settings: Optimizer) -> dict[str, Any]:
    betas = (settings.betas[0], settings.betas[1])
    return {"lr": 0.0, "betas": betas, "eps": settings.eps, "weight_decay": settings.weight_decay}


_MAKERS: Mapping[str, Callable[[Any, Optimizer], Any]] = {
    "adamw": _adamw,
    "adamw8bit": _adamw8bit,
    "adafactor": _adafactor,
    "prodigy": _prodigy,
    "schedule_free": _schedule_free,
    "sgd": _sgd,
}


class Updates:
    """What changes the parameters of a run, with one optimizer or several."""

    def __init__(self, groups: Sequence[Group], settings: Optimizer, optimizers: Sequence[Any]) -> None:
        self._tensors = [tensor for group in groups for tensor in group.tensors]
        self._optimizers = optimizers
        self._averages = settings.kind == "schedule_free"

    def step(self, number: int, rate: float) -> AbstractContextManager[None]:
        """The context in which step ``number`` (0-based) computes gradients; at its end, the parameters are changed."""
        raise NotImplementedError

    @contextmanager
    def published(self) -> Iterator[None]:
        """Within the block, the parameters have the values to be saved; on exit, exactly the values from before.

        Schedule-free training computes gradients at other values, and rounds when it converts between the two.
        """
        if not self._averages:
            yield
            return
        own = [average.to_host(tensor) for tensor in self._tensors]
        self.end()
        try:
            yield
        finally:
            for optimizer in self._optimizers:
                optimizer.train()
            with torch.no_grad():
                for tensor, value in zip(self._tensors, own, strict=True):
                    tensor.copy_(value)

    def end(self) -> None:
        """After the last step: give the parameters the values to be saved."""
        for optimizer in self._optimizers if self._averages else ():
            optimizer.eval()

    def state(self) -> list[Any]:
        """What the rest of the run depends on, besides the parameters."""
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def load(self, states: Sequence[Any]) -> None:
        """Continue from a saved `state`."""
        for optimizer, state in zip(self._optimizers, states, strict=True):
            optimizer.load_state_dict(state)


class Together(Updates):
    """One optimizer that changes all parameters at the end of a step."""

    def __init__(self, groups: Sequence[Group], settings: Optimizer, device: Accelerator) -> None:
        self._rates = [group.rate for group in groups]
        optimizer = make_optimizer([group.tensors for group in groups], settings)
        # accelerate's wrapper is for scaled gradients; at every step it looks for packages on the disk
        self._optimizer: Any = device.prepare(optimizer) if device.scaler else optimizer
        super().__init__(groups, settings, [self._optimizer])

    @contextmanager
    def step(self, number: int, rate: float) -> Iterator[None]:
        """See `Updates.step`."""
        for settings, own in zip(self._optimizer.param_groups, self._rates, strict=True):
            settings["lr"] = rate * own
        yield
        self._optimizer.step()
        self._optimizer.zero_grad()


class Apart(Updates):
    """An optimizer for each parameter.

    With ``release`` it changes its parameter during backward, as soon as the gradient is computed, and then frees it.
    A parameter in bfloat16 is changed in float32 and then rounded at random, by numbers that are a function of seed,
    step and parameter.
    """

    def __init__(self, groups: Sequence[Group], settings: Optimizer, *, seed: int, release: bool) -> None:
        self._seed, self._release = seed, release
        self._parts = [_Part(tensor, group.rate, settings) for group in groups for tensor in group.tensors]
        super().__init__(groups, settings, [part.optimizer for part in self._parts])

    @contextmanager
    def step(self, number: int, rate: float) -> Iterator[None]:
        """See `Updates.step`; with ``release`` each parameter changes inside."""
        changes = [partial(self._change, place, number, rate) for place in range(len(self._parts))]
        if not self._release:
            yield
            for change in changes:
                change()
            return
        hooks = [part.on_gradient(change) for part, change in zip(self._parts, changes, strict=True)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _change(self, place: int, number: int, rate: float, _tensor: Tensor | None = None) -> None:
        self._parts[place].change(rate, mix(self._seed, "rounding", number, place))


class _Part:
    """A parameter and its optimizer."""

    def __init__(self, tensor: Tensor, rate: float, settings: Optimizer) -> None:
        self.tensor, self._rate = tensor, rate
        # what the optimizer changes: the parameter itself, or its values in float32, which exist only during a change
        self._wide = tensor if tensor.dtype == torch.float32 else torch.empty(0, device=tensor.device)
        self.optimizer = make_optimizer([[self._wide]], settings)

    def on_gradient(self, change: Callable[[Tensor], None]) -> Any:
        """Call ``change`` whenever the parameter's gradient is computed, until the returned handle is removed."""
        return self.tensor.register_post_accumulate_grad_hook(change)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def change(self, rate: float, seed: int) -> None:
        """Change the parameter by its gradient, if it has one, and free the gradient."""
        if self.tensor.grad is None:
            return
        self.optimizer.param_groups[0]["lr"] = rate * self._rate
        if self._wide is self.tensor:
            self.optimizer.step()
        else:
            self._wide.data, self._wide.grad = self.tensor.detach().float(), self.tensor.grad.float()
            self.optimizer.step()
            self.tensor.copy_(rounded(self._wide, seed))
            self._wide.data, self._wide.grad = self._wide.new_empty(0), None
        self.tensor.grad = None


def rounded(values: Tensor, seed: int) -> Tensor:
    """float32 as bfloat16: each value up or down at random, so that the mean is the value (Gupta et al., 2015,
    arXiv:1502.02551). A value that bfloat16 can represent stays as it is.

    bfloat16 is the upper half of float32. A random number is added to the lower half, which may carry into the upper.
    """
    generator = torch.Generator(values.device).manual_seed(seed)
    lower = torch.randint(2**16, values.shape, generator=generator, dtype=torch.int32, device=values.device)
    bits = (values.contiguous().view(torch.int32) + lower) & -(2**16)
    return bits.view(torch.float32).to(torch.bfloat16)
