"""What the guards check: the DVC graph as written, and the imports as they are."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grimp
import networkx  # installed with DVC
from dvc.repo import Repo

from etude.facts import Fact
from tests.shipped import ROOT

PACKAGES = ("etude", "pipelines", "tasks", "flows", "commands", "evidence", "miniature")
LOADED_BY_NAME = {"tasks.export": "etude.formats", "tasks.caption": "etude.captions"}  # stage → any module of the room
MODULE = re.compile(r"-m ([\w.]+)(?: '?([^\s']+))?")


def copy_code(folder: Path) -> Path:
    """Copy the project's code to ``folder``, to break rules in."""
    left_out = shutil.ignore_patterns("__pycache__", "out", "*.png")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=left_out)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@dataclass(frozen=True)
class Stage:
    """One stage as DVC resolves it: paths are relative to the repository."""

    name: str
    cmd: str
    deps: tuple[str, ...]
    params: dict[str, tuple[str, ...]]  # file → tracked keys; empty: the whole file
    outs: tuple[str, ...]
    raw: Any

    @property
    def module(self) -> str:
        """The module that ``cmd`` runs."""
        found = MODULE.search(self.cmd)
        assert found, self.cmd
        return found[1]

    @property
    def argument(self) -> str:
        """The first word after the module: a method or an image set."""
        found = MODULE.search(self.cmd)
        return (found and found[2]) or ""


def load_stages(root: Path) -> list[Stage]:
    """Every stage of every dvc.yaml of the root graph; a file that does not parse is an error, not an empty graph."""
    stages = []
    with Repo(str(root)) as repo:
        repo.index.check_graph()
        for stage in repo.index.stages:
            where = Path(stage.path_in_repo).parent.as_posix()
            if not stage.cmd:
                continue
            relative = [(dep, Path(dep.fs_path).relative_to(root).as_posix()) for dep in stage.deps]
            params = {path: tuple(dep.params) for dep, path in relative if hasattr(dep, "params")}
            deps = tuple(path for dep, path in relative if not hasattr(dep, "params"))
            outs = tuple(Path(out.fs_path).relative_to(root).as_posix() for out in stage.outs)
            stages.append(Stage(f"{where}:{stage.name}", stage.cmd, deps, params, outs, stage))
    return stages


def module_stage(module: str) -> Stage:
    """A stage that runs this module, whether or not the graph has one."""
    return Stage(module, f"python3 -m {module}", (), {}, (), None)


def build_graph() -> grimp.ImportGraph:
    """The imports of the project's own modules, including those inside functions, without those only for types."""
    return grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)  # a cache could be stale


def files_needed(graph: grimp.ImportGraph, stage: Stage, methods: Iterable[str], root: Path) -> set[str]:
    """The files of the project whose code a stage can run.

    Methods, formats and captioners are loaded by name, without an import statement, so they are added here.
    """
    start = {stage.module}
    reached = set().union(*(graph.find_upstream_modules(module) for module in start)) | start
    if "etude.core.method" in reached and stage.argument in methods:
        method = f"pipelines.{stage.argument}.method"
        reached |= graph.find_upstream_modules(method) | {method}
    if room := LOADED_BY_NAME.get(stage.module):
        for module in graph.find_descendants(room):
            reached |= graph.find_upstream_modules(module) | {module}
    packages = {".".join(name.split(".")[:depth]) for name in reached for depth in range(1, name.count(".") + 1)}
    return {file for module in reached | packages if (file := _file(module, root))}


def _file(module: str, root: Path) -> str | None:
    path = root / module.replace(".", "/")
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if file.name == "__init__.py" and (not file.exists() or only_imports(file)):
        return None
    return file.relative_to(root).as_posix()


def only_imports(file: Path) -> bool:
    """Whether a package's ``__init__.py`` only imports: then stages depend on what it imports, not on this file."""
    return all(isinstance(node, ast.Expr | ast.Import | ast.ImportFrom) for node in ast.parse(file.read_text()).body)


def missing_deps(needed: Iterable[str], deps: Iterable[str]) -> list[str]:
    """The needed files that are under no dep."""
    listed = list(deps)
    return sorted(file for file in needed if not any(file == dep or file.startswith(f"{dep}/") for dep in listed))


def circles(graph: grimp.ImportGraph) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others."""
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    groups = networkx.strongly_connected_components(networkx.DiGraph(imports))
    return [sorted(group) for group in groups if len(group) > 1]


def of_one_method(graph: grimp.ImportGraph) -> dict[str, str]:
    """Modules of ``etude`` that are imported by one method's folder and by nothing else, except formats."""
    found = {}
    for module in graph.find_descendants("etude"):
        importers = {name.split(".")[1] for name in graph.find_modules_that_directly_import(module)}
        rooms = {name.split(".")[0] for name in graph.find_modules_that_directly_import(module)}
        if rooms == {"pipelines"} and len(importers) == 1 and not module.startswith("etude.formats"):
            found[module] = importers.pop()
    return found


def facts_read(tree: ast.AST) -> set[str]:
    """The string keys by which code reads facts: ``facts["key"]``, ``facts.get("key")`` and ``"key" in facts``.

    Facts are every variable or attribute with the word ``facts`` in its name, and what such a function returns.
    """
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=facts, slice=ast.Constant(value=str(key))) if _is_facts(facts):
                found.add(key)
            case ast.Call(func=ast.Attribute(value=facts, attr="get" | "pop"), args=[ast.Constant(value=str(key)), *_]):
                found |= {key} if _is_facts(facts) else set()
            case ast.Compare(left=ast.Constant(value=str(key)), comparators=[facts]) if _is_facts(facts):
                found.add(key)
    return found


def facts_written(tree: ast.AST) -> set[str]:
    """The string keys of dictionaries that are assigned to facts, merged into facts, or given to an Artifact."""
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[target], value=value) if _is_facts(target):
                found |= _literal_keys(value)
            case ast.AnnAssign(target=target, value=value) | ast.AugAssign(target=target, value=value):
                found |= _literal_keys(value) if _is_facts(target) else set()
            case ast.BinOp(left=left, right=right) if _is_facts(left) or _is_facts(right):
                found |= _literal_keys(node)
            case ast.Dict(keys=keys, values=values):
                joined = [value for key, value in zip(keys, values, strict=True) if key is None]
                found |= _literal_keys(node) if any(map(_is_facts, joined)) else set()
            case ast.Call(func=ast.Name(id="Artifact") | ast.Attribute(attr="Artifact"), args=[_, _, facts, *_]):
                found |= _literal_keys(facts)
            case ast.FunctionDef(name=name) if "facts" in name.split("_"):
                returned = [inner.value for inner in ast.walk(node) if isinstance(inner, ast.Return)]
                found |= set().union(*map(_literal_keys, returned))
    return found


def unlisted_facts(root: Path, facts: Mapping[str, Fact]) -> list[str]:
    """Uses of facts in the code that are missing in the table: an unknown key, or an unknown room for a key."""
    found = []
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        parts, tree = path.relative_to(root).with_suffix("").parts, ast.parse(path.read_text(encoding="utf-8"))
        room = ".".join(parts[:2] if parts[0] == "etude" else parts[:1])
        for does, keys in (("reads", facts_read(tree)), ("writes", facts_written(tree))):
            for key in sorted(keys):
                listed = (facts[key].read_by if does == "reads" else facts[key].written_by) if key in facts else ()
                found += [] if room in listed else [f"{room} {does} {key}"]
    return found


def _is_facts(node: ast.AST) -> bool:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.Call(func=ast.Name(id=name)):
            return "facts" in name.split("_")
    return False


def _literal_keys(node: ast.AST | None) -> set[str]:
    """The keys of literal dictionaries in an expression; the keys of nested dictionaries are not facts."""
    match node:
        case ast.Dict(keys=keys, values=values):
            own = {key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
            joined = [value for key, value in zip(keys, values, strict=True) if key is None]
            return own.union(*map(_literal_keys, joined))
        case ast.BinOp(left=left, right=right) | ast.IfExp(body=left, orelse=right):
            return _literal_keys(left) | _literal_keys(right)
    return set()
