"""A fuzz of the readers: files as programs write them, each with one mutation, are read rightly or refused in a line.

    python -m tests.fuzz single_model --count 5000      (names: those that FUZZED holds; none: each of them)

Rightly: as the file's own program reads it (`tests.fuzz.programs`). Each number is one mutated file, always the same.
What Étude reads and the program refuses is printed and counted, and is no fault. Tests try a few files of each kind.
"""

from __future__ import annotations

import argparse
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from etude.core.errors import EtudeError
from tests.fuzz import files, loras, models
from tests.fuzz.mutations import mutate
from tests.fuzz.programs import OwnRefusal

SECONDS = 30  # of the processor, which a file may take at most; the slowest takes one
BYTES = 12 << 30  # of address space, for the command
LONGEST = 800  # characters of an error
READ, REFUSED, ALONE, WRONG = "read", "refused", "read by Étude alone", "read wrongly"


class Hang(BaseException):
    """Reading a file took too long."""


@dataclass(frozen=True)
class Fuzzed:
    """A kind of files."""

    make: Callable[[Path, int], Path]  # writes the file or folder of a number into an empty folder
    check: Callable[
        [Path], None
    ]  # reads it; raises EtudeError, or AssertionError for another reading than its program's


FUZZED = {
    "dotted_lora": Fuzzed(loras.dotted_lora, loras.check_lora),
    "kohya_lora": Fuzzed(loras.kohya_lora, loras.check_lora),
    "diffusers_lora": Fuzzed(loras.diffusers_lora, loras.check_diffusers_lora),
    "peft": Fuzzed(loras.peft, loras.check_peft),
    "embedding": Fuzzed(files.embedding, files.check_embedding),
    "picture": Fuzzed(files.picture, files.check_embedding),
    "hypernetwork": Fuzzed(files.hypernetwork, files.check_hypernetwork),
    "delta": Fuzzed(files.delta, files.check_delta),
    "single_model": Fuzzed(models.single, models.check_single),
    "folder_model": Fuzzed(models.folder, models.check_folder),
}


def try_one(name: str, number: int, folder: Path) -> str:
    """The error that refuses the mutated file of a number; "" where it is read rightly. Other exceptions are raised."""
    fuzzed, dice = FUZZED[name], random.Random(f"{name} {number}")
    path = fuzzed.make(folder, number)
    inside = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    mutated = mutate(dice.choice(inside), dice)
    path = path if path.is_dir() else mutated
    try:
        with within(SECONDS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fuzzed.check(path)
    except EtudeError as error:
        text = str(error)
        assert len(text) < LONGEST, f"no short line: {text}"
        assert "\n" not in text, f"no single line: {text}"
        return text
    return ""


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise Hang inside after some seconds of the processor's time, whatever else the machine does."""

    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def main() -> int:
    """Print each mutated file that is read wrongly, hangs or ends in a traceback, and a sum; 1 if there was one."""
    parser = argparse.ArgumentParser(description="A fuzz of the readers of other programs' files.")
    parser.add_argument("names", nargs="*", choices=[[], *FUZZED], metavar="kind", help=f"of {', '.join(FUZZED)}")
    parser.add_argument("--count", type=int, default=5000, help="mutated files of each kind")
    parser.add_argument("--first", type=int, default=0, help="number of the first")
    parser.add_argument("--show", action="store_true", help="print the errors that refuse files, too")
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    faults = 0
    for name in arguments.names or FUZZED:
        outcomes = Counter[str]()
        for number in range(arguments.first, arguments.first + arguments.count):
            outcome, text = _outcome(name, number)
            outcomes[outcome] += 1
            if outcome not in (READ, REFUSED) or (text and arguments.show):
                _say(f"{name} {number}: {outcome}: {text}")
        faults += sum(count for outcome, count in outcomes.items() if outcome not in (READ, REFUSED, ALONE))
        _say(f"{name}: {', '.join(f'{count} {outcome}' for outcome, count in outcomes.items())}")
    return min(faults, 1)


def _outcome(name: str, number: int) -> tuple[str, str]:
    """What came of a file, and the error."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        text = try_one(name, number, folder)
    except (Exception, Hang) as error:  # noqa: BLE001
        place = traceback.extract_tb(error.__traceback__)[-1]
        outcome = {AssertionError: WRONG, OwnRefusal: ALONE}.get(type(error), type(error).__name__)
        line = (str(error).splitlines() or [""])[0][:300]
        return outcome, f"{line} ({Path(place.filename).name}:{place.lineno})"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return (REFUSED if text else READ), text.replace(f"{folder}/", "")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
