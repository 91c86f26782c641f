"""Every kind of optimizer, for all parameters together and for each on its own; those of packages where these are."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from etude.core.artifact import Artifact
from etude.training.fit import fit
from etude.training.optimizer import PACKAGES, Optimizer
from etude.training.plan import Optimization
from etude.training.report import Report
from etude.training.updates import Group, make_optimizer, rounded
from tests.etude.training.test_fit import Points, batches
from tests.etude.training.test_plan import ADAMW, BLOCK, SGD

KINDS = get_args(Optimizer.model_fields["kind"].annotation)
RATES = {"prodigy": 1.0, "sgd": 1e-4, "adafactor": 1e-3}
PLAN = {"steps": 12, "clip": 0.0, "checkpoint_every": 6, "resume_every": 4, "log_every": 5, "warmup_steps": 2}


def needs(kind: str) -> Any:
    """A parameter of a test that is skipped where the package of this kind is not installed."""
    package = PACKAGES.get(kind)
    lacking = package is not None and not find_spec(package)
    return pytest.param(kind, marks=pytest.mark.skipif(lacking, reason=f"{package} is not installed"))


each_kind = pytest.mark.parametrize("kind", [needs(kind) for kind in KINDS])


def plan_of(kind: str, **changes: Any) -> Optimization:
    own = {"optimizer": ADAMW | {"kind": kind}, "learning_rate": RATES.get(kind, 1e-3)}
    return Optimization(**{**BLOCK, **PLAN, **own, **changes})


def train(
    scratch: Path,
    plan: Optimization,
    *,
    release: bool = False,
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """Learn the first coordinate of the points with a layer large enough for states of 8 bits, and a small one."""
    torch.manual_seed(0)
    wide, narrow = torch.randn(4, 2048) / 2, torch.randn(2048, 1) / 64
    parameters = {"wide": wide.to(dtype).requires_grad_(), "narrow": narrow.to(dtype).requires_grad_()}

    def loss(batch: Points) -> Tensor:
        hidden = torch.nn.functional.dropout(batch.x @ parameters["wide"].float(), 0.1)
        return (hidden @ parameters["narrow"].float() - batch.x[:, :1]).square().mean()

    report, learned = Report(scratch, 1, "cpu", "fp32"), Artifact("test", dict(parameters), {}, "fp32")
    fit(parameters, loss, batches, plan, report, learned, release=release)
    assert report.history[-1][1] < report.history[0][1]
    return [tensor.detach().clone() for tensor in parameters.values()]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def fits(kind: str, release: bool, dtype: str) -> bool:
    """Whether the table allows them together."""
    if kind == "prodigy":
        return not release and dtype == "float32"
    return kind != "schedule_free" or dtype == "float32"


CASES = [
    pytest.param(kind, release, dtype, marks=needs(kind).marks)
    for kind in KINDS
    for release in (False, True)
    for dtype in ("float32", "bfloat16")
    if fits(kind, release, dtype)
]


@pytest.mark.parametrize(("kind", "release", "dtype"), CASES)
def test_a_stopped_run_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, release: bool, dtype: str
) -> None:
    how: Any = {"release": release, "dtype": getattr(torch, dtype)}
    whole = train(tmp_path / "whole", plan_of(kind), **how)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Report, "advance", stop_at(7))
        train(tmp_path / "parts", plan_of(kind), **how)
    assert equal(train(tmp_path / "parts", plan_of(kind), **how), whole)
    for step in ("000006", "000012"):
        name = f"results/checkpoints/{step}.safetensors"
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def stop_at(step: int) -> Any:
    """`Report.advance`, but the run stops there: the state of step 4 is the last that was saved."""

    def advance(_report: Report, done: int) -> None:
        if done == step:
            raise KeyboardInterrupt

    return advance


@each_kind
def test_checkpoints_change_nothing_of_what_is_learned(tmp_path: Path, kind: str) -> None:
    """Schedule-free training saves other values than those at which it goes on."""
    one, many = (train(tmp_path / f"{n}", plan_of(kind, checkpoint_every=n)) for n in (12, 2))
    assert equal(one, many)


@pytest.mark.parametrize("kind", [needs(kind) for kind in KINDS if kind != "prodigy"])
def test_each_on_its_own_gives_what_all_together_give(tmp_path: Path, kind: str) -> None:
    together, apart = (train(tmp_path / f"{each}", plan_of(kind), release=each) for each in (False, True))
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_gradients_are_given_up_one_after_the_other_in_backward(tmp_path: Path) -> None:
    """The second gradient of backward comes when the first is gone."""
    first, second = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    seen: list[tuple[bool, bool]] = []
    for tensor in (first, second):
        tensor.register_post_accumulate_grad_hook(lambda _: seen.append((first.grad is None, second.grad is None)))

    def loss(_: Points) -> Tensor:
        return ((first * 2).detach() * second).sum() + (first * second.detach()).sum() * 0 + (first * 2).sum()

    plan = plan_of("adamw", steps=1, warmup_steps=0, checkpoint_every=1)
    fit({"a": first, "b": second}, loss, batches, plan, Report(tmp_path, 0, "cpu", "fp32"), release=True)
    assert len(seen) == 2
    assert all(one != other for one, other in seen)  # only its own is there
    assert first.grad is None
    assert second.grad is None
    (first * second).sum().backward()  # after the run nothing changes a parameter any more
    assert first.grad is not None
    assert torch.equal(first.grad, second.detach())


def test_the_ordinary_optimizer_is_torchs_fused_adamw_to_the_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    start = torch.randn(4, 1)
    own, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()

    def loss_of(w: Tensor) -> Any:
        return lambda batch: (batch.x @ w - batch.x[:, :1]).square().mean()

    plan = Optimization(**{**BLOCK, "steps": 5, "clip": 0.0})
    fit({"w": own}, loss_of(own), batches, plan, Report(tmp_path, 0, "cpu", "fp32"))
    optimizer = torch.optim.AdamW([theirs], lr=1e-3, weight_decay=0.01, fused=True)
    for index in range(5):
        loss_of(theirs)(batches(index)).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(own, theirs)


@each_kind
def test_betas_eps_and_weight_decay_reach_the_optimizer(kind: str) -> None:
    settings = Optimizer(kind=kind, betas=[0.8, 0.95], eps=1e-5, weight_decay=0.3)
    (group,) = make_optimizer([[torch.zeros(2, requires_grad=True)]], settings).param_groups
    assert group["weight_decay"] == 0.3
    if kind not in ("adafactor", "sgd"):
        assert (tuple(group["betas"]), group["eps"]) == ((0.8, 0.95), 1e-5)


def test_rounding_at_random_is_right_on_average_and_exact_where_it_can_be() -> None:
    values = torch.linspace(-3, 3, 4001)
    bits = values.view(torch.int32) & -(2**16)
    down, up = bits.view(torch.float32), (bits + 2**16).view(torch.float32)  # its two neighbours
    drawn = torch.stack([rounded(values, seed).float() for seed in range(400)])
    assert ((drawn == down) | (drawn == up)).all()
    assert ((drawn.mean(dim=0) - values) / (up - down)).abs().max() < 0.15  # six standard errors
    exact = values.to(torch.bfloat16)
    assert torch.equal(rounded(exact.float(), 5), exact)
    assert torch.equal(rounded(values, 5), rounded(values, 5))
    assert not torch.equal(rounded(values, 5), rounded(values, 6))


def test_changes_too_small_for_bfloat16_count_on_average(tmp_path: Path) -> None:
    w = torch.ones(4096, dtype=torch.bfloat16, requires_grad=True)
    plan = Optimization(**{**BLOCK, "optimizer": SGD, "steps": 10, "clip": 0.0, "learning_rate": 1e-4})
    fit({"w": w}, lambda _: w.float().sum(), batches, plan, Report(tmp_path, 0, "cpu", "fp32"))
    assert w.detach().float().mean().item() == pytest.approx(1 - 10 * 1e-4, abs=2e-4)
    assert torch.equal(torch.ones(1, dtype=torch.bfloat16) - 1e-4, torch.ones(1, dtype=torch.bfloat16))


def test_the_two_groups_of_a_run_have_their_own_rates_apart_as_well(tmp_path: Path) -> None:
    still, moved = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    groups = [Group({"a": still}, 0.0), Group({"b": moved})]
    plan = Optimization(**{**BLOCK, "optimizer": SGD, "steps": 1, "clip": 0.0, "learning_rate": 0.5})
    fit(groups, lambda _: (still + moved).sum(), batches, plan, Report(tmp_path, 0, "cpu", "fp32"), release=True)
    assert still.tolist() == [1, 1, 1]
    assert moved.tolist() == [0.5, 0.5, 0.5]
