"""What a training step computes, counted: no clock decides whether these tests pass.

The budgets are the counts of the present code on the tiny base. A change that needs more operators raises one here,
and says why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.inputs import Inputs
from benchmarks.plain import Loop, load
from etude.base.base import Base
from etude.core.method import load_method, method_names, needs
from etude.core.mixins import OwnBase
from etude.core.params import MethodParams
from etude.training.opening import open_base
from etude.training.plan import Trained
from etude.training.report import Report
from tests.pipelines.learning import image_set, params_of

# Operators of a step, those that only make views left out; attention as plain products, which are more of them. A plain
# loop has 5681 for LoRA and 8829 for fine-tuning, without those of attention.
BUDGETS = {
    "custom_diffusion": 3729,
    "dream_artist": 3661,
    "dreambooth": 3357,
    "fine_tuning": 3344,
    "hypernetwork": 3757,
    "lora": 4093,
    "textual_inversion": 3645,
}
READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal")  # for which the host waits for a GPU
STEPS = {"steps": 4, "checkpoint_every": 4, "resume_every": 4, "log_every": 4, "batch_size": 2}
COUNTED = 2  # the step that is counted: the first ones make states, the last one is logged


class Operators(TorchDispatchMode):
    """Counts operators by name while ``counting``."""

    def __init__(self) -> None:
        super().__init__()
        self.counting, self.calls = False, Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.counting and not func.is_view:
            self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


class Counted:
    """A build whose third step is counted: its operators, its FLOPs beside the formula's, and the parts it called."""

    def __init__(self, method: str, folder: Path, scratch: Path) -> None:
        self.operators, self.flops = Operators(), 0.0
        self.formula, self.calls, self.kept = 0, Counter[str](), list[Tensor]()
        self.params, module = short(method), load_method(method)
        self.base = open_base(folder, self.params)
        data = {name: value for name, value in image_set(whole(folder)).items() if name in needs(module)}
        self._hooks = ExitStack()
        report = _Stepping(scratch, seed=3, device="cpu", precision="fp32")
        report.counted = self
        with ExitStack() as undo, sdpa_kernel(SDPBackend.MATH):  # whose products are plain ones, which are counted
            undo.enter_context(self.operators)
            module.build(base=self.base, params=self.params, report=report, **data)

    def begin(self) -> None:
        """The step that is counted begins."""
        self.operators.counting = True
        self._counter = self._hooks.enter_context(FlopCounterMode(display=False))
        self._hooks.callback(register_module_forward_hook(self._forward).remove)
        attention = nn.functional.scaled_dot_product_attention
        self._hooks.callback(setattr, nn.functional, "scaled_dot_product_attention", attention)
        nn.functional.scaled_dot_product_attention = self._attention(attention)
        self._hooks.enter_context(torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor))

    def end(self) -> None:
        """The step that is counted has ended."""
        self.operators.counting, self.flops = False, self._counter.get_total_flops()
        self._hooks.close()

    def _keep(self, tensor: Tensor) -> Tensor:
        self.kept.append(tensor)
        return tensor

    def _forward(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.calls[type(module).__name__] += 1
        if isinstance(module, nn.Linear | nn.Conv2d):
            each = module.weight[0].numel()  # products for a number of the output
            again = int(module.weight.requires_grad) + int(inputs[0].requires_grad)
            self.formula += 2 * output.numel() * each * (1 + again)

    def _attention(self, attend: Any) -> Any:
        def counted(q: Tensor, k: Tensor, v: Tensor, *rest: Any, **settings: Any) -> Any:
            product = 2 * q.numel() * k.shape[-2]
            scores = q.requires_grad or k.requires_grad
            backward = int(v.requires_grad) + int(scores) + int(q.requires_grad) + int(k.requires_grad)
            self.formula += product * (2 + backward)
            return attend(q, k, v, *rest, **settings)

        return counted


class _Stepping(Report):
    counted: Counted

    def advance(self, done: int) -> None:
        if done == COUNTED:
            self.counted.begin()
        if done == COUNTED + 1:
            self.counted.end()


def short(method: str) -> MethodParams:
    """The shipped params for four steps without previews; LoRA of attention alone, as in the plain loop."""
    changes = {"targets": ["attention"]} if method == "lora" else {}
    params = params_of(method, STEPS, **changes)
    return params.model_copy(update={"preview": params.preview.model_copy(update={"seeds": []})})  # type: ignore[attr-defined]


def whole(folder: Path) -> Base:
    """The base with all its parts, which the pictures' inputs are made with."""
    from etude.base.loading import load_base

    return load_base(folder)


def learning() -> list[str]:
    """The methods that train in steps on an ordinary base."""
    kinds = {name: load_method(name).Params for name in method_names()}
    return [name for name, kind in kinds.items() if issubclass(kind, Trained) and not issubclass(kind, OwnBase)]


@pytest.fixture(scope="module", params=learning())
def counted(request: pytest.FixtureRequest, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Counted:
    return Counted(request.param, tiny_base, tmp_path_factory.mktemp("run"))


@contextmanager
def _counting(operators: Operators) -> Iterator[None]:
    with operators:
        operators.counting = True
        yield


def test_a_step_has_no_more_operators_than_its_budget(counted: Counted, request: pytest.FixtureRequest) -> None:
    method = request.node.callspec.params["counted"]
    assert counted.operators.calls.total() <= BUDGETS[method], counted.operators.calls.most_common(12)


def test_no_step_between_two_points_of_the_curve_waits_for_the_device(counted: Counted) -> None:
    assert {name: counted.operators.calls[name] for name in READS} == dict.fromkeys(READS, 0)


def test_a_step_computes_what_the_formula_says_and_nothing_else(counted: Counted) -> None:
    """2 · products of each layer, once forward, and once for each gradient that is needed of it."""
    assert counted.flops == pytest.approx(counted.formula, rel=0.01)


def test_parts_whose_results_are_cached_are_not_called(counted: Counted) -> None:
    assert counted.calls["UNet2DConditionModel"] == 1
    assert counted.calls["AutoencoderKL"] + counted.calls["Decoder"] + counted.calls["Encoder"] == 0
    texts = counted.calls["CLIPTextModel"]
    assert texts == ("text" in counted.params.step_parts)


def test_no_copy_of_a_frozen_weight_is_kept_for_the_gradients(counted: Counted) -> None:
    frozen = [p for p in counted.base.unet.parameters() if not p.requires_grad and p.ndim > 1]
    own = {p.untyped_storage().data_ptr() for p in counted.base.unet.parameters()}
    copies = [one for one in counted.kept if one.untyped_storage().data_ptr() not in own]
    assert not [one for one in copies for p in frozen if one.shape == p.shape and torch.equal(one, p)]


@pytest.mark.parametrize("method", ["lora", "fine_tuning"])
def test_a_plain_loop_needs_more_operators(tiny_base: Path, method: str) -> None:
    side = torch.randn(3, 4, 8, 8)
    inputs = Inputs(side, torch.full_like(side, -6.0), ("a", "b", "c"), torch.randn(3, 77, 32), torch.randn(1, 77, 32))
    loop, operators = Loop(method, inputs, load(tiny_base), 2), Operators()
    with sdpa_kernel(SDPBackend.MATH):
        loop.step()
        with _counting(operators):
            loop.step()
    assert operators.calls.total() > BUDGETS[method]
    assert operators.calls["_local_scalar_dense"] > 0
