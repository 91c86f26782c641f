"""The switches that save memory: what they change, and that a run that was stopped ends with the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor

from etude.base.loading import load_base
from etude.core.params import MethodParams
from etude.diffusion.weights import parameters_of
from etude.training.opening import open_base
from etude.training.report import Report
from tests.etude.training.test_plan import ADAMW, SGD
from tests.pipelines.learning import learn, on_tiny, params_of, same

SHORTEST = {"steps": 2, "checkpoint_every": 2, "batch_size": 1}
CHANGES: dict[str, Any] = {"lora": {"targets": ["attention"]}}
each_kind = pytest.mark.parametrize(
    "method", ["lora", "textual_inversion", "custom_diffusion", "dreambooth", "null_text_inversion"]
)


@pytest.fixture(autouse=True)
def _one_precision() -> Iterator[None]:
    AcceleratorState._reset_state(reset_partial_state=True)  # it holds the precision of a process
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def chosen(method: str, folder: Path, training: dict[str, Any] | None = None, **switches: Any) -> MethodParams:
    return params_of(method, training, **on_tiny(method, folder), **CHANGES.get(method, {}), **switches)


@each_kind
def test_what_is_trained_is_in_float32_as_in_the_file_and_all_else_in_half(tiny_base: Path, method: str) -> None:
    params, whole = chosen(method, tiny_base, base_precision="bf16"), load_base(tiny_base)
    base = open_base(tiny_base, params)
    own = parameters_of("unet", whole.unet)
    for name, tensor in parameters_of("unet", base.unet).items():
        assert tensor.dtype == (torch.float32 if params.trains(name) else torch.bfloat16), name
        assert torch.equal(tensor, own[name].to(tensor.dtype)), name
    trained = [name for name in own if params.trains(name)]
    counts = {"custom_diffusion": 32, "dreambooth": len(own)}
    assert len(trained) == counts.get(method, 0)


RELEASED = SHORTEST | {"clip": 0.0, "optimizer": ADAMW | {"kind": "adafactor"}}
WHOLE = {"gradient_release": True, "trained_precision": "bf16"}


@pytest.mark.parametrize(
    ("method", "training", "more"),
    [("lora", SHORTEST, {}), ("custom_diffusion", SHORTEST, {}), ("dreambooth", RELEASED, WHOLE)],
)
def test_a_run_with_every_switch_that_was_stopped_goes_on_to_the_same_bits(
    tiny_base: Path,
    tmp_path: Path,
    method: str,
    training: dict[str, Any],
    more: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    params = chosen(method, tiny_base, training, base_precision="bf16", recompute=True, **more)
    whole = learn(method, open_base(tiny_base, params), params, tmp_path / "whole", precision="bf16")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Report, "keep", stop_after(1, Report.keep))
        learn(method, open_base(tiny_base, params), params, tmp_path / "parts", precision="bf16")
    resumed = learn(method, open_base(tiny_base, params), params, tmp_path / "parts", precision="bf16")
    assert same(resumed.tensors, whole.tensors)
    drawn = [
        sorted((p.name, p.read_bytes()) for p in (tmp_path / run).glob("results/*/*")) for run in ("whole", "parts")
    ]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 2  # a checkpoint and its preview


def test_autograd_keeps_no_copy_of_a_frozen_weight_in_half(tiny_base: Path, tmp_path: Path) -> None:
    kept: dict[str, int] = {"fp32": 0, "bf16": 0}
    for own in kept:
        params = chosen("lora", tiny_base, {**SHORTEST, "steps": 1}, base_precision=own)
        base = open_base(tiny_base, params)
        weights = {weight.data_ptr() for weight in base.unet.parameters()}

        def keep(tensor: Tensor, own: str = own, weights: set[int] = weights) -> Tensor:
            kept[own] += 0 if tensor.data_ptr() in weights else tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            learn("lora", base, params, tmp_path / own, precision="bf16")
    layers = [m.weight for m in base.unet.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    assert kept["fp32"] - kept["bf16"] > sum(weight.numel() for weight in layers)  # two bytes each, of most of them


@pytest.mark.parametrize("method", ["lora", "hypernetwork", "null_text_inversion"])
def test_recomputing_keeps_few_activations_and_gives_the_same_bits(
    tiny_base: Path, tmp_path: Path, method: str
) -> None:
    """The hypernetwork drops values at random, which must be the same when they are computed again."""
    sizes: dict[bool, int] = {False: 0, True: 0}
    built = {}
    for switch in sizes:

        def keep(tensor: Tensor, switch: bool = switch) -> Tensor:
            sizes[switch] += tensor.numel()
            return tensor

        params = chosen(method, tiny_base, SHORTEST, recompute=switch)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            built[switch] = learn(method, open_base(tiny_base, params), params, tmp_path / str(switch))
    assert same(built[True].tensors, built[False].tensors)
    assert sizes[True] < sizes[False] / 2


@pytest.mark.parametrize("method", ["fine_tuning", "dreambooth"])
def test_trained_weights_in_half_are_those_of_the_file_and_all_learn(
    tiny_base: Path, tmp_path: Path, method: str
) -> None:
    own: dict[str, Any] = {"trained_precision": "bf16", "base_precision": "bf16"}
    fast = RELEASED | {"learning_rate": 1e-2, "optimizer": ADAMW}
    params = chosen(method, tiny_base, fast, **own)
    base = open_base(tiny_base, params)
    before = {name: p.detach().clone() for name, p in parameters_of("unet", base.unet).items()}
    assert {tensor.dtype for tensor in before.values()} == {torch.bfloat16}
    built = learn(method, base, params, tmp_path, precision="bf16").tensors
    moved = {name for name, tensor in before.items() if not torch.equal(built[name].float(), tensor.float())}
    assert len(moved) > 0.9 * len(before)
    assert all(torch.equal(p, before[name]) for name, p in parameters_of("unet", base.unet).items())


@pytest.mark.parametrize("method", ["fine_tuning", "dreambooth"])
def test_gradient_release_learns_the_same(tiny_base: Path, tmp_path: Path, method: str) -> None:
    """In float32; the text encoder, whose output several parts read, is trained as well."""
    found = {}
    for switch in (False, True):
        params = chosen(method, tiny_base, RELEASED | {"optimizer": SGD}, gradient_release=switch)
        found[switch] = learn(method, open_base(tiny_base, params), params, tmp_path / str(switch)).tensors
    assert same(found[True], found[False])


def stop_after(step: int, keep: Any) -> Any:
    """`Report.keep`, but the run stops when this step was saved."""

    def kept(report: Report, state: dict[str, Any]) -> None:
        keep(report, state)
        if state["step"] == step:
            raise KeyboardInterrupt

    return kept
