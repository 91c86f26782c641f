"""Add the keys that are new since the last release to a YAML file: every other character stays."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ruamel.yaml.comments import CommentedMap, CommentedSeq

from commands.rewriting import blocks, parse_commented
from etude.core.errors import ParamsError
from etude.core.params import Schema, new_keys

COMMENT = re.compile(r"""[^#"']*?\s(?=#)""")  # up to the comment of a line


class Added(NamedTuple):
    """Text that is put into a line, or before it as a line of its own."""

    line: int  # from 0
    column: int  # -1: a line of its own
    text: str
    told: str  # such as ``training.ema_every: 1``


def add_to(text: str, shown: str, schema: type[Schema]) -> tuple[str, list[str]]:
    """The text of a params file with each new key that it lacks, and one line for each.

    Raises ParamsError where a block cannot be added to, because an alias writes it.
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
                about = block.model_fields[key].description or ""
                yield _addition(node, key, value, about, list(block.model_fields), (*place, key), shown, lines)


def _addition(
    node: CommentedMap,
    key: str,
    value: Any,
    about: str,
    order: list[str],
    place: tuple[str, ...],
    shown: str,
    lines: list[str],
) -> Added:
    """A key behind the nearest one that comes before it in the schema and has its value in its own line."""
    told = f"{'.'.join(place)}: {_written(value)}"
    own = {name: node.lc.data[name] for name in node if name in (node.lc.data or {})}  # not those of a merge (<<)
    if not own:
        raise ParamsError(shown, f"lacks `{told}`, and an alias writes its block", "add it by hand, and run this again")
    if node.fa.flow_style():  # {a: 1, b: 2}
        line, column = min(own.values())[:2]
        return Added(line, column, f"{key}: {_written(value)}, ", told)
    before = [name for name in order[: order.index(key)] if name in own and in_a_line(node[name], own[name])]
    line, column = own[before[-1]][:2] if before else min(own.values())[:2]
    text = f"{' ' * column}{key}: {_written(value)}"
    if about:
        aligned = COMMENT.match(lines[line])
        text = f"{text.ljust(aligned.end() if aligned else 0)}{'' if aligned and aligned.end() > len(text) else '  '}"
        text += f"# {about}"
    text += "\r" * lines[line].endswith("\r")
    return Added(line + 1 if before else line, -1, text, told)


def in_a_line(value: Any, position: tuple[int, int, int, int]) -> bool:
    """Whether a value is in the line of its key, and ends there."""
    return not isinstance(value, CommentedMap | CommentedSeq) and position[0] == position[2] and "\n" not in str(value)


def _written(value: Any) -> str:
    """A value in YAML, of which some readers take a number as a text if it has an exponent and no dot."""
    if isinstance(value, float):
        return re.sub(r"^(-?\d+)e", r"\1.0e", repr(value))
    return value if isinstance(value, str) and re.fullmatch(r"[a-z]\w*", value) else json.dumps(value)
