"""Networks in ONNX files, run by onnxruntime, which an extra brings. Nothing here imports torch."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from etude.core.errors import BaseError

GPU, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
INSTALL = "run `make setup EXTRAS=tagger`"


def is_installed() -> bool:
    """Whether onnxruntime is installed; INSTALL says how to install it."""
    return find_spec("onnxruntime") is not None


def can_use_gpu() -> bool:
    """Whether the installed onnxruntime is the one for CUDA."""
    import onnxruntime

    return GPU in onnxruntime.get_available_providers()


def open_network(path: Path, action: str, *, on_gpu: bool, threads: int = 0) -> Any:
    """The session that runs the network, on ``threads`` threads (0: one for each core).

    Raises BaseError, with ``action`` as what to do next, for a file that onnxruntime cannot open.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # its warnings are for people who export models
    try:
        return onnxruntime.InferenceSession(path, options, providers=[GPU, CPU] if on_gpu else [CPU])
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BaseError(path, f"cannot be opened ({reason})", action) from error
