"""How a build computes: what is not deterministic is refused by name, and what a machine cannot do is left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from etude.base.base import Base
from etude.core.errors import TrainingError
from etude.training import compute
from etude.training.compute import LeftOutWarning, accelerate, choose_kernels, compile_in_place, naming_kernels
from etude.training.settings import Compute
from tests.etude.core.test_randomness import restored  # noqa: F401
from tests.tasks.learning import COMPUTE


def settings(**changes: Any) -> Compute:
    return Compute.model_validate(COMPUTE | changes)


@pytest.fixture
def _attention() -> Iterator[None]:
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    yield
    for allow in compute._ATTENTION.values():
        allow(True)
    for backend, allowed in zip(backends, before, strict=True):
        backend.allow_tf32 = allowed


@pytest.fixture
def _as_before() -> Iterator[None]:
    torch.compiler.reset()
    with torch._dynamo.config.patch(recompile_limit=8):
        yield
    torch.compiler.reset()


def put_at_random() -> Tensor:
    """An operation without a deterministic kernel: which of the values for one place stays is left open."""
    return torch.zeros(3).put_(torch.tensor([0, 0]), torch.tensor([1.0, 2.0]))


@pytest.mark.usefixtures("restored")
def test_an_operation_that_is_not_deterministic_is_refused_by_name_unless_any_kernel_is_allowed() -> None:
    choose_kernels(settings(), 2, "cpu")
    with pytest.raises(TrainingError, match=r"put_.*Next: write `compute.deterministic: false`"), naming_kernels():
        put_at_random()
    choose_kernels(settings(deterministic=False), 2, "cpu")
    assert put_at_random().sum() in (1.0, 2.0)
    assert torch.get_num_threads() == 2


def test_another_error_stays_as_it_is() -> None:
    with pytest.raises(RuntimeError, match="size of tensor"), naming_kernels():
        torch.zeros(2) + torch.zeros(3)


@pytest.mark.usefixtures("restored", "_attention")
def test_switches_of_a_gpu_are_set_for_one_and_left_out_with_a_warning_on_a_cpu() -> None:
    asked = settings(tf32=True, attention="flash", graphs=True)
    with pytest.warns(LeftOutWarning, match="have no effect on the CPU"):
        choose_kernels(asked, 1, "cpu")
    assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cuda.mem_efficient_sdp_enabled()
    choose_kernels(asked, 1, "cuda")
    assert torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32
    allowed = (torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.math_sdp_enabled())
    refused = (torch.backends.cuda.mem_efficient_sdp_enabled(), torch.backends.cuda.cudnn_sdp_enabled())
    assert (all(allowed), any(refused)) == (True, False)


def test_attention_that_is_not_deterministic_is_refused_where_determinism_is_asked() -> None:
    with pytest.raises(ValueError, match="cudnn"):
        settings(attention="cudnn")
    assert settings(attention="cudnn", deterministic=False).attention == "cudnn"


def test_channels_last_changes_the_layout_and_no_value(sd1: Base) -> None:
    before = {name: p.clone() for name, p in sd1.unet.named_parameters()}
    try:
        accelerate(sd1, settings(channels_last=True))
        assert sd1.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
        assert all(torch.equal(p, before[name]) for name, p in sd1.unet.named_parameters())
    finally:
        sd1.unet.to(memory_format=torch.contiguous_format)


class Layer(nn.Module):
    """A linear layer with a curve behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).sigmoid()


def test_a_compiled_module_computes_the_same() -> None:
    module, x = Layer(), torch.randn(2, 3)
    plain = module(x)
    compile_in_place(module, backend="aot_eager")
    torch.testing.assert_close(module(x), plain, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("_as_before")
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # in torch's own code
def test_recorded_graphs_compute_the_same_and_have_the_same_gradients_for_each_size() -> None:
    module, pictures = Layer(), [torch.randn(count, 3) for count in (2, 3, 4)]
    expected = [_with_gradient(module, x) for x in pictures]
    compile_in_place(module, "graphs", backend=compute.recorded, dynamic=False)  # on a CPU it records nothing
    for x, (plain, gradient) in zip(pictures, expected, strict=True):
        value, own = _with_gradient(module, x)
        torch.testing.assert_close(value, plain, rtol=0, atol=1e-6)
        torch.testing.assert_close(own, gradient, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("_as_before")
def test_graphs_are_left_out_on_a_cpu_and_recorded_elsewhere(sd1: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(compute, "compile_in_place", lambda _, switch, **how: given.append((switch, how)))
    accelerate(sd1, settings(graphs=True))
    assert given == []
    on_gpu = replace(sd1, unet=Layer(), device=torch.device("cuda"))
    accelerate(on_gpu, settings(graphs=True))
    accelerate(on_gpu, settings(graphs=True, compile=True))
    accelerate(on_gpu, settings(compile=True))
    assert given == [
        ("graphs", {"backend": compute.recorded, "dynamic": False}),
        ("compile", {"mode": "reduce-overhead", "dynamic": False}),
        ("compile", {}),
    ]


@pytest.mark.usefixtures("_as_before")
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # in torch's own code
def test_a_recording_leaves_the_weights_where_they_are_and_copies_the_pictures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[tuple[list[torch.Size], list[torch.Size]]] = []  # forward: shapes of what stays, and of what is copied

    def record(model: Any, given: list[Tensor], fixed: Any, **settings: Any) -> Any:
        if not settings["is_backward"]:
            shapes, stay = [each.shape for each in given], set(fixed)
            copied = [shape for place, shape in enumerate(shapes) if place not in stay]
            found.append(([shapes[place] for place in stay], copied))
        return model

    monkeypatch.setattr("torch._inductor.cudagraph_trees.cudagraphify_impl", record)
    monkeypatch.setattr("torch._dynamo.backends.cudagraphs.check_for_skip", lambda *_: None)
    monkeypatch.setattr("torch._dynamo.backends.cudagraphs.get_device_index", lambda _: 0)
    module = Layer()
    compile_in_place(module, "graphs", backend=compute.recorded, dynamic=False)
    _with_gradient(module, torch.randn(2, 3))
    weights = sorted(parameter.shape for parameter in module.parameters())
    assert [(sorted(stay), copied) for stay, copied in found] == [(weights, [torch.Size((2, 3))])]


def test_the_answers_of_recorded_graphs_are_copies_that_a_further_call_does_not_overwrite(
    sd1: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, module = torch.zeros(2, 3), Layer()

    def replayed(module: nn.Module, *_: Any, **__: Any) -> None:
        module.forward = lambda x: (memory.copy_(x),)

    monkeypatch.setattr(compute, "compile_in_place", replayed)
    accelerate(replace(sd1, unet=module, device=torch.device("cuda")), settings(graphs=True))
    (first,), (second,) = module(torch.ones(2, 3)), module(torch.full((2, 3), 2.0))
    assert (first.unique().tolist(), second.unique().tolist()) == ([1.0], [2.0])


def _with_gradient(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    module.zero_grad()
    value = module(x)
    value.sum().backward()
    gradient = next(module.parameters()).grad
    assert gradient is not None
    return value.detach(), gradient.clone()


@pytest.mark.usefixtures("_as_before")
def test_a_module_that_cannot_be_compiled_is_called_as_before_with_one_warning() -> None:
    module, x = Layer(), torch.randn(2, 3)
    plain = module(x)

    def broken(*_: Any) -> Any:
        raise OSError("no C++ compiler")

    compile_in_place(module, backend=broken)  # type: ignore[arg-type]
    with pytest.warns(LeftOutWarning, match=r"`compile` failed and is ignored .*no C\+\+ compiler"):
        assert torch.equal(module(x), plain)
    assert torch.equal(module(x), plain)  # any further warning would be an error
