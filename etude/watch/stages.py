"""Finding the stage that this process runs in the dvc.yaml files, with its deps, params and outs.

A stage is identified by its command: the module that runs, and its arguments. So it is the same stage whether DVC or a
person started it. DVC itself is not imported, because that would slow down the start of every stage. Only the syntax
of dvc.yaml that the project uses is read here; a test compares every stage with the result of DVC's own parser.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etude.core.errors import StaleError
from etude.core.params import read_yaml

FILE, PARAMS = "dvc.yaml", "params.yaml"
UNDER_DVC = "DVC_STAGE"  # environment variable set by DVC: the stage's address, relative to where dvc was started
_EXPRESSION = re.compile(r"(?<!\\)\$\{([^}]*)\}")
_BETWEEN = set("();<>|&")  # characters of a shell between programs and before redirections
AGAIN = "run `dvc repro` again"  # the next action if a stage has changed


@dataclass(frozen=True)
class Stage:
    """One stage with every `${…}` filled in; paths are relative to the current folder, `params` has keys by file."""

    name: str  # DVC's address from the root: prepare@style, pipelines/lora/dvc.yaml:build
    commands: tuple[str, ...]
    deps: tuple[str, ...]
    params: Mapping[str, tuple[str, ...]]
    outs: tuple[str, ...]


def this_stage() -> Stage | None:
    """The stage that this process runs; None for other commands.

    Raises StaleError if DVC started a stage that is no longer in dvc.yaml with its params.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return find(spec.name, sys.argv[1:], os.environ.get(UNDER_DVC, "")) if spec else None


def find(module: str, arguments: Sequence[str], address: str = "") -> Stage | None:
    """The stage whose command runs ``module`` with these arguments; ``address`` is DVC's, if DVC started it."""
    wanted = [module, *arguments]
    for file in _files(module, arguments, address):
        text = read_yaml(file)
        for stage in _stages(file, text):
            if any(wanted in _programs(command) for command in stage.commands):
                return stage
        name = address.rpartition(":")[2]
        if name and module in [words[0] for words in _programs(_command(text, name.partition("@")[0]))]:
            fault = f"no longer has a stage `{name}` that runs `{shlex.join(['python3', '-m', *wanted])}`"
            raise StaleError(f"{file.as_posix()}, with its params", fault, AGAIN)
    return None


def load(file: Path, name: str) -> Stage:
    """A stage by its name; raises StaleError if there is none."""
    for stage in every(file, name.partition("@")[0]):
        if stage.name.rpartition(":")[2] == name:
            return stage
    raise StaleError(file, f"has no stage `{name}`", f"restore it with `git checkout -- {file}`")


def every(file: Path, group: str = "") -> Iterator[Stage]:
    """The stages of a file, or of one group of it. Those with missing parameters are left out: DVC refuses them."""
    return _stages(file, read_yaml(file), group)


def _files(module: str, arguments: Sequence[str], address: str) -> list[Path]:
    """The dvc.yaml files that may contain the stage, the most likely first."""
    folder = address.rpartition(":")[0]
    places = [Path(folder)] * bool(folder) + [Path("pipelines", word, FILE) for word in arguments[:1]]
    places += [Path(*module.split(".")[:-1], FILE), Path(FILE)]
    return [file for file in dict.fromkeys(places) if file.is_file() and not file.is_absolute()]


def _programs(command: str) -> list[list[str]]:
    """The modules that a shell command runs with `-m`, each with its arguments."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    programs: list[list[str]] = [[]]
    try:
        for word in lexer:
            if set(word) <= _BETWEEN:
                programs.append([])
            else:
                programs[-1].append(word)
    except ValueError:  # a quotation mark without its end
        return []
    return [words[words.index("-m") + 1 :] for words in programs if "-m" in words[:-1]]


def _command(text: Mapping[str, Any], group: str) -> str:
    entry = (text.get("stages") or {}).get(group) or {}
    return str(entry.get("do", entry).get("cmd", ""))


def _stages(file: Path, text: Mapping[str, Any], group: str = "") -> Iterator[Stage]:
    values = _values_of(file, text)
    entries = text.get("stages") or {}
    for name, entry in entries.items():
        if group and name != group:
            continue
        if "foreach" not in entry:
            yield from _filled(file, name, entry, values)
            continue
        try:
            each = _fill(entry["foreach"], values)
        except KeyError:
            continue
        for key, item in _pairs(each):
            own = {**values, "item": item, **({"key": key} if isinstance(each, Mapping) else {})}
            yield from _filled(file, f"{name}@{key}", entry["do"], own)


def _pairs(each: Any) -> list[tuple[str, Any]]:
    """Key and item of each element of `foreach`: a mapping, values that are their own keys, or numbered blocks."""
    if isinstance(each, Mapping):
        return [(_text(key), item) for key, item in each.items()]
    if any(isinstance(item, Mapping | list) for item in each):
        return [(str(number), item) for number, item in enumerate(each)]
    return [(_text(item), item) for item in each]


def _values_of(file: Path, text: Mapping[str, Any]) -> dict[str, Any]:
    """The values that `${…}` can refer to in a file: params.yaml in the same folder, then the file's `vars`."""
    all_values: dict[str, Any] = {}
    for entry in [PARAMS, *(text.get("vars") or [])]:
        if isinstance(entry, Mapping):
            _merge(all_values, entry)
            continue
        path, _, keys = entry.partition(":")
        place = Path(os.path.normpath(file.parent / path))
        if entry == PARAMS and not place.exists():
            continue
        values = read_yaml(place)
        wanted = [key.strip() for key in keys.split(",")] if keys else list(values)
        _merge(all_values, {key: values[key] for key in wanted if key in values})
    return all_values


def _merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _filled(file: Path, name: str, entry: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Stage]:
    try:
        entry = _fill(entry, values)
    except KeyError:
        return
    folder = file.parent / entry.get("wdir", ".")
    commands = entry["cmd"]
    yield Stage(
        name=name if file == Path(FILE) else f"{file.as_posix()}:{name}",
        commands=tuple(commands) if isinstance(commands, list) else tuple(str(commands).splitlines()),
        deps=tuple(_place(folder, path) for path in entry.get("deps") or []),
        params=_params(folder, entry.get("params") or []),
        outs=tuple(_place(folder, next(iter(out)) if isinstance(out, Mapping) else out) for out in _outs(entry)),
    )


def _outs(entry: Mapping[str, Any]) -> list[Any]:
    return [out for kind in ("outs", "metrics", "plots") for out in entry.get(kind) or []]


def _params(folder: Path, listed: Sequence[Any]) -> dict[str, tuple[str, ...]]:
    keys_by_file: dict[str, list[str]] = {}
    whole: set[str] = set()
    for one in listed:
        for file, keys in (one if isinstance(one, Mapping) else {PARAMS: [one]}).items():
            keys_by_file.setdefault(_place(folder, file), []).extend(keys or [])
            if not keys:
                whole.add(_place(folder, file))
    return {file: () if file in whole else tuple(dict.fromkeys(keys)) for file, keys in keys_by_file.items()}


def _place(folder: Path, path: Any) -> str:
    return Path(os.path.normpath(folder / str(path))).as_posix()


def _fill(value: Any, values: Mapping[str, Any]) -> Any:
    """A value of dvc.yaml with every `${…}` in it filled in; raises KeyError for an unknown one."""
    if isinstance(value, Mapping):
        return {_fill(key, values): _fill(inner, values) for key, inner in value.items()}
    if isinstance(value, list):
        return [_fill(inner, values) for inner in value]
    if not isinstance(value, str):
        return value
    whole = _EXPRESSION.fullmatch(value)
    if whole:
        return _select(values, whole[1])
    return _EXPRESSION.sub(lambda match: _text(_select(values, match[1])), value).replace(r"\${", "${")


def _select(value: Any, expression: str) -> Any:
    """The value of an expression such as `evaluate.clip` or `sets[0]`."""
    for part in expression.replace("[", ".").replace("]", "").split("."):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part.strip()]
        except (TypeError, ValueError, IndexError) as error:
            raise KeyError(expression) from error
    return value


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
