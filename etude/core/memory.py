"""Out of memory, on a GPU or on the host: which errors mean it, and what was being done."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# How torch's allocators and CUDA's libraries say it, where it is a plain RuntimeError.
PHRASES = ("out of memory", "can't allocate memory", "not enough memory", "_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory did not suffice: torch's, Python's, or the system's."""
    if isinstance(error, RuntimeError):  # torch.OutOfMemoryError is one
        return type(error).__name__ == "OutOfMemoryError" or any(phrase in str(error) for phrase in PHRASES)
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)


@contextmanager
def during(work: str) -> Iterator[None]:
    """Note on an error inside that means out of memory what was being done, such as ``step 12 of the training``."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            error.add_note(work)
        raise


def work_of(error: BaseException) -> str:
    """The innermost `during` of an error; empty if there was none."""
    notes: list[str] = getattr(error, "__notes__", [])
    return notes[0] if notes else ""


def peak() -> int:
    """The most memory that this process had on the host, in bytes."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
