"""The page of all parameters: each key of each params file, from its schema, the comment beside it and the presets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml.comments import CommentedMap

from commands.rewriting import read_commented
from etude.core.errors import ParamsError
from etude.core.files import atomic_path
from etude.core.params import Schema, read_yaml
from etude.project import schemas_of
from etude.sources import PRESETS
from etude.training.exclusions import TABLE
from flows import settings

PAGE = Path("docs/reference.md")
ANY = "<name>."  # in a path: a name that the user chose
LONGEST = 60  # characters of a list that a cell shows
FINITE = 10**18  # a bound this large or larger only means that a number is finite
QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
HEAD = "| key | meaning | type | value |\n|---|---|---|---|"
EXCLUDING = "Settings that exclude each other"
INTRO = """# Parameters

Every key of every params file. `make schemas` writes this page from the schemas, the comments in the params files and
`presets/`: change those, not this page. Link to a key as `reference.md#lora.rank`.

The value is the one that the repository ships with. Where presets (`etude preset sd15`) set different values, each
is given with the names of its presets; *miniature* is what is shipped.
"""

Node = Mapping[str, Any]  # a part of a JSON Schema


@dataclass(frozen=True)
class Key:
    """A key with one value: its dotted path in its file, and its part of the schema."""

    path: str
    meaning: str
    node: Node
    value: Any


@dataclass(frozen=True)
class Block:
    """The keys of one block of a params file; the path "" is the top level of the file."""

    path: str
    meaning: str
    keys: tuple[Key, ...]


def write_page() -> None:
    """Write PAGE from the params files of this repository; raises ParamsError for a key without a comment."""
    text = page({name: Path(name) for name in known_schemas()}, PRESETS)
    PAGE.parent.mkdir(exist_ok=True)
    with atomic_path(PAGE) as file:
        file.write_text(text, encoding="utf-8")


def page(files: Mapping[str, Path], presets: Path) -> str:
    """The page as Markdown. ``files``: name in the repository → the file to read.

    Raises ParamsError for the first key without a comment.
    """
    chosen = {path.stem: read_yaml(path) for path in sorted(presets.glob("*.yaml"))}
    contents = [f"- [{name}](#{section(name)})" for name in files] + [f"- [{EXCLUDING}](#exclusions)"]
    parts, schemas = [INTRO.strip(), "\n".join(contents)], known_schemas()
    for name, file in files.items():
        schema = schemas[name].model_json_schema()
        values = {preset: each.get(name, {}) for preset, each in chosen.items()}
        parts.append(f'<a id="{section(name)}"></a>\n\n## {name}')
        parts += [_table(block, section(name), schema, values) for block in blocks(name, file, schema)]
    parts.append(f'<a id="exclusions"></a>\n\n## {EXCLUDING}\n\n{_exclusions()}')
    return "\n\n".join(parts) + "\n"


def _exclusions() -> str:
    """The table of settings that exclude each other."""
    head = ["A run with both is refused, by `etude check` and before weights are read.", ""]
    head += ["| key | value | excludes | because |", "|---|---|---|---|"]
    rows = [f"| `{r.first.key}` | {r.first.words} | `{r.second.key}` {r.second.words} | {r.reason} |" for r in TABLE]
    return "\n".join([*head, *rows])


def section(name: str) -> str:
    """How a file's anchors begin: with the folder of the method or of the flows, or with ``params``."""
    return Path(name).parent.name or Path(name).stem


def known_schemas() -> dict[str, type[Schema]]:
    """The schema of each params file, by its name in the repository."""
    own = {path.as_posix(): schema for path, schema in schemas_of(Path())}
    return {**own, settings.FILE.as_posix(): settings.Settings}


def blocks(name: str, file: Path, schema: Node) -> list[Block]:
    """A params file as blocks of keys, in its order; raises ParamsError for a key without a comment."""
    lines = file.read_text(encoding="utf-8").splitlines()

    def collect(path: str, meaning: str, mapping: CommentedMap, node: Node) -> list[Block]:
        keys, inner = [], []
        for key, value in mapping.items():
            full, child = f"{path}.{key}".lstrip("."), _resolved(_entry(node, key), schema)
            text = comment(lines, *mapping.lc.key(key))
            if not text:
                raise ParamsError(name, f"`{full}` has no comment", "write what the key means in a comment on its line")
            if not _has_table(value, child, schema):
                keys.append(Key(full, text, child, value))
            elif "properties" in child:
                inner += collect(full, text, value, child)
            else:  # blocks under names that the user chose: all have the keys of the first
                first, block = next(iter(value.items()))
                inner += collect(f"{full}.{ANY[:-1]}", text, block, _resolved(_entry(child, first), schema))
        own = [Block(path, meaning, tuple(keys))] if keys or path else []
        return own + inner

    return collect("", "", read_commented(file), schema)


def comment(lines: Sequence[str], row: int, column: int) -> str:
    """The comment behind the key at ``row``, with the lines that continue it; or else the lines above the key."""
    line = lines[row]
    start = QUOTED.sub(lambda text: "_" * len(text[0]), line).find(" #") + 1
    if start:
        return _joined(line[start:], _comments(lines[row + 1 :], start))
    above = _comments(reversed(lines[:row]), column)
    return _joined("", reversed(above))


def _comments(lines: Iterable[str], column: int) -> list[str]:
    """The lines before the first one that is no comment at ``column``."""
    found = []
    for line in lines:
        if not line.startswith("#", column) or line[:column].strip():
            break
        found.append(line[column:])
    return found


def _joined(first: str, others: Iterable[str]) -> str:
    return " ".join(text for line in [first, *others] if (text := line.lstrip("#").strip()))


def _entry(node: Node, key: str) -> Node:
    """The part of an object's schema for one key."""
    own = node.get("properties", {})
    free = list(node.get("patternProperties", {}).values()) or [node.get("additionalProperties")]
    entry: Node = own[key] if key in own else free[0]
    return entry


def _resolved(node: Node, schema: Node) -> Node:
    """The node that a reference names."""
    return schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node


def _has_table(value: Any, node: Node, schema: Node) -> bool:
    """Whether a value is a block with known keys on lines of their own, or blocks of these."""
    if not isinstance(value, CommentedMap) or value.fa.flow_style() or not value:
        return False
    return "properties" in node or "properties" in _resolved(_entry(node, next(iter(value))), schema)


def _table(block: Block, start: str, schema: Node, presets: Mapping[str, Node]) -> str:
    """A block's heading and meaning, and a row for each key."""
    lines = []
    if block.path:
        sentence = block.meaning[0].upper() + block.meaning[1:]
        lines += [f"### `{block.path}`\n", f"{_cell(sentence.rstrip('.'))}{'' if sentence.endswith('?') else '.'}\n"]
    lines += [HEAD] if block.keys else []
    for key in block.keys:
        name = f'<a id="{start}.{key.path.replace(ANY, "")}"></a>`{key.path.removeprefix(block.path).lstrip(".")}`'
        cells = [name, _cell(key.meaning), _cell(kind(key.node, schema)), _cell(_values(key, presets))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def kind(node: Node, schema: Node) -> str:
    """Type and bounds in words."""
    node = _resolved(node, schema)
    if "const" in node:
        return f"always `{shown(node['const'])}`"
    if "enum" in node:
        return ", ".join(f"`{shown(choice)}`" for choice in node["enum"])
    if "anyOf" in node:
        return " or ".join(kind(each, schema) for each in node["anyOf"])
    if node["type"] == "array":
        return _list_kind(node, schema)
    if node["type"] == "object":
        if "properties" in node:
            return f"a block of {' and '.join(f'`{key}`' for key in node['properties'])}"
        return f"name: {kind(_entry(node, ''), schema)}"
    return {"string": "text", "boolean": "`true` or `false`", "null": "nothing"}.get(node["type"]) or _bounded(node)


def _list_kind(node: Node, schema: Node) -> str:
    if "prefixItems" in node:
        return f"[{', '.join(kind(each, schema) for each in node['prefixItems'])}]"
    least, most = node.get("minItems", 0), node.get("maxItems")
    count = f" ({least} to {most})" if most else f" ({least} or more)" if least else ""
    return f"list{count}: {kind(node['items'], schema)}"


def _bounded(node: Node) -> str:
    """``0 ≤ number < 1``. Bounds that only keep numbers finite are left out."""
    text = node["type"]
    for key, sign in (("minimum", "≤"), ("exclusiveMinimum", "<")):
        if node.get(key, -FINITE) > -FINITE:
            text = f"{node[key]:,.10g} {sign} {text}"
    for key, sign in (("maximum", "≤"), ("exclusiveMaximum", "<")):
        if node.get(key, FINITE) < FINITE:
            text = f"{text} {sign} {node[key]:,.10g}"
    return f"{text}, a multiple of {node['multipleOf']}" if "multipleOf" in node else text


def _values(key: Key, presets: Mapping[str, Node]) -> str:
    """The value, or the values of the presets, the miniature's first; presets with the same value share an entry."""
    names: dict[str, list[str]] = {}
    for preset, values in sorted(presets.items()):
        names.setdefault(shown(_chosen(key, values)), []).append(preset)
    if len(names) <= 1:
        return f"`{shown(key.value)}`"
    return "<br>".join(f"{', '.join(each)}: `{value}`" for value, each in names.items())


def _chosen(key: Key, values: Node) -> Any:
    """A key's value under a preset, which may set single entries of a mapping."""
    if isinstance(key.value, dict):
        entries = {path.removeprefix(f"{key.path}."): value for path, value in values.items()}
        return {name: entries.get(name, value) for name, value in key.value.items()}
    return values.get(key.path, key.value)


def shown(value: Any) -> str:
    """A value as one line of YAML; for a long list only its start and its length."""
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {shown(each)}' for name, each in value.items())}}}"
    text = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, list) or len(text) <= LONGEST:
        return text
    start = value[:1]
    while len(json.dumps([*start, value[len(start)]], ensure_ascii=False)) <= LONGEST:
        start.append(value[len(start)])
    return f"{json.dumps(start, ensure_ascii=False)[:-1]}, … {len(value)} in all]"


def _cell(text: str) -> str:
    """A text escaped for a Markdown table: no | ends the cell, and < begins no tag outside of code."""
    parts = text.replace("|", "\\|").split("`")
    return "`".join(part if i % 2 else re.sub(r"<(?=[A-Za-z/!?])(?!br>)", "&lt;", part) for i, part in enumerate(parts))
