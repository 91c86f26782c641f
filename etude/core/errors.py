"""The errors Étude raises on purpose. Each names the place, the fault and the next action.

EtudeError
├── ParamsError     a params file holds something that cannot be used
├── ArgumentError   an argument of a command names something that there is not
├── InputError      a picture, a caption or a folder of them cannot be used
├── BaseError       a base model cannot be read, or a method does not support it
├── FormatError     a weights file is not what it claims to be
├── TrainingError   a run stopped: its loss is not finite, or its state cannot be resumed
├── StaleError      what a stage reads was changed while it ran
└── ConflictError   something that exists would be overwritten
"""

from __future__ import annotations

from pathlib import Path


class EtudeError(Exception):
    """``place: fault. Next: action.``"""

    def __init__(self, place: str | Path, fault: str, action: str) -> None:
        self.place, self.fault, self.action = str(place), fault.rstrip("."), action.rstrip(".")
        super().__init__(f"{self.place}: {_ended(self.fault)} Next: {_ended(self.action)}")


class ParamsError(EtudeError):
    """A params file holds something that cannot be used."""


class ArgumentError(EtudeError):
    """An argument of a command names something that there is not."""


class InputError(EtudeError):
    """A picture, a caption or a folder of them cannot be used."""


class BaseError(EtudeError):
    """A base model cannot be read, or a method does not support it."""


class FormatError(EtudeError):
    """A weights file is not what it claims to be."""


class TrainingError(EtudeError):
    """A run stopped: its loss is not finite, or its state cannot be resumed."""


class StaleError(EtudeError):
    """What a stage reads was changed while it ran."""


class ConflictError(EtudeError):
    """Something that exists would be overwritten."""


def _ended(sentence: str) -> str:
    return sentence if sentence.endswith("?") else f"{sentence}."  # did you mean …?
