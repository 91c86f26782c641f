from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image
from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.errors import TrainingError
from etude.core.memory import work_of
from etude.core.randomness import mix
from etude.training.curve import Curve
from etude.training.fit import _accelerator, _buckets, fit
from etude.training.plan import Optimization
from etude.training.processes import OURS
from etude.training.report import Report
from etude.training.updates import Group
from tests.etude.training.test_plan import ADAMW, BLOCK, SGD


@dataclass
class Points:
    names: tuple[str, ...]
    x: Tensor


def batches(index: int) -> Points:
    """Eight points, a function of the index alone."""
    return Points((f"point {index}",), torch.randn(8, 4, generator=torch.Generator().manual_seed(index)))


def train(
    scratch: Path, plan: dict[str, Any], *, kill_at: int = -1, poison: int = -1, rates: tuple[float, ...] = (1.0,)
) -> tuple[list[Tensor], Report]:
    """Fit weights to the first coordinate, with dropout so that the generator matters."""
    torch.manual_seed(0)
    weights = [torch.randn(4, 1, requires_grad=True) for _ in rates]
    report = Report(scratch=scratch, seed=1, device="cpu", precision="fp32", curve=Curve(scratch / "curve"))
    calls = iter(range(10**6))

    def loss(batch: Points) -> Tensor:
        error = torch.nn.functional.dropout(batch.x, 0.2) @ torch.stack(weights).sum(0) - batch.x[:, :1]
        return (error**2).mean() * (float("nan") if next(calls) == poison else 1.0)

    def after_step(step: int) -> None:
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    learned = Artifact("test", {"w": weights[0]}, {})
    groups = [Group({"w": w}, rate) for w, rate in zip(weights, rates, strict=True)]
    fit(groups, loss, batches, Optimization(**{**BLOCK, **plan}), report, learned, after_step=after_step)
    return [w.detach().clone() for w in weights], report


PLAN = {
    "steps": 30, "learning_rate": 0.05, "schedule": "cosine", "warmup_steps": 3, "ema": 0.9, "accumulation": 2,
    "checkpoint_every": 15, "resume_every": 4, "log_every": 5,
}  # fmt: skip


@pytest.mark.parametrize("plan", ["PLAN", "PLAN | {'ema_every': 7}"])
def test_a_killed_run_ends_with_the_same_bits_a_second_time_too(tmp_path: Path, plan: str) -> None:
    whole, report = train(tmp_path / "whole", eval(plan))
    for kill in (6, 23):  # the first after a point of the curve that no state has
        code = (
            "from pathlib import Path; from tests.etude.training.test_fit import *;"
            f"train(Path({str(tmp_path / 'killed')!r}), {plan}, kill_at={kill})"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert run.returncode == -signal.SIGKILL, run.stderr
    assert "resumed at step 4 of 30" in run.stderr
    resumed, again = train(tmp_path / "killed", eval(plan))
    assert torch.equal(whole[0], resumed[0])
    assert report.history == again.history
    again.finish()
    for name in ("loss.tsv", "learning_rate.tsv"):  # while it learned, and at its end
        files = [tmp_path / run / "plots/metrics" / name for run in ("whole/curve", "killed/curve")]
        files.append(tmp_path / "killed/results/training/plots/metrics" / name)
        assert len({file.read_bytes() for file in files}) == 1
    for step in ("000015", "000030"):
        name = f"results/checkpoints/{step}.safetensors"
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


ON = PLAN | {"schedule": "constant", "warmup_steps": 3}  # 22 steps end between points of the curve, and checkpoints


def further(scratch: Path, *plans: dict[str, Any]) -> tuple[list[Tensor], Report]:
    """Runs one after the other, each of which ends and keeps its state."""
    for plan in plans:
        weights, report = train(scratch, plan)
        report.finish()
        report.retain(plan["steps"], state=plan["schedule"] == "constant")
    return weights, report


def test_more_steps_go_on_from_a_finished_run_with_the_bits_of_all_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts, _ = further(tmp_path / "parts", ON | {"steps": 22}, ON | {"steps": 40})
    assert "resumed at step 22 of 40" in capsys.readouterr().err
    whole, report = further(tmp_path / "whole", ON | {"steps": 40})
    assert torch.equal(parts[0], whole[0])
    assert [step for step, *_ in report.history] == [5, 10, 15, 20, 25, 30, 35, 40]
    assert results(tmp_path / "parts") == results(tmp_path / "whole")
    for name in ("loss.tsv", "learning_rate.tsv"):
        curves = [tmp_path / run / "results/training/plots/metrics" / name for run in ("parts", "whole")]
        assert curves[0].read_bytes() == curves[1].read_bytes()


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (
            {"steps": 22, "schedule": "cosine"},
            {"schedule": "cosine"},
            "`schedule: cosine` depends on `steps`, which was 22",
        ),
        ({"steps": 22, "ema_every": 7}, {"ema_every": 7}, "which `ema_every` 7 leaves out"),
        ({"steps": 60}, {}, "the saved state is that of step 60, and `steps` is 40"),
        ({"steps": 40}, {}, ""),
    ],
)
def test_a_run_starts_from_scratch_where_the_state_is_not_one_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], first: dict[str, Any], second: dict[str, Any], said: str
) -> None:
    again, report = further(tmp_path / "parts", ON | first, ON | second | {"steps": 40})
    told = " ".join(capsys.readouterr().err.split())
    assert said in told
    assert "starts from scratch" in told or not said
    assert "resumed" not in told
    whole, expected = further(tmp_path / "whole", ON | second | {"steps": 40})
    assert torch.equal(again[0], whole[0])
    assert report.history == expected.history
    assert results(tmp_path / "parts") == results(tmp_path / "whole")


def test_a_run_learns_and_its_curve_shows_it(tmp_path: Path) -> None:
    _, report = train(tmp_path, {**PLAN, "steps": 200, "ema": 0.0})
    assert [step for step, _, _ in report.history] == list(range(5, 201, 5))
    assert report.history[-1][1] < report.history[0][1] / 4
    report.finish()
    curve = (tmp_path / "results/training/plots/metrics/loss.tsv").read_text().splitlines()
    assert curve[0].split("\t") == ["step", "loss"]
    assert len(curve) == 41


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_images(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"step 7: the loss is nan on point 12, point 13"):
        train(tmp_path, PLAN, poison=12)
    assert not list(tmp_path.rglob("checkpoints/*"))


def test_accumulation_averages_and_equals_one_large_batch(tmp_path: Path) -> None:
    def run(accumulation: int, scratch: Path) -> Tensor:
        w = torch.zeros(4, 1, requires_grad=True)

        def load(index: int) -> Points:
            parts = [batches(i).x for i in ([index] if accumulation == 2 else [2 * index, 2 * index + 1])]
            return Points(("a",), torch.cat(parts))

        def loss(batch: Points) -> Tensor:
            return ((batch.x @ w - batch.x[:, :1]) ** 2).mean()

        plan = Optimization(**{**BLOCK, "steps": 5, "accumulation": accumulation, "optimizer": SGD, "clip": 0.0})
        fit({"w": w}, loss, load, plan, Report(scratch, 0, "cpu", "fp32"))
        return w.detach()

    assert torch.allclose(run(2, tmp_path / "a"), run(1, tmp_path / "b"), atol=1e-7)


def draws(scratch: Path, seed: int, accumulation: int = 1) -> list[float]:
    """What the loss of each of six batches draws."""
    w, drawn = torch.zeros(4, 1, requires_grad=True), []

    def loss(batch: Points) -> Tensor:
        drawn.append(float(torch.rand(())))
        return (batch.x @ w).mean()

    plan = Optimization(**{**BLOCK, "steps": 6 // accumulation, "accumulation": accumulation})
    fit({"w": w}, loss, batches, plan, Report(scratch, seed, "cpu", "fp32"))
    return drawn


def test_each_batch_draws_its_own_numbers_from_the_runs_seed_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    first = draws(tmp_path / "a", seed=1)
    torch.manual_seed(6)
    assert draws(tmp_path / "b", seed=1) == first
    assert draws(tmp_path / "c", seed=1, accumulation=2) == first  # also within a step
    other = draws(tmp_path / "d", seed=2)
    assert len({*first, *other}) == 12


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_weight_decay_shrinks_every_group_at_its_own_rate(tmp_path: Path, optimizer: str) -> None:
    weights = [torch.full((2,), 3.0, requires_grad=True) for _ in range(2)]
    groups = [Group({"w": w}, rate) for w, rate in zip(weights, (1.0, 0.5), strict=True)]
    settings = ADAMW | {"kind": optimizer, "weight_decay": 0.2}
    plan = {"steps": 3, "optimizer": settings, "learning_rate": 0.1, "clip": 0.0}

    def no_slope(_: Points) -> Tensor:
        return 0 * torch.cat(weights).sum()

    fit(groups, no_slope, batches, Optimization(**{**BLOCK, **plan}), Report(tmp_path, 0, "cpu", "fp32"))
    for w, rate in zip(weights, (0.1, 0.05), strict=True):
        torch.testing.assert_close(w.detach(), torch.full((2,), 3 * (1 - rate * 0.2) ** 3))


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_products_are_computed_in_the_runs_precision_and_weights_learn_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(AcceleratorState, "_shared_state", {})  # else of one precision for the life of a process
    w, kinds, kept = torch.zeros(4, 1, requires_grad=True), set(), set()

    def loss(batch: Points) -> Tensor:
        product = batch.x @ w
        kinds.add(product.dtype)
        kept.add(torch.is_autocast_enabled("cpu") and torch.is_autocast_cache_enabled())
        return (product.float() - batch.x[:, :1]).square().mean()

    plan = Optimization(**{**BLOCK, "steps": 2, "learning_rate": 1e-4})
    fit({"w": w}, loss, batches, plan, Report(tmp_path, 0, "cpu", precision))
    assert (kinds, kept) == ({dtype}, {False})  # no copy of a trained weight in half stays
    assert w.dtype == torch.float32
    assert w.detach().abs().max() > 0


def test_clipping_bounds_the_norm_of_all_gradients_together(tmp_path: Path) -> None:
    start = torch.randn(4, 1, generator=torch.Generator().manual_seed(5))
    w, v = start.clone().requires_grad_(), start.clone().requires_grad_()

    def loss(batch: Points) -> Tensor:
        return 1000 * ((batch.x @ (w + v)) ** 2).mean()

    sgd = {"steps": 1, "optimizer": SGD, "clip": 0.5, "learning_rate": 1.0}
    fit({"w": w, "v": v}, loss, batches, Optimization(**{**BLOCK, **sgd}), Report(tmp_path, 0, "cpu", "fp32"))
    moved = torch.cat([w.detach() - start, v.detach() - start]).norm()
    assert moved == pytest.approx(0.5, rel=1e-5)


def test_groups_move_at_their_own_rates(tmp_path: Path) -> None:
    weights, _ = train(tmp_path / "a", {**PLAN, "ema": 0.0}, rates=(1.0, 0.0))
    torch.manual_seed(0)
    first, second = torch.randn(4, 1), torch.randn(4, 1)
    assert not torch.equal(weights[0], first)
    assert torch.equal(weights[1], second)


def test_half_precision_without_a_gpu_is_refused_with_a_way_out(tmp_path: Path) -> None:
    report = Report(tmp_path, 0, "cpu", "fp16")
    with pytest.raises(TrainingError, match="choose fp32 or bf16"):
        fit({"w": torch.zeros(1, requires_grad=True)}, lambda b: b.x.sum(), batches, Optimization(**BLOCK), report)


def as_rank(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    """Make this process look like one of two ranks; gradients are not averaged."""
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    monkeypatch.setattr(Accelerator, "process_index", rank)
    monkeypatch.setattr(Accelerator, "is_main_process", rank == 0)
    monkeypatch.setattr(Accelerator, "reduce", lambda _self, tensor, **_: tensor)


@pytest.mark.parametrize("rank", [0, 1])
def test_each_rank_has_batches_and_numbers_of_its_own_and_only_the_first_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    as_rank(monkeypatch, rank)
    w, seen = torch.zeros(4, 1, requires_grad=True), []

    def loss(batch: Points) -> Tensor:
        seen.append((batch.names[0], float(torch.rand(()))))
        return (batch.x @ w).mean()

    report = Report(tmp_path, 3, "cpu", "fp32")
    fit({"w": w}, loss, batches, Optimization(**{**BLOCK, "steps": 3, "accumulation": 2}), report)
    expected = []
    for index in range(rank, 12, 2):
        torch.manual_seed(mix(3, "step", index))
        expected.append((f"point {index}", float(torch.rand(()))))
    assert seen == expected
    assert bool(report.history) == (tmp_path / "state.pt").exists() == (rank == 0)


def test_a_loss_that_is_not_finite_names_the_images_of_all_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_rank(monkeypatch, 1)
    with pytest.raises(
        TrainingError, match=r"step 7: the loss is nan on point 24, point 25, point 26, point 27\. Next"
    ):
        train(tmp_path, PLAN, poison=12)


def test_gradients_are_sent_in_few_messages_in_their_order() -> None:
    gradients = [torch.full((size,), float(size)) for size in (5, 2, 9, 1, 3)]
    assert [[len(g) for g in bucket] for bucket in _buckets(gradients, 7)] == [[5, 2], [9], [1, 3]]
    assert [len(bucket) for bucket in _buckets(gradients, 1)] == [1] * 5
    assert [len(bucket) for bucket in _buckets(gradients)] == [5]
    assert _buckets([]) == []


PROCESS = """
import sys, torch
from pathlib import Path
from tests.etude.training.test_fit import *
torch.set_num_threads(3)  # what no library would choose
rank = int(os.environ.get("RANK", 0))
w = torch.ones(4, 1, requires_grad=True)
report = Report(Path(sys.argv[1]), 0, "cpu", "fp32")
drawn = []
def loss(batch):
    drawn.append(torch.rand(()))
    return ((batch.x @ w - batch.x[:, :1]) ** 2).mean()
def load(index): return batches(index) if "RANK" in os.environ else Points(
    ("a",), torch.cat([batches(2 * index).x, batches(2 * index + 1).x]))
plan = Optimization(**{**BLOCK, "steps": 5, "optimizer": SGD, "clip": 0.1, "learning_rate": 0.1})
fit({"w": w}, loss, load, plan, report)
assert torch.get_num_threads() == 3, torch.get_num_threads()
torch.save(w.detach(), Path(sys.argv[1]) / f"w{rank}.pt")
torch.save(torch.stack(drawn), Path(sys.argv[1]) / f"drawn{rank}.pt")
"""


def test_two_processes_learn_together_what_one_learns_from_both_batches(tmp_path: Path) -> None:
    (tmp_path / "process.py").write_text(PROCESS)
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    environment.pop("OMP_NUM_THREADS", None)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    meeting = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "GLOO_SOCKET_IFNAME": "lo",
        OURS: "2",
    }
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank), **meeting} for rank in (0, 1)]
    for folder, runs in ((tmp_path / "two", ranks), (tmp_path / "one", [{}])):
        folder.mkdir()
        command = [sys.executable, str(tmp_path / "process.py"), str(folder)]
        started = [subprocess.Popen(command, env={**environment, **run}) for run in runs]
        assert [process.wait(timeout=90) for process in started] == [0] * len(runs)
    first, second = (torch.load(tmp_path / "two" / f"w{rank}.pt", weights_only=True) for rank in (0, 1))
    alone = torch.load(tmp_path / "one" / "w0.pt", weights_only=True)
    assert torch.equal(first, second)
    assert torch.allclose(first, alone, atol=1e-6)
    assert not torch.equal(alone, torch.ones(4, 1))
    drawn = [torch.load(tmp_path / "two" / f"drawn{rank}.pt", weights_only=True).tolist() for rank in (0, 1)]
    numbers = []
    for index in range(10):  # those of one process that accumulates two batches
        torch.manual_seed(mix(0, "step", index))
        numbers.append(float(torch.rand(())))
    assert [number for step in zip(*drawn, strict=True) for number in step] == numbers


def drawing(scratch: Path, preview: Any, weights: list[Tensor] | None = None) -> Report:
    """Ten steps with a state every four, a checkpoint every five and a preview at each of them."""
    w = torch.zeros(4, 1, requires_grad=True)
    plan = {"steps": 10, "checkpoint_every": 5, "resume_every": 4, "log_every": 10, "ema": 0.5, "clip": 0.0}

    def loss(batch: Points) -> Tensor:
        return ((batch.x @ w - batch.x[:, :1]) ** 2).mean()

    def draw() -> Image.Image:
        return preview(w)

    report = Report(scratch, 0, "cpu", "fp32", preview=draw)
    fit({"w": w}, loss, batches, Optimization(**{**BLOCK, **plan}), report, Artifact("test", {"w": w}, {}))
    return report


def colour_of(w: Tensor) -> Image.Image:
    return Image.new("RGB", (8, 8), tuple(int(255 * abs(value)) for value in w.detach().flatten()[:3].tolist()))


def results(scratch: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(scratch.glob("results/*/*")) if path.is_file()}


def test_a_preview_that_fails_fails_after_its_steps_state_is_kept_and_is_drawn_by_the_run_that_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = drawing(tmp_path / "whole", colour_of)

    def fails(_: Tensor) -> Image.Image:
        raise KeyboardInterrupt

    for step in (5, 10):
        with pytest.raises(KeyboardInterrupt):
            drawing(tmp_path / "parts", fails)
        assert torch.load(tmp_path / "parts/state.pt", weights_only=True)["step"] == 5
        assert step == 5 or "resumed at step 5 of 10" in capsys.readouterr().err
    drawing(tmp_path / "parts", colour_of)
    assert results(tmp_path / "parts") == results(tmp_path / "whole")
    assert len(results(whole.scratch)) == 4


def test_a_preview_for_which_memory_does_not_suffice_is_left_out_by_the_run_that_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_large(_: Tensor) -> Image.Image:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 6.50 GiB")

    for step in (5, 10):  # each run goes on from where the one before it stopped
        with pytest.raises(torch.OutOfMemoryError) as caught:
            drawing(tmp_path, too_large)
        assert work_of(caught.value) == f"drawing the preview of step {step}"
        assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == step
    capsys.readouterr()
    drawing(tmp_path, too_large)
    assert "step 10: no preview, since memory did not suffice for it. Next: lower" in capsys.readouterr().err
    assert sorted(results(tmp_path)) == ["000005.safetensors", "000010.safetensors"]


def test_gpus_that_cannot_speak_to_each_other_directly_train_as_others_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NCCL_IB_DISABLE", "0")  # one that the user has set stays
    monkeypatch.setenv("NCCL_P2P_DISABLE", "")
    monkeypatch.delenv("NCCL_P2P_DISABLE")
    monkeypatch.setattr(AcceleratorState, "_shared_state", {})
    monkeypatch.setattr("etude.training.fit.check_cuda_p2p_ib_support", lambda: False)
    _accelerator(Report(tmp_path, 0, "cuda", "fp32"))
    assert (os.environ["NCCL_P2P_DISABLE"], os.environ["NCCL_IB_DISABLE"]) == ("1", "0")
