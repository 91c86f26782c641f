"""Add the keys that are new since the last release to a YAML file: every other character stays."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ruamel.yaml.comments import CommentedMap

from commands.lines import COMMENT, extent, own_line
from commands.rewriting import blocks, parse_commented
from etude.core.errors import ParamsError
from etude.core.params import Schema, models_at, new_keys


class Added(NamedTuple):
    """Text that is put into a line, or before it as a line of its own."""

    line: int  # from 0
    column: int  # -1: a line of its own
    text: str
    told: str  # such as ``training.ema_every: 1``


def add_to(text: str, shown: str, schema: type[Schema]) -> tuple[str, list[str]]:
    """The text of a params file with each new key that it lacks, and one line for each.

    Raises ParamsError if a block that lacks a key is written as an alias: the key cannot be added there.
    """
    lines = text.split("\n")
    additions = sorted(_find(text, schema, shown, lines), key=lambda one: one[:2])
    for line, column, added, _ in reversed(additions):  # last first: positions stay
        if column < 0:
            lines.insert(line, added)
        else:
            lines[line] = lines[line][:column] + added + lines[line][column:]
    return "\n".join(lines), [f"{shown}: {one.told}, which is new" for one in additions]


def _find(text: str, schema: type[Schema], shown: str, lines: list[str]) -> Iterator[Added]:
    """What the blocks of a params file lack."""
    for node, block, place in blocks(parse_commented(text), schema):
        for key, value in new_keys(block).items():
            if key not in node:
                yield _addition(node, block, key, value, place, shown, lines)


def _addition(
    node: CommentedMap, block: type[Schema], key: str, value: Any, place: tuple[str, ...], shown: str, lines: list[str]
) -> Added:
    """A key, after the nearest key that comes before it in the schema and has a line of its own."""
    told = f"{'.'.join((*place, key))}: {_written(value)}"
    own = {name: node.lc.data[name] for name in node if name in (node.lc.data or {})}  # not those of a merge (<<)
    if not own:
        raise ParamsError(
            shown, f"has no `{told}`, and an alias writes its block", "add this key by hand, and run this again"
        )
    if node.fa.flow_style():  # {a: 1, b: 2}
        line, column = min(own.values())[:2]
        return Added(line, column, f"{key}: {_written(value)}, ", told)
    order = list(block.model_fields)
    before = [name for name in order[: order.index(key)] if name in own and own_line(node, name, lines) is not None]
    line, column = own[before[-1]][:2] if before else min(own.values())[:2]
    text = "\n".join(_lines(key, value, block, " " * column, lines[line]))
    return Added(extent(lines, line)[1] if before else line, -1, text, told)


def _lines(key: str, value: Any, block: type[Schema], indent: str, near: str) -> Iterator[str]:
    """The lines of a key with its meaning, in the form of the line ``near``; for a block, one for each key in it."""
    inner = [model for model in models_at(block, (key,)) if model is not block and issubclass(model, Schema)]
    nested = isinstance(value, Mapping) and bool(inner)
    about = block.model_fields[key].description or ""
    text = f"{indent}{key}:" if nested else f"{indent}{key}: {_written(value)}"
    if about:
        aligned = COMMENT.match(near)
        text = f"{text.ljust(aligned.end() if aligned else 0)}{'' if aligned and aligned.end() > len(text) else '  '}"
        text += f"# {about}"
    yield text + "\r" * near.endswith("\r")
    if nested:
        for name, each in value.items():
            yield from _lines(name, each, inner[0], f"{indent}  ", near)


def _written(value: Any) -> str:
    """A value in YAML: a number with an exponent gets a dot, since some readers take it for a text without one."""
    if isinstance(value, float):
        return re.sub(r"^(-?\d+)e", r"\1.0e", repr(value))
    return value if isinstance(value, str) and re.fullmatch(r"[a-z]\w*", value) else json.dumps(value)
