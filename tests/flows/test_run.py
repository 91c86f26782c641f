"""The command `etude run`, as a process of its own: plan, failure, kill, stop, its own server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from etude.watch.holders import lives
from flows import durations, server
from flows.plan import Stage
from flows.process import stop_group
from flows.run import plan_lines
from flows.terminal import devices
from tests.flows.conftest import ROOT, Project, wait_until
from tests.shipped import copy_project

HELP = """
import importlib, sys, typer, typer.testing
for name in sys.argv[1:]:
    app = typer.Typer()
    app.command()(importlib.import_module(name).main)
    shown = typer.testing.CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0 and "Usage" in shown.output, (name, shown.output)
print(sorted({"prefect", "dvc", "torch", "numpy", "PIL", "rich.live"} & sys.modules.keys()))
"""


def healthy(url: str) -> bool:
    """Whether a Prefect server answers there."""
    try:
        with build_opener(ProxyHandler({})).open(f"{url}/api/health", timeout=20) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def test_help_of_every_command_comes_without_what_takes_long_to_import() -> None:
    commands = [
        f"flows.{file.stem}" for file in (ROOT / "flows").glob("*.py") if "command_line(main)" in file.read_text()
    ]
    assert {"flows.run", "flows.server", "flows.sweep", "flows.worker"} <= set(commands)
    command = [sys.executable, "-c", HELP, *commands]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("  - textual_inversion", "  - textual_inversoin", "is no method, did you mean `textual_inversion`? Next: "),
        ("\nsets:", "\nsts:", "unknown key `sts`, did you mean `sets`? Next: correct the file"),
    ],
)
def test_a_fault_in_what_dvc_fills_in_is_told_in_our_words(old: str, new: str, said: str, tmp_path: Path) -> None:
    root = copy_project(tmp_path / "project")
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=root, check=True)
    params = (root / "params.yaml").read_text(encoding="utf-8")
    (root / "params.yaml").write_text(params.replace(old, new, 1), encoding="utf-8")
    command = [sys.executable, "-m", "flows.run", "--dry"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert said in done.stderr


def test_the_plan_says_what_would_run_and_why_and_runs_nothing(project: Project) -> None:
    (project.root / "params.yaml").write_text("rate: 1\n")
    project.stages(one={"params": ["rate"]}, two={"deps": ["out/one"]}, three={})
    project.dvc("repro", "--quiet")
    (project.root / "params.yaml").write_text("rate: 2\n")
    flow = project.flow("--dry")
    text, _ = flow.communicate()
    assert flow.returncode == 0
    lines = [line.split(maxsplit=1) for line in text.splitlines()]
    assert ["one", "params.yaml: rate 1 → 2"] in [[word.strip() for word in line] for line in lines]
    assert ["two", "after one"] in [[word.strip() for word in line] for line in lines]
    assert "2 of 3 stages to run, 1 up to date" in text
    assert len(project.runs()) == 3


def test_the_plan_is_told_where_an_input_is_not_here_yet_and_the_run_is_refused(project: Project) -> None:
    project.stages(one={"deps": ["base"]}, two={"deps": ["out/one"]})
    said = "base: is missing, and no stage makes it. Next: run `etude check`: it names the parameter"
    dry = project.flow("--dry")
    text, _ = dry.communicate()
    assert dry.returncode == 0, text
    assert "2 of 2 stages to run, 0 up to date" in text
    assert said in text
    run = project.flow()
    assert said in run.communicate()[0]
    assert run.returncode == 1


def test_each_stage_of_a_plan_is_one_line_that_fits_a_terminal_and_is_whole_elsewhere() -> None:
    build, page = Stage("b", "textual_inversion:build"), Stage("p", "textual_inversion:page")
    why = "params.yaml: precision fp32 → bf16; models/miniature changed; etude/training changed"
    todo = {build: tuple(why.split("; ")), page: ("after textual_inversion:build",)}
    memory = {"b": "7.4 GB, dry", "p": ""}
    for width in (80, 120):
        lines = [line.plain for line in plan_lines(todo, {"b": "1:05 min"}, memory, width)]
        assert [line.split()[0] for line in lines] == ["stage", build.label, page.label]
        assert max(map(len, lines)) == width
        assert lines[1].startswith("textual_inversion:build  1:05 min   7.4 GB, dry  params.yaml: prec")
    whole = [line.plain for line in plan_lines(todo, {}, {"b": "", "p": ""}, None)]
    assert whole[1] == f"textual_inversion:build  {why}"


def test_the_plan_estimates_what_runs_after_a_stage_that_is_up_to_date(project: Project) -> None:
    (project.root / "params.yaml").write_text("rate: 1\n")
    project.stages(one={}, two={"deps": ["out/one"], "params": ["rate"]})
    project.dvc("repro", "--quiet")
    durations.keep(project.root, Stage("two", "two"), 90.0)
    (project.root / "params.yaml").write_text("rate: 2\n")
    flow = project.flow("--dry")
    text, _ = flow.communicate()
    assert flow.returncode == 0, text
    assert "1 of 2 stages to run, 1 up to date\nabout 1:30 min with" in text


def test_an_unknown_target_ends_with_code_1_and_one_line(project: Project) -> None:
    project.stages(one={})
    flow = project.flow("--dry", "on")
    text, _ = flow.communicate()
    assert flow.returncode == 1
    assert text == "error: on: no stage, group, method or output has this name. Next: did you mean one?\n"


def test_a_server_that_does_not_answer_is_named(project: Project) -> None:
    project.stages(one={})
    flow = project.flow(PREFECT_API_URL="http://127.0.0.1:9/api")
    text, _ = flow.communicate()
    assert flow.returncode == 1
    assert text.startswith("error: PREFECT_API_URL: nothing answers at http://127.0.0.1:9/api"), text
    assert project.runs() == []


@pytest.mark.slow  # the first start of a server makes its database
def test_a_flow_with_its_own_server_says_how_it_went_and_leaves_nothing_running(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.stages(bad={"words": ["fail:7"]}, fine={"words": ["wait:go"]})
    page = project.root / "artifacts/report/index.html"
    page.parent.mkdir(parents=True)
    page.write_text("a report")
    from flows import artifacts

    home = str(project.root / ".scratch/prefect")
    monkeypatch.setenv("PREFECT_HOME", home)
    flow = project.flow(PREFECT_HOME=home)
    record = project.root / ".scratch/prefect/server.txt"
    wait_until(lambda: record.exists() and record.read_text())
    url = server.recorded(Path(home)).url
    project.pid("fine")
    with build_opener(ProxyHandler({})).open(f"{url}/artifacts/report/") as reply:
        assert reply.read() == b"a report"
    for own in ("artifacts", "artifacts/artifact/0b9dcd4c-0b0c-4a53-8a57-6a0c1a3e7e1e", "artifacts/key/lora-grid"):
        request = Request(f"{url}/{own}", headers={"Accept": "text/html"})
        with build_opener(ProxyHandler({})).open(request) as reply:
            assert b"<title>Prefect" in reply.read(), own
    shown = artifacts._address(b"a picture", url)
    with build_opener(ProxyHandler({})).open(f"{url}{shown}") as reply:
        assert reply.read() == b"a picture"
    (project.root / "go").touch()
    text, _ = flow.communicate()
    assert flow.returncode == 1
    assert url.startswith("http://127.0.0.1:")
    assert f"watch at {url}" in text
    assert "1 of 2 stages failed: bad." in text
    assert "bad ended with exit code 7. Its log, logs/bad.log, ends with:" in text
    assert "fine: ran in" in text
    assert not server.lives(Path(home))


@pytest.mark.slow  # a server is started twice
def test_a_server_that_is_restarted_is_waited_for_and_one_that_is_gone_is_named(
    project: Project, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    env = {**os.environ, "PREFECT_HOME": str(tmp_path / "home"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}

    def start() -> subprocess.Popen[bytes]:
        log = (tmp_path / "server.log").open("ab")
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        log.close()
        request.addfinalizer(lambda: stop_group(process.pid, 0.0, process))
        wait_until(lambda: healthy(url))
        return process

    project.stages(only={"words": ["wait:go"]}, after={"deps": ["out/only"]}, last={"words": ["wait:end"]})
    running = start()
    flow = project.flow("after", PREFECT_API_URL=f"{url}/api")
    project.pid("only")
    stop_group(running.pid, 0.0, running)
    (project.root / "go").touch()
    wait_until((project.root / "out/only").exists)
    running = start()
    text, _ = flow.communicate()
    assert flow.returncode == 0, text
    assert project.runs() == ["only", "after"]

    flow = project.flow("last", PREFECT_API_URL=f"{url}/api")
    project.pid("last")
    stop_group(running.pid, 0.0, running)
    (project.root / "end").touch()
    text, _ = flow.communicate()
    assert flow.returncode == 1
    assert "error: the Prefect server: it stopped answering while the flow ran" in text
    assert "run this again: what is finished is kept" in text
    assert "up to date" in project.dvc("status")


def test_a_killed_flow_leaves_its_stage_at_work_and_the_next_flow_adopts_the_result(
    project: Project, prefect_server: str
) -> None:
    project.stages(only={"words": ["wait:go"]}, after={"deps": ["out/only"]})
    first = project.flow(PREFECT_API_URL=prefect_server)
    stage = project.pid("only")
    first.kill()
    first.communicate()
    assert lives(stage)
    second = project.flow(PREFECT_API_URL=prefect_server)
    assert second.stdout
    while (line := second.stdout.readline()) and "only: running elsewhere" not in line:
        pass
    (project.root / "go").touch()
    text, _ = second.communicate()
    assert second.returncode == 0
    assert "only: adopted in" in text
    assert project.runs() == ["only", "after"]
    assert "up to date" in project.dvc("status")


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_stopped_flow_ends_its_stages_and_the_next_one_goes_on(
    project: Project, prefect_server: str, number: signal.Signals
) -> None:
    project.stages(quick={}, slow={"words": ["wait:go"], "deps": ["out/quick"]}, after={"deps": ["out/slow"]})
    flow = project.flow(PREFECT_API_URL=prefect_server)
    stage = project.pid("slow")
    flow.send_signal(number)
    flow.communicate()
    assert flow.returncode in (-number, 130)
    assert not lives(stage)
    (project.root / "go").touch()
    project.dvc("repro", "--quiet")
    assert project.runs() == ["quick", "slow", "slow", "after"]


def test_the_devices_are_those_that_the_user_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert devices(None) == ["2", "3"]
    assert devices(1) == ["2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices(None) == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", os.devnull)
    assert devices(None) == []
    assert devices(2) == ["0", "1"]
