"""Which lines of a YAML file belong to a key: its own, those of its value, and the comments above it."""

from __future__ import annotations

import re
from typing import Any

from ruamel.yaml.comments import CommentedMap, CommentedSeq

COMMENT = re.compile(r"""[^#"']*?\s(?=#)""")  # up to the comment of a line
KEY = re.compile(r"""(\s*)(["']?)[\w-]+\2\s*:(?=\s|$)[ \t]*""")  # up to the value


def in_a_line(value: Any, position: tuple[int, int, int, int]) -> bool:
    """Whether a value begins and ends in the line of its key."""
    return not isinstance(value, CommentedMap | CommentedSeq) and position[0] == position[2] and "\n" not in str(value)


def own_line(node: CommentedMap, key: str, lines: list[str]) -> int | None:
    """The number of a key's line; None where the line has other keys too, or where the value is in the next line."""
    position = (node.lc.data or {}).get(key)
    if node.fa.flow_style() or not position or not KEY.match(lines[position[0]]):
        return None
    scalar = not isinstance(node[key], CommentedMap | CommentedSeq)
    return None if scalar and not in_a_line(node[key], position) else position[0]


def extent(lines: list[str], line: int) -> tuple[int, int]:
    """The first line of the comments right above a key, and the first line after its value."""
    indent = len(indent_of(lines[line]))
    end = line + 1
    for number in range(line + 1, len(lines)):
        content = lines[number].strip()
        deeper = len(indent_of(lines[number])) > indent or (content.startswith("- ") and _is_value(lines[line]))
        if content and not deeper:
            break
        if content:
            end = number + 1
    before = line
    while before and lines[before - 1].strip().startswith("#") and len(indent_of(lines[before - 1])) == indent:
        before -= 1
    return before, end


def _is_value(line: str) -> bool:
    """Whether a line has a key and nothing after it: the key's list may then follow with the same indent as the key."""
    found = KEY.match(line)
    return bool(found) and not line[found.end() :].partition("#")[0].strip()  # type: ignore[union-attr]


def indent_of(line: str) -> str:
    """The spaces at the beginning of a line."""
    return line[: len(line) - len(line.lstrip())]
