from __future__ import annotations

import functools
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from etude.base import waiting
from etude.base.loading import load_base
from etude.base.settings import Text
from etude.core import artifact as artifacts
from etude.core.errors import BaseError, InputError, OutOfMemoryError, ParamsError, StaleError
from etude.core.families import FAMILIES
from etude.core.files import read_json, sha256_tree
from etude.core.method import load_method
from etude.core.params import pick, read_yaml
from etude.diffusion.sample import generate
from etude.training import fit, processes
from etude.training.average import Average
from tasks.build import (
    LIBRARIES,
    StageParams,
    _facts,
    _keep_state,
    _measure,
    _refuse_too_large,
    _room,
    _scratch,
    _tell_of_gpus,
    build,
)
from tasks.shell import look_of
from tests.pipelines.learning import params_of, same
from tests.shipped import ROOT
from tests.tasks.learning import change, make_project
from tests.tiny import build_tiny


@pytest.fixture
def project(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(make_project(tmp_path, tiny_base, "lora", alpha=4.0))
    return tmp_path


def outs(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Iterator[Path]:
    """A project after its build."""
    folder = make_project(tmp_path_factory.mktemp("built"), tiny_base, "lora", alpha=4.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        build("lora")
        yield folder


def test_a_build_leaves_artifact_checkpoints_previews_and_curve_and_nothing_else(built: Path) -> None:
    assert outs(built / "artifacts/lora") == [
        "build/artifact.safetensors",
        "build/checkpoints/000003.safetensors",
        "build/checkpoints/000006.safetensors",
        "previews/000000.png",
        "previews/000003.png",
        "previews/000006.png",
        "training/metrics.json",
        "training/plots/metrics/learning_rate.tsv",
        "training/plots/metrics/loss.tsv",
    ]
    assert list((built / ".scratch").iterdir()) == []
    costs = read_json(built / "logs/build-lora.json")
    assert costs["seconds"] > 0
    assert costs["memory_bytes"] > 50_000_000


def test_the_curve_of_a_build_is_in_logs_as_its_out_has_it_and_no_tracker_is_imported(built: Path) -> None:
    for name in ("loss.tsv", "learning_rate.tsv"):
        live = built / "logs/curves/lora/plots/metrics" / name
        assert live.read_bytes() == (built / "artifacts/lora/training/plots/metrics" / name).read_bytes()
        assert [line.split("\t")[0] for line in live.read_text().splitlines()] == ["step", "2", "4", "6"]
    assert not {"torch.utils.tensorboard", "tensorboard", "wandb", "mlflow"} & set(sys.modules)


def test_previews_have_their_own_interval_and_a_row_for_each_prompt_and_change_no_bit_of_what_is_learned(
    project: Path, built: Path
) -> None:
    own = project / "pipelines/lora/params.yaml"
    changed = {"prompts": ["[name]", "a [name]"], "seeds": [0, 1, 2], "every": 2, "sampler": "euler_a"}
    change(own, preview=read_yaml(own)["preview"] | changed)
    build("lora")
    made, expected = (folder / "artifacts/lora" for folder in (project, built))
    assert [path.name for path in sorted((made / "previews").iterdir())] == [
        f"00000{step}.png" for step in (0, 2, 4, 6)
    ]
    name = "build/checkpoints/000006.safetensors"
    assert same(artifacts.load(made / name).tensors, artifacts.load(expected / name).tensors)
    assert (made / "training/plots/metrics/loss.tsv").read_bytes() == (
        expected / "training/plots/metrics/loss.tsv"
    ).read_bytes()
    with Image.open(made / "previews/000000.png") as untouched, Image.open(expected / "previews/000000.png") as one:
        assert untouched.size == (3 * 64, 2 * 64)
        assert one.size == (64, 64)
        base = load_base(project / "models/tiny")
        params = read_yaml(built / "pipelines/lora/params.yaml")["preview"]
        sampling = {key: params[key] for key in ("sampler", "steps", "guidance", "negative", "clip_skip")}
        pixels = generate(base, ["otter"], seeds=[0], **sampling)[0]
        assert one.tobytes() == Image.fromarray(pixels.numpy()).tobytes()


@pytest.mark.parametrize(("rate", "freed"), [(0.0, ["CLIPTextModel"]), (1.0, [])])
def test_text_encoders_are_freed_before_the_first_step_unless_they_are_trained(
    project: Path, monkeypatch: pytest.MonkeyPatch, rate: float, freed: list[str]
) -> None:
    own, free, found = project / "pipelines/lora/params.yaml", waiting.free, list[str]()
    gradients, at_step = fit._gradients, list[list[str]]()

    def watched(*given: Any) -> Any:
        at_step.append([*found])
        return gradients(*given)

    def seen(module: nn.Module) -> None:
        found.append(type(module).__name__)
        free(module)

    monkeypatch.setattr(waiting, "free", seen)
    monkeypatch.setattr(fit, "_gradients", watched)
    change(own, text_encoder_rate=rate, caption="a photo of [name], [caption]")
    build("lora")
    assert at_step == [freed] * 6
    assert outs(project / "artifacts/lora/previews") == [f"00000{step}.png" for step in (0, 3, 6)]


def test_more_steps_go_on_from_the_state_of_a_finished_build_and_another_rate_does_not(
    project: Path, built: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = project / "pipelines/lora/params.yaml"
    plan = read_yaml(own)["training"]
    change(project / "params.yaml", keep_states=1)
    change(own, training=plan | {"steps": 4})
    build("lora")
    change(own, training=plan | {"learning_rate": 1e-3})
    build("lora")
    assert "resumed" not in capsys.readouterr().err
    change(own, training=plan)
    build("lora")
    assert "resumed at step 4 of 6" in capsys.readouterr().err
    for out in ("build", "previews", "training"):
        assert sha256_tree(project / "artifacts/lora" / out) == sha256_tree(built / "artifacts/lora" / out)


def test_artifact_and_checkpoints_tell_how_they_were_made(built: Path) -> None:
    made = artifacts.load(built / "artifacts/lora/build/artifact.safetensors")
    assert made.method == "lora"
    facts = made.facts
    assert (facts["name"], facts["rank"], facts["alpha"], facts["step"]) == ("otter", 16, 4.0, 6)
    assert (facts["family"], facts["prediction"], facts["resolution"]) == ("sd1", "epsilon", 64)
    assert (facts["base"], facts["seed"], facts["device"], facts["precision"]) == ("models/tiny", 3, "cpu", "fp32")
    assert facts["inputs"]["models/tiny"] == sha256_tree(built / "models/tiny")
    assert facts["params"]["training"]["steps"] == 6
    assert {"torch", "diffusers", "peft"} <= set(facts["versions"])
    assert str(built) not in str(facts)
    first = artifacts.load(built / "artifacts/lora/build/checkpoints/000003.safetensors")
    assert first.facts == {**facts, "step": 3}


def kill(project: Path, method: str, step: int) -> None:
    """The task in a process of its own, which dies without warning after ``step``."""
    code = (
        "import os, signal; from etude.training.report import Report; from tasks.build import build;"
        f"Report.advance = lambda self, done: done == {step} and os.kill(os.getpid(), signal.SIGKILL);"
        f"build({method!r})"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == -signal.SIGKILL, run.stderr


def test_a_killed_build_leaves_no_out_and_goes_on_to_the_same_bytes_unless_an_input_changed(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kill(project, "lora", 4)
    assert not (project / "artifacts/lora/build").exists()
    change(project / "pipelines/lora/params.yaml", rank=4)
    build("lora")
    assert "starting, 6 steps" in capsys.readouterr().err
    change(project / "pipelines/lora/params.yaml", rank=16)
    build("lora")
    assert "resumed at step 4 of 6" in capsys.readouterr().err
    resumed = sha256_tree(project / "artifacts")
    build("lora")
    assert "starting, 6 steps" in capsys.readouterr().err
    assert sha256_tree(project / "artifacts") == resumed


def test_out_of_memory_names_the_step_the_peak_and_a_switch_with_which_the_same_command_goes_on(
    project: Path, built: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(OutOfMemoryError) as caught:
        patch.setattr(Average, "update", full_at(5))
        build("lora")
    assert re.fullmatch(
        r"step 5 of the training: memory did not suffice: at most \d+\.\d GB of the host were in use\. "
        r"Next: write `recompute: true` \(.*\), and the same command goes on from the last saved state\.",
        str(caught.value),
    )
    assert not (project / "artifacts/lora/build").exists()
    change(project / "pipelines/lora/params.yaml", recompute=True)
    build("lora")
    assert "resumed at step 4 of 6" in capsys.readouterr().err
    name = "artifacts/lora/build/artifact.safetensors"
    assert same(artifacts.load(project / name).tensors, artifacts.load(built / name).tensors)


@pytest.mark.parametrize(
    ("place", "step"),
    [
        ("etude.training.opening.open_base", "loading the base"),
        ("etude.training.preview.draw", "drawing the preview of the untouched base"),
    ],
)
def test_out_of_memory_before_the_first_step_names_what_was_going_on(
    place: str, step: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(place, full)
    with pytest.raises(OutOfMemoryError, match=rf"^{step}: memory did not suffice: .*Next: write `recompute: true`"):
        build("lora")


def test_a_build_that_does_not_fit_on_the_device_stops_before_weights_are_read(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms: list[tuple[str, int]] = []

    def refuse(method: str, room: int) -> None:
        rooms.append((method, room))
        raise InputError("lora: build", "needs more", "use less")

    monkeypatch.setattr("tasks.build._room", lambda _: 8_000_000_000)
    monkeypatch.setattr("etude.estimates.refuse_too_large", refuse)
    monkeypatch.setattr("etude.base.loading.read_model", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(InputError, match="needs more"):
        build("lora")
    assert rooms == [("lora", 8_000_000_000)]
    settings = pick(project / "params.yaml", StageParams)
    _refuse_too_large("lora", settings.model_copy(update={"processes": 2}))  # an estimate is of one process
    with monkeypatch.context() as patch:
        patch.setenv(processes.OURS, "2")
        _refuse_too_large("lora", settings)
    monkeypatch.setattr("tasks.build._room", lambda _: 0)
    _refuse_too_large("lora", settings)
    assert len(rooms) == 1


def test_the_room_of_a_device_is_all_of_a_gpus_memory_and_the_cpu_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (7_000, 9_000))  # free, and in all
    assert (_room("cuda"), _room("cpu")) == (9_000, 0)


def test_time_and_memory_of_a_run_are_noted_with_those_of_the_gpu_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.build.peak", lambda: 77)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 55)
    for there, more in ((False, {}), (True, {"device_memory_bytes": 55})):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        _measure(tmp_path / "costs.json", 1.26)
        assert read_json(tmp_path / "costs.json") == {"seconds": 1.3, "memory_bytes": 77, **more}


@pytest.mark.parametrize(
    ("method", "training", "days", "kept"),
    [
        ("lora", {"schedule": "constant", "steps": 7}, 2, ("retain", 7, True)),
        ("lora", {"schedule": "cosine", "steps": 7}, 2, ("retain", 7, False)),  # its end depends on all of its steps
        ("lora", {"schedule": "constant", "steps": 7}, 0, ("discard",)),
        ("model_merge", None, 2, ("discard",)),
    ],
)
def test_the_state_of_a_run_that_ended_is_kept_for_a_longer_one_as_many_days_as_params_say(
    method: str,
    training: dict[str, Any] | None,
    days: int,
    kept: tuple[Any, ...],
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[Any, ...]] = []
    report: Any = SimpleNamespace(
        retain=lambda steps, state: asked.append(("retain", steps, state)), discard=lambda: asked.append(("discard",))
    )
    monkeypatch.setattr("etude.training.report.forget_finished", lambda *given: asked.append(given))
    change(project / "params.yaml", keep_states=days)
    _keep_state(report, params_of(method, training))
    assert asked == [kept, (Path(".scratch"), days)]


def test_a_run_has_a_state_of_its_own_for_all_that_changes_its_result_and_not_for_its_length_or_its_memory(
    project: Path,
) -> None:
    def place(inputs: dict[str, str] | None = None, facts: dict[str, Any] | None = None, **changes: Any) -> Path:
        return _scratch("lora", params_of("lora", **changes), inputs or {"data": "1"}, facts or {"seed": 3})

    own = place()
    assert own == place(training={"steps": 60}) == place(recompute=True)
    others = [place(rank=5), place(training={"learning_rate": 1e-3}), place({"data": "2"}), place(facts={"seed": 4})]
    assert len({own, *others}) == 5
    assert own.parent == Path(".scratch")
    assert re.fullmatch("lora-[0-9a-f]{16}", own.name)


def test_facts_name_the_gpu_the_reading_of_texts_and_the_package_of_the_optimizer(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = pick(project / "params.yaml", StageParams)
    params, base = params_of("lora"), Path("models/tiny")
    inputs = {"models/tiny": "1", "data/concept/latents": "2", "etude/core": "3"}
    plain = _facts(params, settings, inputs, base, None)
    assert "reading" not in plain
    assert plain["inputs"] == {"models/tiny": "1", "data/concept/latents": "2"}
    assert plain["cpu"].startswith(platform.machine())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    text = Text(chunks=2, rule="kohya", emphasis="none")
    facts = _facts(params, settings.model_copy(update={"device": "cuda", "text": text}), inputs, base, None)
    assert (facts["device"], facts["reading"]) == ("Tesla T4", text.model_dump())
    monkeypatch.setattr("tasks.build.versions", lambda *names: names)
    optimizer = params.training.optimizer.model_copy(update={"kind": "prodigy"})  # type: ignore[attr-defined]
    prodigy = params.model_copy(update={"training": params.training.model_copy(update={"optimizer": optimizer})})  # type: ignore[attr-defined]
    packages = [_facts(one, settings, inputs, base, None)["versions"] for one in (params, prodigy)]
    assert packages == [LIBRARIES, (*LIBRARIES, "prodigyopt")]


def full_at(steps: int) -> Callable[[Average, int], None]:
    """`Average.update`, for which memory does not suffice after so many steps."""

    def update(_: Average, done: int) -> None:
        if done == steps:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    return update


def test_more_processes_than_gpus_are_refused_with_both_numbers(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(project / "params.yaml", processes=2, device="cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    fault = r"`processes` is 2, but this stage can use 1 GPU \(CUDA_VISIBLE_DEVICES is 5\).*write `processes: 1`"
    with pytest.raises(ParamsError, match=fault):
        build("lora")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ParamsError, match="`device` is cuda, and torch finds no GPU. Next: write `device: auto`"):
        build("lora")


def test_as_many_processes_as_gpus_are_taken_and_those_that_were_started_are_not_counted_again(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = pick(project / "params.yaml", StageParams).model_copy(update={"device": "cuda", "processes": 3})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    _tell_of_gpus(settings)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ParamsError, match=r"`processes` is 3, but this stage can use 2 GPUs\. Next: write `proc.*: 2`"):
        _tell_of_gpus(settings)
    _tell_of_gpus(settings.model_copy(update={"device": "cpu"}))
    monkeypatch.setenv(processes.OURS, "3")  # each of them sees one GPU
    _tell_of_gpus(settings)


def test_bf16_on_a_gpu_that_emulates_it_is_told(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    settings = pick(project / "params.yaml", StageParams).model_copy(update={"device": "cuda", "precision": "bf16"})
    _tell_of_gpus(settings)
    assert "Tesla T4 only emulates `precision: bf16`, slowly. Next: write `precision: fp16`" in capsys.readouterr().err
    _tell_of_gpus(settings.model_copy(update={"precision": "fp16"}))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    _tell_of_gpus(settings)
    assert capsys.readouterr().err == ""


def test_several_processes_make_one_artifact_and_one_of_them_speaks(project: Path) -> None:
    change(project / "params.yaml", processes=2)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "from tasks.build import build; build('lora')"]
    run = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("starting, 6 steps") == 1
    assert run.stdout.count("tensors in artifacts/lora/build") == 1
    assert artifacts.load(project / "artifacts/lora/build/artifact.safetensors").facts["processes"] == 2
    assert list((project / ".scratch").iterdir()) == []


def test_a_fault_in_one_process_ends_them_all(project: Path) -> None:
    change(project / "params.yaml", processes=2)
    shutil.rmtree(project / "data/concept/latents")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "from tasks.build import build; build('lora')"]
    run = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert run.returncode == 1
    assert "latents" in run.stderr


def test_every_dep_of_the_stage_is_an_input(project: Path) -> None:
    own = Path("pipelines/lora/dvc.yaml")
    before = look_of(own, "build").digests()
    assert {"data/concept/latents", "data/concept/texts", "models/tiny", "etude/training", "tasks/build.py"} <= set(
        before
    )
    picture = project / "data/concept/latents/from-a.safetensors"
    picture.write_bytes(picture.read_bytes()[:-1] + b"\x01")
    after = look_of(own, "build").digests()
    assert [path for path in before if before[path] != after[path]] == ["data/concept/latents"]


def test_a_build_whose_inputs_changed_meanwhile_saves_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, captions = load_method("lora"), project / "data/concept/texts/captions.json"
    learn, before = module.build, captions.read_text()

    @functools.wraps(learn)
    def meddle(**given: Any) -> Any:
        captions.write_text("{}")
        return learn(**given)

    monkeypatch.setattr(module, "build", meddle)
    with pytest.raises(StaleError, match=r"data/concept/texts/captions.json: changed while this stage ran"):
        build("lora")
    assert not (project / "artifacts/lora/build").exists()
    captions.write_text(before)
    monkeypatch.setattr("tasks.build._publish", lambda *_: pytest.fail("gigabytes were copied before a look"))
    with pytest.raises(StaleError, match=r"data/concept/texts/captions.json: changed while this stage ran"):
        build("lora")


def test_a_base_that_the_method_cannot_stand_on_is_refused_before_it_is_loaded(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_method("lora"), "unsupported", {"sd1": "it is too old"})
    monkeypatch.setattr("etude.base.loading.load_base", None)
    with pytest.raises(
        BaseError,
        match="is of the family sd1, which lora does not support: it is too old. Next: set `base` in params.yaml "
        f"to a base of {' or '.join(name for name in FAMILIES if name != 'sd1')}",
    ):
        build("lora")


@pytest.mark.parametrize(
    ("module", "there", "shared", "kind", "fault"),
    [
        ("etude.training.settings", None, {"trackers": ["wandb"]}, "adamw", "`trackers` has wandb, which is not inst"),
        ("etude.training.optimizer", None, {}, "adamw8bit", "needs bitsandbytes, which is not installed"),
        ("etude.training.optimizer", True, {"device": "auto"}, "adamw8bit", "bitsandbytes cannot compute on this dev"),
    ],
    ids=["tracker", "optimizer", "device"],
)
def test_what_this_machine_cannot_run_is_refused_before_the_base_is_looked_at(
    module: str,
    there: bool | None,
    shared: dict[str, Any],
    kind: str,
    fault: str,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = project / "pipelines/lora/params.yaml"
    plan = read_yaml(own)["training"]
    change(own, training=plan | {"optimizer": plan["optimizer"] | {"kind": kind}})
    change(project / "params.yaml", base="models/none", **shared)
    monkeypatch.setattr(f"{module}.find_spec", lambda _: there)
    monkeypatch.setattr("etude.base.loading.choose_device", lambda _: torch.device("mps"))
    with pytest.raises(ParamsError, match=fault):
        build("lora")


def test_a_method_that_reads_one_chunk_of_a_text_is_refused_where_texts_have_several(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make_project(tmp_path, tiny_base, "null_text_inversion"))
    change(tmp_path / "params.yaml", text={"chunks": 2, "rule": "a1111", "emphasis": "none"})
    with pytest.raises(ParamsError, match="this method reads 75 tokens without weights"):
        build("null_text_inversion")


def test_a_base_that_is_missing_is_named(project: Path) -> None:
    change(project / "params.yaml", base="models/other")
    with pytest.raises(BaseError, match="models/other"):
        build("lora")


def test_a_method_that_names_no_captions_needs_none_and_previews_can_be_left_out(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make_project(tmp_path, tiny_base, "dream_artist"))
    own = tmp_path / "pipelines/dream_artist/params.yaml"
    blocks = {side: read_yaml(own)[side] | {"vectors": count} for side, count in (("positive", 2), ("negative", 3))}
    word_alone = {"templates": ["[name]"], "reads": "prepared"}
    change(own, preview=read_yaml(own)["preview"] | {"seeds": []}, reconstruction=0.5, **word_alone, **blocks)
    shutil.rmtree(tmp_path / "data/concept/texts")
    build("dream_artist")
    made = artifacts.load(tmp_path / "artifacts/dream_artist/build/artifact.safetensors")
    assert made.tensors["positive.text_encoder"].shape == (2, 32)
    assert made.tensors["negative.text_encoder"].shape == (3, 32)
    assert not (tmp_path / "artifacts/dream_artist/build/previews").exists()


def test_a_method_that_trains_nothing_reads_the_pictures_and_leaves_its_artifact_alone(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make_project(tmp_path, tiny_base, "aesthetic_gradient", clip="models/tiny/clip"))
    for folder in ("latents", "texts"):
        shutil.rmtree(tmp_path / "data/concept" / folder)
    change(tmp_path / "pipelines/aesthetic_gradient/params.yaml", set="concept")
    began = time.monotonic()
    build("aesthetic_gradient")
    took = read_json(tmp_path / "logs/build-aesthetic_gradient.json")["seconds"]
    assert 0 <= took <= time.monotonic() - began + 0.1
    out = tmp_path / "artifacts/aesthetic_gradient"
    assert [name for name in outs(out) if name.startswith("build")] == ["build/artifact.safetensors"]
    assert (out / "training").is_dir()
    made = artifacts.load(out / "build/artifact.safetensors")
    assert (made.tensors["embedding"].shape, made.facts["images"]) == ((1, 32), 3)
    assert {"data/concept/prepared", "models/tiny"} <= set(made.facts["inputs"])


def test_a_base_of_ones_own_is_told_apart_when_its_vae_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = build_tiny(tmp_path / "own", unclip=True)
    make_project(tmp_path, own, "clip_inversion")
    change(tmp_path / "pipelines/clip_inversion/params.yaml", base="models/tiny")
    monkeypatch.chdir(tmp_path)
    other = Path(shutil.copytree(own, tmp_path / "models/other"))
    change(tmp_path / "params.yaml", base="models/other")
    build("clip_inversion")
    assert "warning" not in capsys.readouterr().err
    assert (tmp_path / "artifacts/clip_inversion/previews/000006.png").exists()
    (other / "vae/config.json").write_text((other / "vae/config.json").read_text() + "\n")
    build("clip_inversion")
    said = " ".join(capsys.readouterr().err.split())
    assert "warning: clip_inversion: models/tiny/vae differs from models/other/vae" in said
    assert "Next: set `base` in pipelines/clip_inversion/params.yaml to a base with the same VAE" in said
    monkeypatch.setattr(load_method("clip_inversion"), "unsupported", dict.fromkeys(FAMILIES, "it is too old"))
    with pytest.raises(BaseError, match="Next: set `base` in pipelines/clip_inversion/params.yaml"):
        build("clip_inversion")
