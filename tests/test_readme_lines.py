"""Run every command line of README.md and flows/README.md, in order, on a new user's machine, and check its promise.

A line without a promise here fails, and so does a promise without a line. `make test` runs only the lines that need no
results; `make test ALSO=lines` and `make test-all` run all, with short trainings.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, TypeAlias
from urllib.request import ProxyHandler, build_opener

import pytest
from PIL import Image

from commands.rewriting import rewrite
from etude.core.params import read_yaml
from tests.hub import Hub
from tests.shipped import held
from tests.stranger import ROOT, Stranger, arrive, command_lines
from tests.tiny import build_tiny

README, FLOWS = command_lines(ROOT / "README.md"), command_lines(ROOT / "flows/README.md")
Promise: TypeAlias = Callable[[Stranger, str], None]
PROMISES: dict[str, Promise] = {}  # pattern of a whole line → runs the line and checks its promise
QUICK: set[str] = set()  # patterns of the lines that need no results


def promise(pattern: str, *, quick: bool = False) -> Callable[[Promise], Promise]:
    """Register a promise for the lines that match ``pattern``."""

    def keep(function: Promise) -> Promise:
        PROMISES[pattern] = function
        if quick:
            QUICK.add(pattern)
        return function

    return keep


def patterns_of(line: str) -> list[str]:
    """The patterns that match the line; there should be one."""
    return [pattern for pattern in PROMISES if re.fullmatch(pattern, line)]


def fulfil(stranger: Stranger, line: str) -> None:
    """Run the line and check its promise."""
    found = patterns_of(line)
    assert len(found) == 1, f"{line}: {len(found)} promises"
    PROMISES[found[0]](stranger, line)


@promise(r"make demo")
def the_demo_ends_with_a_report_and_says_where_things_are(stranger: Stranger, line: str) -> None:
    said = stranger.run(line)
    assert "artifacts/report/index.html" in said
    for method in ("lora", "textual_inversion"):
        assert f"artifacts/{method}/grid/grid.png" in said
        stranger.has(f"artifacts/{method}/grid/grid.png", f"artifacts/pages/{method}/index.html")
        assert list((stranger.clone / "artifacts" / method / "export").iterdir())
    assert stranger.run("git status --short -- . ':!*dvc.lock'") == ""


@promise(r'make (test|demo TORCH_INDEX=\S+|setup(?: EXTRAS="[a-z ]+")?)', quick=True)
def make_knows_the_target(stranger: Stranger, line: str) -> None:
    assert stranger.run(f"{line} --dry-run")  # a test that runs the tests would never end


@promise(r"source \.venv/bin/activate", quick=True)
def the_environment_is_there(stranger: Stranger, line: str) -> None:
    assert str(stranger.clone) in stranger.run(f"{line} && command -v python")


@promise(r"dvc repro")
def nothing_is_left_to_do_afterwards(stranger: Stranger, line: str) -> None:
    stranger.run(line)
    assert "Data and pipelines are up to date." in stranger.run("dvc repro")


@promise(r"dvc exp run -S pipelines/\S+")
def a_number_is_tried_and_kept_as_an_experiment(stranger: Stranger, line: str) -> None:
    before = set(experiments(stranger))
    stranger.run(line)
    made = set(experiments(stranger)) - before
    assert len(made) == 1
    table = stranger.run("dvc exp show --csv --no-pager")
    assert all(name in table for name in before | made)
    stranger.run("dvc plots diff HEAD && dvc metrics diff HEAD")


@promise(r"dvc exp run -S 'methods=\[lora\]'")
def only_the_method_asked_for_is_compared(stranger: Stranger, line: str) -> None:
    a_number_is_tried_and_kept_as_an_experiment(stranger, line)
    rows = (stranger.clone / "artifacts/report/methods.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["lora"]


@promise(r"dvc metrics show")
def numbers_are_shown(stranger: Stranger, line: str) -> None:
    assert "image_similarity" in stranger.run(line)


@promise(r"dvc plots (show|diff.*)")
def a_page_of_plots_is_written(stranger: Stranger, line: str) -> None:
    assert "index.html" in stranger.run(line)
    assert "vegaEmbed" in (stranger.clone / "dvc_plots/index.html").read_text(encoding="utf-8")


@promise(r"etude run(?: lora)?(?: --jobs \d)?(?: --gpus \d)?")
def a_flow_finds_what_dvc_made_and_dvc_what_a_flow_made(stranger: Stranger, line: str) -> None:
    stranger.run(line)
    assert "Data and pipelines are up to date." in stranger.run("dvc repro pipelines/lora/dvc.yaml")


@promise(r"etude run --dry", quick=True)
def it_says_what_would_run_and_runs_nothing(stranger: Stranger, line: str) -> None:
    before = state(stranger)
    assert re.search(r"to run|up to date", stranger.run(line))
    assert state(stranger) == before


@promise(r"etude server")
def prefects_pages_answer_until_it_is_stopped(stranger: Stranger, line: str) -> None:
    assert re.search(r"http://127\.0\.0\.1:\d+", stranger.serve(line, r"http://127"))


@promise(r"etude sweep -S \S+")
def every_combination_is_kept(stranger: Stranger, line: str) -> None:
    values = line.rpartition("=")[2].split(",")
    assert f"{len(values)} experiments kept" in stranger.run(line)
    assert {f"sweep-rank-{value}" for value in values} <= set(experiments(stranger))
    stranger.has("logs/sweeps/sweep.html")


@promise(r"etude evidence --dry", quick=True)
def what_is_not_measured_yet_is_listed(stranger: Stranger, line: str) -> None:
    # the evidence needs the miniature's parameters, and the clone now has others
    files = "params.yaml 'pipelines/*/params.yaml'"
    stranger.run(f"git add -A && git commit -q --allow-empty -m 'mine' && git checkout -q origin/HEAD -- {files}")
    assert "measured" in stranger.run(line)
    stranger.run(f"git checkout -q HEAD -- {files}")


@promise(r"etude reproduce HEAD --force")
def every_output_comes_out_identical(stranger: Stranger, line: str) -> None:
    stranger.run("git add -A && git commit -q --allow-empty -m 'what I ran'")
    assert re.search(r"HEAD: \d+ identical$", stranger.run(line).strip())


@promise(r"etude serve")
def the_three_deployments_wait_for_their_time(stranger: Stranger, line: str) -> None:
    said = stranger.serve(line, r"^changed: ")  # the last of the three
    assert all(f"{name}: " in said for name in ("nightly", "changed", "weekly"))


def state(stranger: Stranger) -> list[str]:
    """The git status of the clone, without the caches of Python and DVC."""
    lines = stranger.run("git status --short --ignored").splitlines()
    return [line for line in lines if "__pycache__" not in line and ".dvc/" not in line]


def experiments(stranger: Stranger) -> list[str]:
    return stranger.run("dvc exp list --name-only").split()


def answers(url: str) -> bool:
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=20):
            return True
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def own_server(stranger: Stranger) -> None:
    """Start a Prefect server on 127.0.0.1 only, and set the terminal's variables for it."""
    if "PREFECT_API_URL" in stranger.exported:
        return
    port = free_port()
    stranger.exported |= {"PREFECT_HOME": str(stranger.home / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    stranger.leave_running(f"prefect server start --host 127.0.0.1 --port {port}", r"http://127")
    stranger.exported["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    while not answers(f"http://127.0.0.1:{port}/api/health"):
        time.sleep(0.5)


@promise(r"prefect work-pool create schedule --type process")
def the_pool_of_the_schedules_is_made(stranger: Stranger, line: str) -> None:
    own_server(stranger)
    stranger.run(line)
    assert "schedule" in stranger.run("prefect work-pool ls")


@promise(r"prefect deploy --all")
def the_three_flows_are_deployed_with_their_schedules(stranger: Stranger, line: str) -> None:
    stranger.run(line)
    said = stranger.run("prefect deployment ls")
    assert all(f"{name}/pool" in said for name in ("nightly", "changed", "weekly"))
    stranger.run("prefect deployment schedule pause --all --no-prompt")  # else the worker may begin a run of minutes


@promise(r"prefect worker start --pool schedule")
def a_worker_waits_for_them(stranger: Stranger, line: str) -> None:
    stranger.serve(line, r"Worker .* started")


@promise(r"export PREFECT_API_URL=\S+|prefect server start --host 0\.0\.0\.0")
def one_server_is_there_for_all(stranger: Stranger, line: str) -> None:
    own_server(stranger)  # on 127.0.0.1, not on an address that other machines can reach
    assert "PREFECT_API_URL" in stranger.run("env")


@promise(r"etude (worker (cpu --limit 2|gpu)|run --pools)")
def machines_share_the_work(stranger: Stranger, line: str) -> None:
    pytest.skip("tried with an origin, a remote and real workers in tests/flows/test_machines.py")


@promise(r"etude images --from \S+ --set \S+.*")
def pictures_come_in_tracked_and_a_method_learns_from_them(stranger: Stranger, line: str) -> None:
    photos = stranger.home / "photos"
    photos.mkdir(exist_ok=True)
    for number, picture in enumerate(sorted((ROOT / "data/samples/style").glob("*.png"))[:3]):
        with Image.open(picture) as opened:
            opened.convert("RGB").resize((640, 480)).save(photos / f"IMG_{number:04d}.jpg", quality=95)
    stranger.run(line)
    given = dict(re.findall(r"--([a-z]+) (\S+)", line))
    stranger.has(f"data/raw/{given['set']}.dvc")
    params, own = (read_yaml(stranger.clone / file) for file in ("params.yaml", "pipelines/lora/params.yaml"))
    assert params["sets"][given["set"]] == f"data/raw/{given['set']}"
    assert params["methods"] == [given["method"]]
    assert (own["set"], own["name"]) == (given["set"], given["name"])
    rewrite(stranger.clone / "params.yaml", "params.yaml", {f"prompts.{given['set']}": ["[name]"]})


@promise(r"etude preset \w+")
def the_params_files_have_the_presets_values(stranger: Stranger, line: str) -> None:
    stranger.run(line)
    assert "params.yaml" in stranger.run("git diff --name-only")
    hasten(stranger, **SMALL)


@promise(r"etude sample .*")
def pictures_are_drawn_with_any_stack(stranger: Stranger, line: str) -> None:
    before = stranger.run("git status --short")
    stranger.run(line)
    drawn = re.search(r"--out (\S+)", line)
    with Image.open(stranger.clone / (drawn[1] if drawn else "sample.png")) as picture:
        assert picture.width >= 128
    assert stranger.run("git status --short") == before


@promise(r"etude convert lora@160 --to \S+ --out \S+")
def any_checkpoint_comes_out_in_a_format_of_its_kind(stranger: Stranger, line: str) -> None:
    training = read_yaml(held("pipelines/lora/params.yaml"))["training"]
    assert 160 % training["checkpoint_every"] == 0
    assert training["steps"] >= 160
    before = stranger.run("git status --short")
    stranger.run(line.replace("@160", f"@{SHORT['training.checkpoint_every']}"))  # the first of the short training
    assert list((stranger.clone / line.rsplit(maxsplit=1)[-1]).rglob("*.safetensors"))
    assert stranger.run("git status --short") == before


@promise(r"etude base")
def the_models_of_the_preset_are_fetched(stranger: Stranger, line: str) -> None:
    base = build_tiny(stranger.home / "hub/base")
    repositories = {item["from"]: base for item in read_yaml(stranger.clone / "presets/sd15.yaml")["fetch"]}
    clip = next(name for name in repositories if "clip-vit" in name)
    with Hub({**repositories, clip: base / "clip"}) as hub:
        said = stranger.run(line, HF_ENDPOINT=hub.url)
    stranger.has("models/sd15/unet", "models/sd15.dvc", "models/clip-vit-large-patch14.dvc")
    assert not (stranger.clone / "models/sd21-unclip").exists()  # only what the chosen methods read
    assert "dvc repro" in said.splitlines()[-1]


@promise(r"etude check", quick=True)
def nothing_is_missing(stranger: Stranger, line: str) -> None:
    assert "fine" in stranger.run(line)


SHORT = {"training.steps": 8, "training.warmup_steps": 0, "training.checkpoint_every": 4, "preview.seeds": []}
SHORT |= {"base_precision": "fp32"}  # as `precision` in SMALL
FEW = {
    "sampling.steps": 2,
    "prompts.concept": ["[name]"],
    "prompts.style": ["[name]"],
    "evaluate.seeds": [0],
    "evaluate.validation.images": 2,
    "evaluate.validation.timesteps": [500],
    "grid.z.values": "0",
}


SMALL = {"prepare.resolution": 64, "precision": "fp32", "grid.cell": 64}  # on a processor, with a tiny base


def hasten(stranger: Stranger, **more: Any) -> None:
    """Set short trainings and few pictures, and commit them in the stranger's clone."""
    rewrite(stranger.clone / "params.yaml", "params.yaml", FEW | more)
    for method in ("lora", "textual_inversion"):
        rewrite(stranger.clone / "pipelines" / method / "params.yaml", "params.yaml", SHORT)
    stranger.run("git commit -qam 'short trainings'")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stranger]:
    made = arrive(tmp_path_factory.mktemp("stranger"))
    hasten(made)
    yield made
    made.leave()


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    """A stranger who has run nothing yet."""
    return arrive(tmp_path_factory.mktemp("newcomer"))


def test_every_line_has_a_promise_and_every_promise_a_line() -> None:
    found = {line: patterns_of(line) for line in README + FLOWS}
    assert {line: patterns for line, patterns in found.items() if len(patterns) != 1} == {}
    assert set(PROMISES) - set(chain(*found.values())) == set()


@pytest.mark.parametrize("line", [line for line in README + FLOWS if QUICK & set(patterns_of(line))])
def test_a_line_that_needs_no_results(newcomer: Stranger, line: str) -> None:
    fulfil(newcomer, line)


@pytest.mark.slow
@pytest.mark.lines
@pytest.mark.parametrize("line", README + FLOWS)  # in this order, one after the other
def test_a_line_of_the_readmes(stranger: Stranger, line: str) -> None:
    fulfil(stranger, line)
