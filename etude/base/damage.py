"""The exceptions that libraries raise for a model's damaged files, and the reason of one in one line."""

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
    StrictDataclassError,  # raised by transformers' configurations
)


def reason(error: BaseException) -> str:
    """The first line of an error's text, or its class name if it has no text."""
    if isinstance(error, StrictDataclassError) and error.__cause__:
        error = error.__cause__  # its own text names the check, its cause says what is wrong
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
