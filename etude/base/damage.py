"""What libraries raise about the files of a model: one list, and the reason in one line."""

from __future__ import annotations

from pickle import UnpicklingError

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

DAMAGED: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    SafetensorError,
    UnpicklingError,
    StrictDataclassError,  # transformers' configurations are such classes
)


def reason(error: BaseException) -> str:
    """The first line of an error's text, or its kind."""
    if isinstance(error, StrictDataclassError) and error.__cause__:
        error = error.__cause__  # its own text names the check, and not what is wrong
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
