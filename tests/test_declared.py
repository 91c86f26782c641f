"""What stages need from a method is declared: classes, needs and facts; each rule is also broken on purpose."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from etude.core.errors import ParamsError
from etude.core.families import FAMILIES
from etude.core.method import load_method, method_names, own_name
from etude.core.params import MethodParams
from etude.facts import FACTS
from etude.training.inputs import Request, load_inputs
from tests.guards import copy_code, unlisted_facts
from tests.shipped import ROOT

SHARED = ("tasks", "etude/project.py", "etude/sources.py", "flows")  # code that serves every method alike


def shared_files(root: Path) -> list[Path]:
    named = [root / name for name in SHARED]
    return [file for path in named for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]


def strings(tree: ast.AST) -> set[str]:
    """The strings in code, without docstrings."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    texts = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return {str(node.value) for node in texts if id(node) not in prose}


def undeclared(root: Path) -> list[str]:
    """What shared code knows about single methods: a name, or an attribute of params that is looked up by a string."""
    found = []
    for file in shared_files(root):
        text = file.read_text(encoding="utf-8")
        words = {word for said in strings(ast.parse(text)) for word in re.findall(r"\w+", said)}
        found += [f"{file.relative_to(root)}: {name}" for name in sorted(words & set(method_names()))]
        found += [f"{file.relative_to(root)}: {call}" for call in re.findall(r"(?:get|has)attr\(params\b", text)]
    return found


def self_named(root: Path) -> list[str]:
    """Where a method's code contains its own name: in an import, an artifact, a random stream or an error."""
    calls = ("Artifact", "mix", "generator", "ParamsError", "BaseError", "FormatError", "InputError", "ArgumentError")
    found = []
    for file in sorted(root.glob("pipelines/*/method/**/*.py")):
        name = file.relative_to(root).parts[1]
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"pipelines.{name}"):
                found.append(f"{file.relative_to(root)}: import of {node.module}")
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in calls:
                words = {word for text in strings(node) for word in re.findall(r"\w+", text)}
                found += [f"{file.relative_to(root)}: {ast.unparse(node)}"] if name in words else []
    return found


def add(file: Path, line: str) -> None:
    """Add a line to a file, which may not exist yet."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as text:
        text.write(f"\n{line}\n")


def test_every_fact_in_the_code_is_in_the_table_with_the_rooms_that_write_and_read_it() -> None:
    assert unlisted_facts(ROOT, FACTS) == []
    assert all(fact.meaning and fact.written_by for fact in FACTS.values())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('print(artifact.facts["mood"])', "etude.pages reads mood"),
        ('print(facts.get("mood"))', "etude.pages reads mood"),
        ('print("mood" in facts)', "etude.pages reads mood"),
        ('facts = {"name": "x"}', "etude.pages writes name"),
        ('facts |= {"mood": 1}', "etude.pages writes mood"),
        ('made = Artifact(METHOD, tensors, {"mood": 1})', "etude.pages writes mood"),
        ('told = {**facts, "mood": 1}', "etude.pages writes mood"),
        ('def _facts():\n    return {"mood": 1}', "etude.pages writes mood"),
        ('print(facts["threads"])', "etude.pages reads threads"),
    ],
)
def test_a_fact_that_the_table_lacks_is_found(tmp_path: Path, line: str, said: str) -> None:
    add(tmp_path / "etude/pages/words.py", line)
    assert unlisted_facts(tmp_path, FACTS) == [said]


def test_code_that_serves_every_method_knows_none_by_name_and_asks_for_no_attribute_by_a_string() -> None:
    assert undeclared(ROOT) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('if method == "lora":\n    pass', "lora"),
        ('path = Path("pipelines/lora/params.yaml")', "lora"),
        ('plan = getattr(params, "training", None)', "getattr(params"),
    ],
)
def test_a_stage_that_knows_a_method_is_found(tmp_path: Path, line: str, said: str) -> None:
    code = copy_code(tmp_path)
    add(code / "tasks/build.py", line)
    assert undeclared(code) == [f"tasks/build.py: {said}"]


def test_the_name_in_artifacts_and_random_streams_is_that_of_the_folder() -> None:
    assert own_name("pipelines.twelfth.method.networks") == "twelfth"
    for name in method_names():
        assert vars(load_method(name))["METHOD"] == name


def test_no_method_spells_its_own_name() -> None:
    assert self_named(ROOT) == []


@pytest.mark.parametrize(
    "line",
    [
        "from pipelines.lora.method.settings import Params as Again",
        'made = Artifact("lora", {}, {})',
        'seed = mix(3, "lora")',
        'raise ParamsError("pipelines/lora/params.yaml", "fault", "action")',
    ],
)
def test_a_method_that_spells_its_own_name_is_found(tmp_path: Path, line: str) -> None:
    add(tmp_path / "pipelines/lora/method/adapters.py", line)
    assert [found.partition(":")[0] for found in self_named(tmp_path)] == ["pipelines/lora/method/adapters.py"]


def params() -> MethodParams:
    return MethodParams(set="concept", name="otter", trigger=True, export="best")


def method(build: Any) -> Any:
    return SimpleNamespace(build=build)


def test_a_need_that_no_stage_meets_is_named_with_the_nearest() -> None:
    asking = method(lambda *, base, imges, params, report: None)
    fault = "pipelines/mine/method: `build` has the argument `imges`, .*did you mean `images`"
    with pytest.raises(ParamsError, match=fault):
        load_inputs(asking, Request("mine", params(), {}))


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda *, base, views, params, report: None, "Concepts"),
        (lambda *, base, class_images, params, report: None, "KeepsClass"),
        (lambda *, base, models, params, report: None, "Models"),
    ],
)
def test_a_need_whose_parameters_are_not_declared_is_refused(build: Any, said: str) -> None:
    with pytest.raises(ParamsError, match=f"derive `Params` from {said}"):
        load_inputs(method(build), Request("mine", params(), {}))


def test_the_readme_marks_the_families_that_a_method_does_not_support() -> None:
    row = r"^\| \[(\w+)\].*\| (\S+)[^|]*\| (\S+)[^|]*\| (\S+)[^|]*\|$"
    table = re.findall(row, (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {name for name, *_ in table} == set(method_names())
    for name, *cells in table:
        crossed = {family for family, cell in zip(FAMILIES, cells, strict=True) if cell == "–"}
        assert crossed == set(load_method(name).unsupported), name
