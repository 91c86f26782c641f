"""Rename keys and values of a YAML file in place, and put values in lists that are lists now: all else stays."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml.comments import CommentedMap, CommentedSeq

from commands.rewriting import read_commented
from etude.core.errors import ParamsError
from etude.core.params import Schema, models_at, read_yaml


class Rename(NamedTuple):
    """A former name in a text, and the name that takes its place."""

    line: int  # from 0, as ruamel counts; -1 if the name is not in the text but comes from an alias
    column: int
    old: str
    new: str
    told: str  # such as ``evaluate.truths → evaluate.heldout``
    lists: bool = False  # the new name is the old one as the only item of a list


def rename_in(path: Path, shown: str, schema: type[Schema]) -> tuple[str, list[str]]:
    """The text of the params file ``path`` with the present names, and one line for each that changed.

    Raises ParamsError where the file holds a key under both names, or a former name that is not written out.
    """
    read_yaml(path)  # raises with the line if the file is no YAML
    text = path.read_bytes().decode()
    renames = sorted(set(_find(read_commented(path), schema, (), shown)), reverse=True)  # last first: positions stay
    lines = text.split("\n")
    for rename in renames:
        if not _rename(lines, rename):
            fault = f"{rename.told}: the former name comes from an alias (*name or <<), or is written in another way"
            raise ParamsError(shown, fault, "rename the key by hand, and run this again")
    return "\n".join(lines), [f"{shown}: {rename.told}" for rename in reversed(renames)]


def _find(node: Any, schema: type[Schema], place: tuple[str, ...], shown: str) -> Iterator[Rename]:
    """Every former name in the block ``node`` and below it; ``place`` holds the present names of the keys above."""
    if isinstance(node, CommentedSeq):
        for item in node:
            yield from _find(item, schema, place, shown)
    if not isinstance(node, CommentedMap):
        return
    models = [model for model in models_at(schema, place) if issubclass(model, Schema)]
    keys = {old: new for model in models for old, new in model.former_keys.items() if "." not in new}  # rest: `moving`
    values = {key: names for model in models for key, names in model.former_values.items()}
    for key, value in node.items():
        new = keys.get(str(key), str(key))
        old_name, name = ".".join([*place, str(key)]), ".".join([*place, new])
        line, column, value_line, value_column = (node.lc.data or {}).get(key, (-1, -1, -1, -1))
        if new != str(key):
            if new in node:
                raise ParamsError(shown, f"holds `{old_name}` and its new name `{name}`", "delete one of the two")
            yield Rename(line, column, str(key), new, f"{old_name} → {name}")
        if isinstance(value, str) and (renamed := values.get(new, {}).get(value)):
            yield Rename(value_line, value_column, str(value), renamed, f"{name}: {value} → {renamed}")
        if isinstance(value, str) and any(new in model.listed_keys for model in models):
            text = json.dumps(value, ensure_ascii=False)
            yield Rename(value_line, value_column, str(value), f"[{text}]", f"{name}: {text} → [{text}]", lists=True)
        yield from _find(value, schema, (*place, new), shown)


def _rename(lines: list[str], rename: Rename) -> bool:
    """Replace the old name by the new one; False if the old name is not at that position."""
    line = lines[rename.line] if 0 <= rename.line < len(lines) else ""
    found = re.match(rf"""(["']?){re.escape(rename.old)}\1(?![\w-])""", line[rename.column :])
    if not found:
        return False
    behind = line[rename.column + found.end() :]
    quote = "" if rename.lists else found[1]
    new = f"{quote}{rename.new}{quote}"
    grown = len(new) - found.end()
    # A comment stays in its column, so that it stays aligned with the comments around it.
    if comment := re.match(r"([^#\"']*?)( {2,})(#.*)", behind):
        behind = comment[1] + " " * max(1, len(comment[2]) - grown) + comment[3]
    lines[rename.line] = line[: rename.column] + new + behind
    return True
