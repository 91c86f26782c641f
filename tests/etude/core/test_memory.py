"""Out of memory: which errors mean it, and what is told of it."""

from __future__ import annotations

import errno

import psutil
import pytest
import torch

from etude.core.errors import InputError, OutOfMemoryError
from etude.core.memory import PHRASES, advising, during, is_out_of_memory, peak, work_of

SYSTEM = OSError(errno.ENOMEM, "Cannot allocate memory")
MEANT = [torch.OutOfMemoryError("no room"), MemoryError(), SYSTEM, *(RuntimeError(f"a: {text}.") for text in PHRASES)]
OTHERS = [RuntimeError("shapes differ"), ValueError("out of memory"), OSError(errno.ENOSPC, "out of memory")]


@pytest.mark.parametrize("error", MEANT, ids=repr)
def test_what_was_being_done_and_what_to_do_is_told_where_memory_did_not_suffice(error: Exception) -> None:
    assert is_out_of_memory(error)
    with pytest.raises(OutOfMemoryError) as caught, advising(lambda: "use less"), during("all"), during("step 3"):
        raise error
    assert str(caught.value).startswith("step 3: memory did not suffice: at most ")
    assert str(caught.value).endswith("GB of the host were in use. Next: use less.")
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [*OTHERS, InputError("a", "out of memory", "b")], ids=repr)
def test_another_error_stays_what_it_is(error: Exception) -> None:
    assert not is_out_of_memory(error)
    with pytest.raises(type(error)) as caught, advising(lambda: "use less"), during("step 3"):
        raise error
    assert caught.value is error
    assert work_of(error) == ""


def test_an_error_that_was_told_already_is_not_told_again() -> None:
    told = OutOfMemoryError("step 3", "memory did not suffice", "use less")
    with pytest.raises(OutOfMemoryError) as caught, advising(lambda: "use more"):
        raise told
    assert caught.value is told


def test_nothing_is_told_to_have_been_done_at_the_start() -> None:
    with pytest.raises(OutOfMemoryError, match=r"^the start: memory did not suffice"), advising(lambda: "use less"):
        raise MemoryError


def test_the_peak_is_in_bytes() -> None:
    used = psutil.Process().memory_info().rss
    assert used * 0.9 < peak() < used * 100
