"""Out of memory, on a GPU or on the host: which errors mean it, and what was being done."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from etude.core.errors import EtudeError, OutOfMemoryError

# Parts of messages of torch's allocators and CUDA's libraries that raise a plain RuntimeError.
PHRASES = ("out of memory", "can't allocate memory", "not enough memory", "_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory did not suffice: torch's, Python's, or the system's."""
    if isinstance(error, RuntimeError):  # torch.OutOfMemoryError is one
        return type(error).__name__ == "OutOfMemoryError" or any(phrase in str(error) for phrase in PHRASES)
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)


@contextmanager
def during(work: str) -> Iterator[None]:
    """Add a note to an out-of-memory error inside: what was being done, such as ``step 12 of the training``."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            error.add_note(work)
        raise


@contextmanager
def advising(action: Callable[[], str]) -> Iterator[None]:
    """Turn out of memory inside into an OutOfMemoryError with what was being done, the peak, and ``action()``."""
    try:
        yield
    except Exception as error:
        if isinstance(error, EtudeError) or not is_out_of_memory(error):
            raise
        fault = f"memory did not suffice: {_at_most()}"
        raise OutOfMemoryError(work_of(error) or "the start", fault, action()) from error


def _at_most() -> str:
    """How much memory was in use at most, of the device too if one was used."""
    host, torch = f"at most {peak() / 1e9:.1f} GB of the host", sys.modules.get("torch")
    if not torch or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return f"{host} were in use"
    used, there = torch.cuda.max_memory_allocated() / 1e9, torch.cuda.mem_get_info()[1] / 1e9
    return f"at most {used:.1f} of the device's {there:.1f} GB and {host} were in use"


def work_of(error: BaseException) -> str:
    """The work of the innermost `during` around an error; empty if there was none."""
    notes: list[str] = getattr(error, "__notes__", [])
    return notes[0] if notes else ""


def peak() -> int:
    """The most memory that this process had on the host, in bytes."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
