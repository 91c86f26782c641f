"""Move keys of a YAML file into a block of their own: values, comments and all other lines stay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ruamel.yaml.comments import CommentedMap

from commands.lines import COMMENT, KEY, extent, indent_of, own_line
from commands.rewriting import blocks, parse_commented
from etude.core.errors import ParamsError
from etude.core.params import Schema, models_at


class Moved(NamedTuple):
    """A key to move into the block ``block``; ``about`` is the block's meaning."""

    line: int  # from 0
    before: int  # the first of the lines of comments right above it
    end: int  # the line behind its value
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
    for one in _find(text, schema, shown, lines):
        groups.setdefault((one.told.rpartition(" → ")[2].rpartition(".")[0], one.block), []).append(one)
    for moved in groups.values():
        first = min(moved)
        for one in moved:
            new |= {line: [] for line in range(one.before, one.end)}
        new[first.before] = [_head(lines[first.line], first)]
        for one in sorted(moved, key=lambda one: one.order):
            new[first.before] += _inside(lines, one)
    left = [line for number, old in enumerate(lines) for line in new.get(number, [old])]
    return "\n".join(left), [f"{shown}: {one.told}" for moved in groups.values() for one in moved]


def _find(text: str, schema: type[Schema], shown: str, lines: list[str]) -> Iterator[Moved]:
    for node, owner, place in blocks(parse_commented(text), schema):
        names = list(owner.former_keys.values())
        for old, new in owner.former_keys.items():
            block, _, name = new.partition(".")
            if not name or old not in node or (old == block and isinstance(node[old], CommentedMap)):
                continue
            told = f"{'.'.join((*place, old))} → {'.'.join((*place, new))}"
            if isinstance(node.get(block), CommentedMap):
                raise ParamsError(shown, f"{told}: the block `{block}` exists already", f"move `{old}` into it by hand")
            line = own_line(node, old, lines)
            if line is None:
                fault = f"{told}: the key is not on a line of its own with its value"
                raise ParamsError(shown, fault, "move the key by hand, and run this again")
            fields = [list(model.model_fields) for model in models_at(owner, (block,)) if name in model.model_fields]
            order = fields[0].index(name) if fields else names.index(new)  # a mapping has no fields
            about = owner.model_fields[block].description or ""
            before, end = extent(lines, line)
            yield Moved(line, before, end, block, about, name, order, told)


def _head(line: str, moved: Moved) -> str:
    """The first line of the block, in the form of the ``line`` that it replaces."""
    return _written(line, f"{indent_of(line)}{moved.block}:", moved.about and f"# {moved.about}")


def _inside(lines: list[str], moved: Moved) -> list[str]:
    """The lines of a key, within the block."""
    line = lines[moved.line]
    found, comment = KEY.match(line), COMMENT.match(line)
    assert found  # `own_line` has matched it
    value = line[found.end() : comment.end() if comment else None].strip()
    text = f"{indent_of(line)}  {moved.name}: {value}".rstrip()
    own = _written(line, text, line[comment.end() :].rstrip() if comment else "")
    above, behind = lines[moved.before : moved.line], lines[moved.line + 1 : moved.end]
    return [*map(_deeper, above), own, *map(_deeper, behind)]


def _deeper(line: str) -> str:
    return f"  {line}" if line.strip() else line


def _written(line: str, text: str, comment: str) -> str:
    """``text`` and ``comment``; the comment keeps the column that it has in ``line``."""
    aligned = COMMENT.match(line)
    if comment:
        text = f"{text}  ".ljust(aligned.end() if aligned else 0) + comment
    return text + "\r" * line.endswith("\r")
