"""Change values of params files in place: comments, quotes and the format of numbers stay."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import ScalarString

from etude.core.errors import ConflictError, ParamsError
from etude.core.files import atomic_path
from etude.core.params import Schema, models_at
from etude.project import params_files


@contextmanager
def drafts() -> Iterator[Path]:
    """Yield a folder with a copy of all params files, to change; without an error the copies replace the files."""
    with copies() as draft:
        before = {file: (draft / file).read_bytes() for file in _names()}
        yield draft
        if edited := [file for file in before if Path(file).read_bytes() != before[file]]:
            fault = "was edited while this command ran; it changed no params file"
            raise ConflictError(", ".join(edited), fault, "run the command again: it then reads the edited file")
        for file, content in before.items():
            if (draft / file).read_bytes() != content:
                with atomic_path(file) as temporary:
                    shutil.copyfile(draft / file, temporary)


@contextmanager
def copies() -> Iterator[Path]:
    """Yield a folder with a copy of all params files, to change; the files stay as they are."""
    with TemporaryDirectory() as folder:
        for file in _names():
            (Path(folder) / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, Path(folder) / file)
        yield Path(folder)


def _names() -> list[str]:
    return [file.as_posix() for file in params_files(Path())]


def rewrite(path: Path, shown: str, values: Mapping[str, Any]) -> list[str]:
    """Set dotted keys in a YAML file, and keep its comments; returns one line for each changed value."""
    document = read_commented(path)
    changes = []
    for dotted, value in values.items():
        *parents, last = dotted.split(".")
        block = document
        for parent in parents:
            block = block.get(parent, {})
        if last not in block:
            raise ParamsError(
                shown, f"has no key `{dotted}`, to which a value is given", "add the key, or correct the preset"
            )
        if block[last] != value:
            changes.append(f"{shown}: {dotted}: {_told(block[last])} → {_told(value)}")
            block[last] = _in_place(block[last], value)
    if changes:
        with atomic_path(path) as temporary:
            _round_trip().dump(document, temporary)
    return changes


def read_commented(path: Path) -> Any:
    """A YAML file's mapping, with its comments."""
    return parse_commented(path.read_text(encoding="utf-8"))


def parse_commented(text: str) -> Any:
    """A YAML text's mapping, with its comments."""
    return _round_trip().load(text)


def blocks(
    node: Any, schema: type[Schema], place: tuple[str, ...] = ()
) -> Iterator[tuple[CommentedMap, type[Schema], tuple[str, ...]]]:
    """The block ``node`` of this schema and those below it, each with its schema and the keys that lead to it."""
    if isinstance(node, CommentedSeq):
        for item in node:
            yield from blocks(item, schema, place)
    if not isinstance(node, CommentedMap):
        return
    yield node, schema, place
    for key, value in node.items():
        for model in models_at(schema, (str(key),)):
            if model is not schema and issubclass(model, Schema):  # `schema` itself: the value is no block
                yield from blocks(value, model, (*place, str(key)))


def _told(value: Any) -> str:
    """A value as one line, without ruamel's types that carry comments."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_told(each)}" for key, each in value.items()) + "}"
    return f"[{', '.join(map(_told, value))}]" if isinstance(value, list) else str(value)


def _round_trip() -> YAML:
    """A reader and writer that keeps comments, quotes and the way that numbers are written."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _in_place(old: Any, new: Any) -> Any:
    """``new`` in the form of ``old``: with its quotes (text), its brackets or lines (list), its comments (block)."""
    if isinstance(old, CommentedSeq):
        if not old or not new:
            return _from_or_to_nothing(old, new)
        behind = old.ca.items.pop(len(old) - 1, None)
        old[:] = [_quoted(old[min(place, len(old) - 1)], value) for place, value in enumerate(new)]
        if behind:
            old.ca.items[len(old) - 1] = behind
        return old
    if isinstance(old, CommentedMap) and isinstance(new, Mapping):
        return _block_in_place(old, new)
    return _quoted(old, new)


def _from_or_to_nothing(old: CommentedSeq, new: Sequence[Any]) -> CommentedSeq:
    """A list that is or becomes empty, in brackets: an empty list cannot be written as lines."""
    made = CommentedSeq(new)
    made.fa.set_flow_style()
    if behind := old.ca.items.get(max(len(old) - 1, 0)):
        made.ca.items[max(len(made) - 1, 0)] = behind
    return made


def _quoted(old: Any, new: Any) -> Any:
    return type(old)(new) if isinstance(old, ScalarString) and type(new) is str else new


def _block_in_place(old: CommentedMap, new: Mapping[str, Any]) -> CommentedMap:
    """Put each new key at the position of a removed one, so that comments within an entry stay."""
    free = [key for key in old if key not in new]
    for key, value in new.items():
        before = key if key in old else free.pop(0) if free else None
        if before is None:
            old[key] = value
            continue
        entry, place = _in_place(old[before], value), list(old).index(before)
        comment = old.ca.items.pop(before, None)
        del old[before]
        old.insert(place, key, entry)
        if comment:
            old.ca.items[key] = comment
    for key in free:
        del old[key]
    return old
