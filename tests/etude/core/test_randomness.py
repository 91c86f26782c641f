from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
import torch

from etude.core.randomness import allow_any_kernels, generator, make_deterministic, mix, seed_generators


@pytest.fixture
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch's settings as they were, afterwards."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is removed again where it was not set
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    fill = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.utils.deterministic.fill_uninitialized_memory = fill
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = benchmark


@pytest.mark.usefixtures("restored")
def test_a_stage_computes_with_its_threads_and_deterministic_kernels() -> None:
    torch.backends.cudnn.benchmark = True
    make_deterministic(3)
    assert torch.get_num_threads() == 3
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()  # a kernel without such a form still runs
    assert not torch.utils.deterministic.fill_uninitialized_memory  # which costs time, and changes no result
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.usefixtures("restored")
def test_a_strict_stage_refuses_kernels_without_a_deterministic_form_and_another_may_take_any() -> None:
    make_deterministic(2, strict=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    allow_any_kernels(3)
    assert torch.get_num_threads() == 3
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("collects", [True, False])
def test_the_garbage_collector_is_on_afterwards_if_it_was_on(collects: bool) -> None:
    was_on = gc.isenabled()
    try:
        gc.enable() if collects else gc.disable()
        make_deterministic(2)
        assert gc.isenabled() == collects
    finally:
        gc.enable() if was_on else gc.disable()


def test_a_seed_depends_on_every_part_and_on_where_it_ends() -> None:
    """Fixed numbers: with other ones, every result of the same parameters would be another."""
    assert mix(0) == 3456079177858693020
    assert mix(3, "step", 7) == 7656935820627487283
    seeds = [mix(1, "a", 2), mix(1, "a", 3), mix(2, "a", 2), mix(1, "b", 2), mix(1, "a2"), mix(1, "a"), mix(1, "a", 22)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert generator(3, "step", 7).initial_seed() == mix(3, "step", 7)


@pytest.mark.parametrize(("device", "all_kinds"), [("cpu", False), ("cuda", True), ("mps", True)])
def test_the_generator_of_the_device_is_seeded_too(
    device: str, all_kinds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeded: list[int] = []
    seed = torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda number: (seeded.append(number), seed(number)))
    seed_generators(5, device)
    drawn = torch.rand(3)
    seed(5)
    assert torch.equal(drawn, torch.rand(3))
    assert seeded == [5] * all_kinds
