"""Move keys of a YAML file into a block of their own: values, comments and all other lines stay."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from ruamel.yaml.comments import CommentedMap

from commands.adding import COMMENT, in_a_line
from commands.rewriting import blocks, parse_commented
from etude.core.errors import ParamsError
from etude.core.params import Schema, models_at

KEY = re.compile(r"""(\s*)(["']?)[\w-]+\2\s*:\s*""")  # up to the value


class Moved(NamedTuple):
    """A key that goes into the block ``block``, of which ``about`` tells the meaning."""

    line: int  # from 0
    block: str
    about: str
    name: str  # in the block
    order: int  # in the block
    told: str  # such as ``training.weight_decay → training.optimizer.weight_decay``


def move_in(text: str, shown: str, schema: type[Schema]) -> tuple[str, list[str]]:
    """The text of a params file with each key in the block into which it was moved, and one line for each.

    The present name of a key that was moved has a dot: ``weight_decay`` is ``optimizer.weight_decay``. The block may
    have the name of one of the keys. Raises ParamsError for a key that has no line of its own.
    """
    lines = text.split("\n")
    new: dict[int, list[str]] = {}  # line → what takes its place
    groups: dict[tuple[str, str], list[Moved]] = {}
    for one in _find(text, schema, shown):
        groups.setdefault((one.told.rpartition(" → ")[2].rpartition(".")[0], one.block), []).append(one)
    for moved in groups.values():
        first = min(one.line for one in moved)
        new |= {one.line: [] for one in moved}
        new[first] = [_head(lines[first], moved[0])]
        new[first] += [_inside(lines[one.line], one) for one in sorted(moved, key=lambda one: one.order)]
    left = [line for number, old in enumerate(lines) for line in new.get(number, [old])]
    return "\n".join(left), [f"{shown}: {one.told}" for moved in groups.values() for one in moved]


def _find(text: str, schema: type[Schema], shown: str) -> Iterator[Moved]:
    for node, owner, place in blocks(parse_commented(text), schema):
        for old, new in owner.former_keys.items():
            block, _, name = new.partition(".")
            if not name or old not in node or (old == block and isinstance(node[old], CommentedMap)):
                continue
            told = f"{'.'.join((*place, old))} → {'.'.join((*place, new))}"
            if isinstance(node.get(block), CommentedMap):
                raise ParamsError(shown, f"{told}: that block is there already", f"move `{old}` into it by hand")
            position = (node.lc.data or {}).get(old)
            if node.fa.flow_style() or not position or not in_a_line(node[old], position):
                fault = f"{told}: the former key has no line of its own"
                raise ParamsError(shown, fault, "move it by hand, and run this again")
            inner = next(model for model in models_at(owner, (block,)) if name in model.model_fields)
            about = owner.model_fields[block].description or ""
            yield Moved(position[0], block, about, name, list(inner.model_fields).index(name), told)


def _head(line: str, moved: Moved) -> str:
    """The first line of the block, in the form of the ``line`` of which it takes the place."""
    return _written(line, f"{_indent(line)}{moved.block}:", moved.about and f"# {moved.about}")


def _inside(line: str, moved: Moved) -> str:
    """The line of a key, within the block."""
    found, comment = KEY.match(line), COMMENT.match(line)
    assert found  # `in_a_line`
    value = line[found.end() : comment.end() if comment else None].strip()
    return _written(line, f"{_indent(line)}  {moved.name}: {value}", line[comment.end() :].rstrip() if comment else "")


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _written(line: str, text: str, comment: str) -> str:
    """``text`` and ``comment``, which stays in the column that it has in ``line``."""
    aligned = COMMENT.match(line)
    if comment:
        text = f"{text}  ".ljust(aligned.end() if aligned else 0) + comment
    return text + "\r" * line.endswith("\r")
