"""What every folder of `pipelines` with a method keeps to, on a tiny base."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from etude.base.base import Base
from etude.base.loading import load_base
from etude.core import artifact as artifacts
from etude.core.artifact import Artifact
from etude.core.families import FAMILIES
from etude.core.method import load_method, method_names, needs
from etude.core.mixins import OwnBase, ReadsCaptions
from etude.core.params import load, read_yaml
from etude.facts import FACTS
from etude.training.inputs import INPUTS
from tests.pipelines.learning import learn, on_tiny, params_of, picture
from tests.shipped import ROOT, held
from tests.tiny import build_tiny

NAMES = ("Params", "unsupported", "build", "apply", "formats", "axes")
each_method = pytest.mark.parametrize("method", method_names())


@dataclass
class Built:
    method: str
    base: Base
    folder: Path  # of the tiny base
    scratch: Path
    artifact: Artifact


@pytest.fixture(scope="module", params=method_names())
def built(request: pytest.FixtureRequest, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    torch.set_num_threads(1)
    method, folder = request.param, tiny_base
    if issubclass(load_method(method).Params, OwnBase):
        folder = build_tiny(tmp_path_factory.mktemp("unclip") / "tiny", unclip=True)
    base, scratch = load_base(folder), tmp_path_factory.mktemp(method)
    return Built(
        method, base, folder, scratch, learn(method, base, params_of(method, **on_tiny(method, folder)), scratch)
    )


@each_method
def test_a_method_has_its_six_names_and_its_four_files(method: str) -> None:
    folder, module = ROOT / "pipelines" / method, load_method(method)
    assert [name for name in NAMES if not hasattr(module, name)] == []
    assert [
        f for f in ("README.md", "dvc.yaml", "params.yaml", "method/__init__.py") if not (folder / f).exists()
    ] == []
    assert set(module.unsupported) < set(FAMILIES)
    assert all(reason.strip() and reason[0].islower() and reason[-1] != "." for reason in module.unsupported.values())
    load(held(f"pipelines/{method}/params.yaml"), module.Params)


@each_method
def test_a_method_fits_on_one_screen_after_another(method: str) -> None:
    text = (ROOT / "pipelines" / method / "method/__init__.py").read_text()
    assert len(text.splitlines()) <= 200
    spans = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)]
    assert [n.name for n in spans if (n.end_lineno or 0) - n.lineno >= 40] == []


@each_method
def test_the_build_stage_depends_on_the_data_that_build_names_and_no_other(method: str) -> None:
    deps = read_yaml(ROOT / "pipelines" / method / "dvc.yaml")["stages"]["build"]["deps"]
    module = load_method(method)
    reads = "data/${set}/${reads}"  # a method's choice: captions, or pictures alone
    assert (reads in deps) == issubclass(module.Params, ReadsCaptions)
    deps = [INPUTS["captions"].dep if dep == reads else dep for dep in deps]
    assert {name for name, need in INPUTS.items() if need.dep in deps} == set(needs(module))


def test_methods_are_known_without_importing_torch() -> None:
    code = (
        "import sys; from etude.core.method import *; [load_method(name) for name in method_names()];"
        "sys.exit(', '.join({'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules)) or None)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_what_was_saved_and_loaded_draws_what_was_built_and_not_what_the_base_draws(built: Built) -> None:
    artifacts.save(built.artifact, built.scratch / "artifact.safetensors")
    loaded, module = artifacts.load(built.scratch / "artifact.safetensors"), load_method(built.method)
    assert loaded.facts == built.artifact.facts
    assert (loaded.method, set(loaded.facts) - set(FACTS)) == (built.method, set())
    untouched = picture(built.base)
    with module.apply(built.artifact, built.base) as changed:
        first = picture(changed)
    with module.apply(loaded, built.base) as changed:
        second = picture(changed)
    assert torch.equal(first, second)
    assert not torch.equal(first, untouched)
    assert torch.equal(picture(built.base), untouched)


def test_the_base_is_whole_after_building_and_after_leaving_apply_by_an_error(built: Built) -> None:
    fresh = load_base(built.folder)
    with pytest.raises(KeyboardInterrupt), load_method(built.method).apply(built.artifact, built.base):
        raise KeyboardInterrupt
    for part in ("unet", "vae"):
        compare(getattr(built.base, part), getattr(fresh, part))
    for encoder, other in zip(built.base.text_encoders, fresh.text_encoders, strict=True):
        compare(encoder, other)
    assert torch.equal(picture(built.base), picture(fresh))


def compare(module: torch.nn.Module, other: torch.nn.Module) -> None:
    assert [(name, type(layer)) for name, layer in module.named_modules()] == [
        (name, type(layer)) for name, layer in other.named_modules()
    ]
    tensors, others = module.state_dict(), other.state_dict()
    assert list(tensors) == list(others)
    assert [name for name, tensor in tensors.items() if not torch.equal(tensor, others[name])] == []
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert not any(layer.training for layer in module.modules())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules())


def test_every_axis_is_a_setting_of_apply_and_changes_the_picture(built: Built) -> None:
    module = load_method(built.method)
    with module.apply(built.artifact, built.base, **module.axes) as changed:
        usual = picture(changed)
    for axis, value in module.axes.items():
        with module.apply(built.artifact, built.base, **{axis: value / 2 if value else 1.0}) as changed:
            assert not torch.equal(picture(changed), usual), axis


def test_a_second_build_is_the_same_also_when_it_was_killed_on_its_way(built: Built, tmp_path: Path) -> None:
    """What goes step by step is killed in another process and goes on here; all else is simply built again."""
    code = (
        "import sys, torch; from pathlib import Path; from tests.pipelines.learning import *;"
        "from etude.base.loading import load_base; torch.set_num_threads(1);"
        "params = params_of(sys.argv[1], **on_tiny(sys.argv[1], Path(sys.argv[2])));"
        "learn(sys.argv[1], load_base(sys.argv[2]), params, Path(sys.argv[3]), kill_at=4)"
    )
    params = params_of(built.method, **on_tiny(built.method, built.folder))
    blocks = set(type(params).model_fields)
    if {"training", "optimization", "learning"} & blocks:
        command = [sys.executable, "-c", code, built.method, str(built.folder), str(tmp_path)]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert run.returncode == -signal.SIGKILL, run.stderr
        assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] in (3, 4)
    made = learn(built.method, built.base, params, tmp_path)
    assert made.facts == built.artifact.facts
    assert sorted(made.tensors) == sorted(built.artifact.tensors)
    assert [
        name for name, tensor in made.tensors.items() if not torch.equal(built.artifact.tensors[name], tensor)
    ] == []
    roots = (built.scratch, tmp_path)
    results = [{p.relative_to(s): p.read_bytes() for p in s.glob("results/*/*") if p.is_file()} for s in roots]
    assert results[0] == results[1]
    assert {path.parent.name for path in results[0]} >= (
        {"checkpoints", "previews"} if {"training", "optimization"} & blocks else set()
    )
