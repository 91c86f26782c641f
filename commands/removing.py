"""Remove keys that no longer exist from a YAML file, if no setting is lost with them: all other lines stay."""

from __future__ import annotations

from commands.lines import extent, own_line
from commands.rewriting import blocks, parse_commented
from etude.core.errors import ParamsError
from etude.core.params import Schema


def remove_from(text: str, shown: str, schema: type[Schema]) -> tuple[str, list[str]]:
    """The text of a params file without the keys of `gone_keys`, and one line for each.

    Raises ParamsError for a key whose value is not the one that can be dropped, or that has no line of its own.
    """
    lines, gone, changes = text.split("\n"), set[int](), []
    for node, owner, place in blocks(parse_commented(text), schema):
        for key, value in owner.gone_keys.items():
            if key not in node:
                continue
            named = ".".join((*place, key))
            line = own_line(node, key, lines)
            if node[key] != value or line is None:
                fault = f"`{named}: {node[key]}` is gone, and only `{value}` on a line of its own is removed for you"
                raise ParamsError(shown, fault, f"see what replaces it in docs/reference.md, and delete `{named}`")
            gone |= set(range(*extent(lines, line)))
            changes.append(f"{shown}: {named}: {value} is gone")
    return "\n".join(line for number, line in enumerate(lines) if number not in gone), changes
