"""The errors that Étude raises. Each names the place, the fault and the next action.

EtudeError
├── ParamsError     a params file contains something that cannot be used
├── ArgumentError   an argument of a command names something that does not exist
├── InputError      something that the work needs is missing or cannot be used
├── BaseError       a base model cannot be read, or a method does not support it
├── FormatError     a weights file cannot be read, or has another content than expected
├── TrainingError   a run stopped: its loss is not finite, or its state cannot be resumed
├── OutOfMemoryError  the device, or the host, has less memory than the work needs
├── StaleError      an input of a stage was changed while the stage ran
└── ConflictError   something that exists would be overwritten
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

BELOW = "\n       "  # joins several faults of one error: each is on its own line


class EtudeError(Exception):
    """``place: fault. Next: action.``"""

    def __init__(self, place: str | Path, fault: str, action: str) -> None:
        self.place, self.fault, self.action = str(place), fault.rstrip("."), action.rstrip(".")
        super().__init__(f"{self.place}: {_ended(self.fault)} Next: {_ended(self.action)}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _copied, (type(self), self.args, vars(self))  # for pickling, to pass it to another process


class EtudeWarning(UserWarning):
    """A warning for people: commands show it as one line, and continue."""


class ParamsError(EtudeError):
    """A params file contains something that cannot be used."""


class ArgumentError(EtudeError):
    """An argument of a command names something that does not exist."""


class InputError(EtudeError):
    """Something that the work needs is missing or cannot be used."""


class UnusableError(ValueError):
    """A picture that can be decoded, but not to the right pixels; the message says why."""


class BaseError(EtudeError):
    """A base model cannot be read, or a method does not support it."""


class FormatError(EtudeError):
    """A weights file cannot be read, or has another content than expected."""


class TrainingError(EtudeError):
    """A run stopped: its loss is not finite, or its state cannot be resumed."""


class OutOfMemoryError(EtudeError):
    """The device, or the host, has less memory than the work needs."""


class StaleError(EtudeError):
    """An input of a stage was changed while the stage ran."""


class ConflictError(EtudeError):
    """Something that exists would be overwritten."""


def _copied(kind: type[EtudeError], args: tuple[str, ...], attributes: dict[str, Any]) -> EtudeError:
    error = kind.__new__(kind, *args)
    vars(error).update(attributes)
    return error


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith("?") else f"{sentence}."  # "did you mean …?"


def in_lines(text: str) -> str:
    """The text with `in_a_line` applied to each line."""
    return "\n".join(map(in_a_line, text.split("\n")))


def in_a_line(text: str) -> str:
    """The text with line ends and terminal control characters, which names in files may contain, as escapes."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
