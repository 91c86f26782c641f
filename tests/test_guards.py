"""The project's rules, checked on the present tree; each rule is also broken on purpose."""

from __future__ import annotations

import ast
import copy
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from string import Template

import grimp
import pytest
from dvc.repo import Repo

from etude.core.files import read_json
from etude.core.method import load_method, method_names, needs
from etude.core.params import Schema, read_yaml
from etude.project import check
from etude.sources import sources
from etude.training.inputs import INPUTS
from tests.guards import (
    PACKAGES,
    Stage,
    circles,
    copy_code,
    files_needed,
    load_stages,
    missing_deps,
    of_one_method,
)
from tests.shipped import ROOT, held


@pytest.fixture(scope="module")
def stages(shipped: Path) -> list[Stage]:
    return load_stages(shipped)


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_layers_hold() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("etude/training/plan.py", "import etude.grids"),
        ("etude/core/files.py", "import etude.core.params"),
        ("tasks/prepare.py", "import prefect"),
        ("tasks/prepare.py", "import flows.settings"),
        ("flows/run.py", "import tasks.shell.console"),
        ("pipelines/lora/method/__init__.py", "import pipelines.textual_inversion.method"),
        ("flows/stage.py", "import dvc.repo"),
        ("flows/run.py", "import etude.training.fit"),
    ],
)
def test_an_import_against_the_layers_is_found(tmp_path: Path, file: str, line: str) -> None:
    code = copy_code(tmp_path)
    with (code / file).open("a") as text:
        text.write(f"\n{line}  # noqa\n")
    assert lint_imports(code).returncode == 1


def test_every_stage_depends_on_all_code_that_it_runs(graph: grimp.ImportGraph, stages: list[Stage]) -> None:
    methods = method_names()
    missing = {s.name: missing_deps(files_needed(graph, s, methods, ROOT), s.deps) for s in stages}
    assert {name: files for name, files in missing.items() if files} == {}


def test_a_dep_left_out_is_found(graph: grimp.ImportGraph, stages: list[Stage]) -> None:
    build = next(s for s in stages if s.module == "tasks.build")
    needed = files_needed(graph, build, method_names(), ROOT)
    assert "etude/training/fit.py" in missing_deps(needed, [d for d in build.deps if d != "etude/training"])


def test_no_module_imports_itself_over_others_also_not_for_types() -> None:
    assert circles(grimp.build_graph(*PACKAGES, cache_dir=None)) == []


def test_a_circle_is_found(graph: grimp.ImportGraph) -> None:
    graph = copy.deepcopy(graph)
    graph.add_import(importer="etude.core.errors", imported="etude.core.params")
    assert any({"etude.core.errors", "etude.core.params"} <= set(group) for group in circles(graph))


def test_what_one_method_alone_imports_lives_with_that_method(graph: grimp.ImportGraph) -> None:
    assert of_one_method(graph) == {}


def test_a_module_that_one_method_alone_imports_is_found(graph: grimp.ImportGraph) -> None:
    graph = copy.deepcopy(graph)
    graph.add_module("etude.diffusion.steering")
    graph.add_import(importer="pipelines.lora.method", imported="etude.diffusion.steering")
    assert of_one_method(graph) == {"etude.diffusion.steering": "lora"}


def test_all_that_stages_read_and_none_makes_is_known_before_a_run(shipped: Path, stages: list[Stage]) -> None:
    project = check(shipped).model_copy(update={"methods": method_names()})
    known = {source.path for source in sources(shipped, project)}
    made = [out for stage in stages for out in stage.outs]
    read = {dep for stage in stages for dep in stage.deps if dep.startswith(("data/", "models/", "presets/"))}
    read -= {dep for dep in read for out in made if f"{dep}/".startswith(f"{out}/") or out.startswith(f"{dep}/")}
    assert read == known


def test_no_path_that_users_name_is_a_word_of_a_shell(stages: list[Stage]) -> None:
    for stage in stages:
        assert set(shlex.split(stage.cmd)).isdisjoint(stage.deps), stage.name


def test_git_overlooks_the_environment_also_as_a_link_and_what_commands_write(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    shutil.copy(ROOT / ".gitignore", tmp_path)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    for name in ("sample.png", "owls.png", "converted/x.safetensors", "dvc_plots/index.html", "mine.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    status = subprocess.run(
        ["git", "status", "--short"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert status.split() == ["??", ".gitignore", "??", "mine.safetensors"]


def test_what_must_not_retrain_is_no_dep_of_a_build(stages: list[Stage]) -> None:
    for stage in (s for s in stages if s.module == "tasks.build"):
        rooms = (
            "etude/grids",
            "etude/evaluation",
            "etude/metrics.py",
            *(() if "models" in needs(load_method(stage.argument)) else ("etude/formats",)),  # a merge reads any file
            "etude/pages",
            "etude/rendering",
            "flows",
            "etude/project.py",
        )
        assert not [dep for dep in stage.deps if dep.startswith(rooms)]


def test_every_stage_tracks_exactly_the_root_parameters_that_it_reads(stages: list[Stage]) -> None:
    for stage in stages:
        stage_params = getattr(importlib.import_module(stage.module), "StageParams", None)
        read = set(stage_params.model_fields) if stage_params else set()
        assert read == set(stage.params.get("params.yaml", ())), stage.name


def test_a_build_tracks_all_that_its_params_file_says_of_it_and_the_data_that_it_asks_for(stages: list[Stage]) -> None:
    for stage in (s for s in stages if s.module == "tasks.build"):
        method = load_method(stage.argument)
        own = f"pipelines/{stage.argument}/params.yaml"
        params = read_yaml(held(own))
        assert set(stage.params[own]) == set(params) - {"export"}, stage.name  # the choice of exports changes no build
        names = {"set": params["set"], "method": stage.argument}
        needed = {Template(need.dep).substitute(names): name for name, need in INPUTS.items()}
        asked = set(needs(method))
        if params.get("reads") == "prepared":  # a method's choice: captions, or only pictures
            asked = asked - {"captions"} | {"pictures"}
        assert {needed[dep] for dep in stage.deps if dep in needed} == asked, stage.name


def test_an_export_depends_on_nothing_of_the_evaluation_but_the_name_of_the_best(stages: list[Stage]) -> None:
    evaluations = {s.argument: set(s.outs) for s in stages if s.module == "tasks.evaluate"}
    for stage in (s for s in stages if s.module == "tasks.export"):
        name = f"artifacts/{stage.argument}/best.json"
        assert evaluations[stage.argument] & set(stage.deps) == {name}
        assert not [dep for dep in stage.deps if dep.startswith(f"artifacts/{stage.argument}/evaluation")]
        assert stage.params == {f"pipelines/{stage.argument}/params.yaml": ("export",)}


def test_no_out_escapes_the_cache_or_lies_under_models(stages: list[Stage]) -> None:
    for stage in stages:
        assert not stage.raw.always_changed, stage.name
        for out in stage.raw.outs:
            assert out.use_cache, stage.name
            assert not out.persist, stage.name
        assert not [out for out in stage.outs if out.startswith("models")]


def test_git_ignores_every_out_and_dvc_no_folder_that_people_put_things_in(stages: list[Stage]) -> None:
    with Repo(str(ROOT)) as repo:
        for stage in stages:
            assert not [out for out in stage.outs if not repo.scm.is_ignored(str(ROOT / out))], stage.name
        for folder in ("data/raw", "data/raw/mydog", "data/samples", "data/samples/mydog", "models", "models/mine"):
            assert not repo.scm.is_ignored(f"{ROOT / folder}/"), folder  # a .dvc file in it would not be found


def test_every_stage_says_what_it_needs_from_a_flow(stages: list[Stage]) -> None:
    for stage in stages:
        flow = (stage.raw.meta or {}).get("flow", {})
        assert flow.get("resource") in {"cpu", "gpu"}, stage.name
        assert {"timeout", "retries"} <= set(flow), stage.name


def test_evaluate_export_and_grid_are_the_same_in_every_method_and_stand_in_this_order() -> None:
    blocks = []
    for name in method_names():
        text = (ROOT / "pipelines" / name / "dvc.yaml").read_text()
        assert text.splitlines()[:2] == ["vars:", f"  - method: {name}"], name
        assert re.findall(r"^  (\w+):", text, re.MULTILINE)[-4:] == ["build", "evaluate", "export", "grid"], name
        evaluate, export, grid = re.split(r"\n  (?:export|grid):", text[text.index("\n  evaluate:") :])
        if "models" in needs(load_method(name)):  # a merge applies any file
            evaluate, grid = (part.replace("      - etude/formats\n", "") for part in (evaluate, grid))
        export = export.replace("      - ${base}\n", "")  # a whole model is written with the base's unchanged parts
        blocks.append((evaluate, export, grid))
    assert len(set(blocks)) == 1


def test_the_root_graph_reaches_every_chosen_method_and_only_those(stages: list[Stage]) -> None:
    pages = {s.argument for s in stages if s.module == "tasks.page"}
    assert pages == set(read_yaml(held("params.yaml"))["methods"])


LISTS = (
    "tests",
    "evidence.claims",
)  # not params of a stage: a long list of claims may leave out keys that most of them do not need


def schemas(base: type[Schema] = Schema) -> list[type[Schema]]:
    return [
        s for child in base.__subclasses__() for s in [child, *schemas(child)] if not s.__module__.startswith(LISTS)
    ]


def test_no_value_hides_in_a_schema() -> None:
    for name in method_names():
        load_method(name)
    for module in ("etude.project", "flows.settings"):
        importlib.import_module(module)
    for schema in schemas():
        assert not [n for n, field in schema.model_fields.items() if not field.is_required()], schema


def test_tasks_are_imported_without_torch() -> None:
    heavy = ("torch", "diffusers", "transformers", "prefect")
    modules = sorted(f"tasks.{p.stem}" for p in (ROOT / "tasks").glob("*.py") if p.stem != "__init__")
    assert len(modules) > 12
    code = f"""
import importlib, sys
for module in {modules}:
    importlib.import_module(module)
    if found := [name for name in {heavy} if name in sys.modules]:
        sys.exit(f"{{module}} imports {{', '.join(found)}}")
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_every_method_folder_has_the_same_four_files() -> None:
    for name in method_names():
        files = {p.name for p in (ROOT / "pipelines" / name).iterdir()}
        assert {"README.md", "dvc.yaml", "params.yaml", "method"} <= files, name


def test_the_schemas_for_editors_are_those_of_the_code() -> None:
    from etude.project import Project
    from flows.settings import Settings

    own = {name: load_method(name).Params for name in method_names()}
    models: dict[str, type[Schema]] = {"params": Project, "flows": Settings, **own}
    for name, model in models.items():
        path = ROOT / "schemas" / f"{name}.schema.json"
        assert path.exists(), "make schemas"
        assert read_json(path) == model.model_json_schema(), "make schemas"


COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def nested(text: str) -> list[int]:
    """The lines of comprehensions that contain another."""
    lines = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, COMPREHENSIONS):
            inner = [other for other in ast.walk(node) if isinstance(other, COMPREHENSIONS) and other is not node]
            lines += [node.lineno] if inner else []
    return lines


# Packages that still have longer ones: an edit there would make their stages run again.
LONGER = ("etude/formats", "etude/grids", "etude/pages", "pipelines", "miniature")


def long(text: str) -> list[int]:
    """The lines of comprehensions that are longer than two lines."""
    found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, COMPREHENSIONS)]
    return [node.lineno for node in found if node.end_lineno and node.end_lineno > node.lineno + 1]


def windows_lines(source: str) -> list[int]:
    """Lines where text is written whose line ends become those of Windows there, so that an out has another hash."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    writes = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "write_text"]
    return [call.lineno for call in writes if "newline" not in {word.arg for word in call.keywords}]


def test_what_stages_write_has_the_same_line_ends_on_every_system() -> None:
    files = [file for folder in ("etude", "tasks", "pipelines") for file in (ROOT / folder).rglob("*.py")]
    assert {str(file): lines for file in files if (lines := windows_lines(file.read_text(encoding="utf-8")))} == {}


def test_line_ends_of_windows_are_found() -> None:
    assert windows_lines('path.write_text("a", newline="\\n")\npath.write_text("b\\n")') == [2]


def test_no_comprehension_is_longer_than_two_lines() -> None:
    files = [file for room in (*PACKAGES, "benchmarks") for file in (ROOT / room).rglob("*.py")]
    names = {file.relative_to(ROOT).as_posix(): file for file in files}
    checked = {name: file for name, file in names.items() if not name.startswith(LONGER)}
    found = {name: long(file.read_text(encoding="utf-8")) for name, file in checked.items()}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_a_comprehension_of_three_lines_is_found() -> None:
    assert long("a = [\n    x\n    for x in b\n]\nc = [x\n     for x in d]") == [1]


def test_no_comprehension_holds_another() -> None:
    files = [file for room in (*PACKAGES, "benchmarks") for file in (ROOT / room).rglob("*.py")]
    found = {file.relative_to(ROOT).as_posix(): nested(file.read_text(encoding="utf-8")) for file in files}
    assert {file: lines for file, lines in found.items() if lines} == {}


def test_a_nested_comprehension_is_found() -> None:
    assert nested("a = 1\nb = [x for x in sorted(y for y in range(3))]") == [2]


# Classes that collect or count as they go. All others are values: what one part of a run got, no other part changes.
CHANGED = {"FileState", "Report", "Trackers", "Footprint", "_Counting", "Row", "Result", "Tail"}
CHANGED |= {"Progress", "Rolling", "Memory"}


def not_frozen(text: str) -> set[str]:
    """The dataclasses whose fields may be set again."""
    found = set()
    for node in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef)):
        for decorator in map(ast.unparse, node.decorator_list):
            if decorator.startswith("dataclass") and "frozen=True" not in decorator:
                found.add(node.name)
    return found


# Where lists of different lengths are walked together on purpose: the rest of the longer one has no partner.
UNEVEN = {
    "etude/images/tiff.py": 1,
    "etude/inspection/page.py": 1,
    "etude/formats/layers.py": 1,
    "etude/formats/delta/adobe_delta.py": 1,
    "etude/captions/names.py": 1,
    "etude/core/model_files.py": 1,
    "etude/core/beside/listings.py": 1,
    "flows/artifacts.py": 1,
    "flows/verdict.py": 1,
    "pipelines/null_text_inversion/method/path.py": 1,
}


def uneven(text: str) -> int:
    """How many calls of zip would leave out the end of a longer list."""
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    zips = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "zip"]
    return sum("strict=True" not in ast.unparse(call) for call in zips)


def code() -> dict[str, str]:
    """The text of each module, by its path."""
    files = [file for room in PACKAGES for file in (ROOT / room).rglob("*.py")]
    return {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in files}


def test_values_cannot_be_changed() -> None:
    assert set().union(*map(not_frozen, code().values())) == CHANGED


def test_a_value_that_can_be_changed_is_found() -> None:
    assert not_frozen("@dataclass(frozen=False)\nclass A: pass\n@dataclass(frozen=True)\nclass B: pass") == {"A"}


def test_lists_that_are_walked_together_are_equally_long_unless_that_is_meant() -> None:
    assert {file: count for file, text in code().items() if (count := uneven(text))} == UNEVEN


def test_lists_of_different_lengths_that_are_walked_together_are_found() -> None:
    assert uneven("zip(a, b)\nzip(a, b, strict=False)\nzip(a, b, strict=True)") == 2
