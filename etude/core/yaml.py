"""Reading YAML files that people wrote: the result is values, or one error that names file and line.

YAML is read as 1.2, as DVC reads it (``1e-4`` is a number).
"""

from __future__ import annotations

import math
import re
import warnings
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer, ComposerError
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import YAMLError, YAMLWarning

from etude.core.errors import ParamsError

LARGEST = 500_000  # bytes: files that people write are ten times smaller
DEEPEST = 30  # levels of nested blocks
LARGEST_BLOCK = 5_000  # keys
MOST = 100_000  # values; a value that aliases repeat is counted each time
SHOWN = 100  # characters of a value in an error message
UNSAYABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")  # not possible in paths, not visible in terminals


class _Composer(Composer):
    """Stops at DEEPEST levels, because Python's stack is limited."""

    level = 0  # not `depth`: ruamel.yaml counts in that name itself

    def compose_node(self, parent: Any, index: Any) -> Any:
        """The node of the next event; raises ComposerError if it is nested too deep."""
        self.level += 1
        if self.level > DEEPEST:
            mark = self.parser.peek_event().start_mark
            raise ComposerError(None, None, f"blocks in blocks, more than {DEEPEST} deep", mark)
        try:
            return super().compose_node(parent, index)
        finally:
            self.level -= 1


class _Constructor(SafeConstructor):
    """Names the line of a value that cannot be read: a date that does not exist, a number with thousands of digits."""

    def flatten_mapping(self, node: Any) -> Any:
        """Resolve merge keys (``<<``); raises ConstructorError if they repeat each other without end."""
        result = super().flatten_mapping(node)
        if len(node.value) > LARGEST_BLOCK:
            raise ConstructorError(None, None, f"a block of more than {LARGEST_BLOCK:,} keys", node.start_mark)
        return result

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """The value of a node; raises ConstructorError."""
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, ArithmeticError, AttributeError):
            what = f"`{shortened(str(node.value))}` is no {str(node.tag).rpartition(':')[2]}"
            raise ConstructorError(None, None, what, node.start_mark) from None
        fault = ""
        if isinstance(value, int) and value.bit_length() > 64:
            fault = f"a number of {value.bit_length()} bits; at most 64 are supported"
        if isinstance(value, str) and UNSAYABLE.search(value):
            fault = f"{value!r} contains a character that cannot be shown"
        if fault:
            raise ConstructorError(None, None, fault, node.start_mark)
        return value


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The mapping in a YAML 1.2 file of at most LARGEST bytes; raises ParamsError for anything else."""
    text = _text(Path(path))
    try:
        data, count = _parsed(text)
    except (YAMLError, ValueError) as error:  # ValueError: \U with a number that is not a character
        line = _line(error, text)
        where = f"{path}:{line}" if line else path
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).partition("\n")[0]
        raise ParamsError(
            where, f"is not YAML ({problem})", f"correct {'that line' if line else 'the file'}"
        ) from error
    if not isinstance(data, dict):
        raise ParamsError(path, "holds no keys with values", "write `key: value` lines")
    if count > MOST:
        fault = f"contains more than {MOST:,} values, or an alias that contains itself"
        raise ParamsError(path, fault, "write less, with fewer aliases (*name)")
    copied: dict[str, Any] = deepcopy(data)  # the caller may change it
    return copied


@lru_cache(maxsize=512)
def _parsed(text: str) -> tuple[Any, float]:
    """A text's content and number of values, cached: commands read a text several times, the evidence many times."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer, yaml.Constructor = _Composer, _Constructor
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", YAMLWarning)  # defining an anchor twice is valid YAML
        data = yaml.load(text)
    return data, _values(data, {}) if isinstance(data, dict) else 0


def _line(error: Exception, text: str) -> int | None:
    """The line of a fault, counted from 1; None if the error has no position."""
    if place := getattr(error, "problem_mark", None):
        return int(place.line) + 1
    position = getattr(error, "position", None)  # a character that YAML does not allow
    return None if position is None else text.count("\n", 0, position) + 1


def _text(path: Path) -> str:
    """The text of a file; raises ParamsError."""
    if path.exists() and not path.is_file():
        action = f"move it away, then restore the file with `git checkout -- {path}`"
        raise ParamsError(path, "is a folder" if path.is_dir() else "is no file", action)
    try:
        if path.stat().st_size > LARGEST:
            raise ParamsError(path, f"is larger than {LARGEST:,} bytes", "write less: every stage reads all of it")
        return path.read_bytes().decode()
    except FileNotFoundError:
        raise ParamsError(path, "is missing", f"restore it with `git checkout -- {path}`") from None
    except UnicodeDecodeError as error:
        raise ParamsError(path, f"is not text in UTF-8 (byte {error.start})", "save it as UTF-8") from None
    except OSError as error:
        raise ParamsError(path, f"cannot be read ({error.strerror})", "change its permissions") from None


def _values(data: Any, counted: dict[int, float]) -> float:
    """The number of values below ``data``, those of an alias each time; infinite if ``data`` contains itself."""
    if not isinstance(data, dict | list):
        return 1
    if id(data) not in counted:
        counted[id(data)] = math.inf  # until the sum is known: if ``data`` occurs below itself, it is infinite
        below = [*data, *data.values()] if isinstance(data, dict) else data
        counted[id(data)] = 1 + sum(_values(value, counted) for value in below)
    return counted[id(data)]


def shortened(text: str, most: int = SHOWN) -> str:
    """``text``, or its beginning and a `…`."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
