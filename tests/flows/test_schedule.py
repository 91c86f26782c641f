"""What runs by itself: the settings, the fingerprint, the deployments, and a served flow."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from etude.core.errors import InputError, ParamsError
from flows import server, settings
from tests.flows.conftest import ROOT, Project, wait_until
from tests.flows.test_server import pid_of
from tests.shipped import PARAMS, git, held

SETTINGS = held(str(settings.FILE)).read_text()


def write(project: Project, text: str = SETTINGS) -> None:
    """The settings of a repository with one image set."""
    (project.root / "flows").mkdir(exist_ok=True)
    (project.root / settings.FILE).write_text(text)
    (project.root / "params.yaml").write_text("sets: {photos: pictures}\n")
    (project.root / "pictures").mkdir(exist_ok=True)
    (project.root / "pictures/a.png").write_text("a")


def test_the_settings_name_every_fault_at_once(project: Project) -> None:
    wrong = SETTINGS.replace("Etc/UTC ", "Mars/City").replace("0 2 * * *", "at two").replace("10m", "1s")
    write(project, wrong.replace("jobs:", "job:"))
    with pytest.raises(ParamsError) as error:
        settings.load(project.root)
    text = str(error.value)
    for part in (
        "'Mars/City' is not a time zone",
        "`nightly.cron`",
        "too short",
        "unknown key `job`, did you mean `jobs`?",
    ):
        assert part in text


def test_prefects_own_file_says_the_same_as_the_settings() -> None:
    given = settings.load(PARAMS)
    told = {
        entry["entrypoint"].partition(":")[2]: entry
        for entry in YAML(typ="safe").load(held("prefect.yaml"))["deployments"]
    }
    assert told["nightly"]["schedules"] == [{"cron": given.nightly.cron, "timezone": given.time_zone}]
    every = settings.seconds(given.changed.interval)
    assert told["changed"]["schedules"] == [{"interval": every, "timezone": given.time_zone}]
    assert told["weekly"]["schedules"] == [{"cron": given.weekly.cron, "timezone": given.time_zone}]
    assert told["weekly"]["parameters"] == {"force": given.weekly.force, "tolerance": given.weekly.tolerance}


def test_each_schedule_becomes_a_deployment_and_an_empty_one_none(project: Project) -> None:
    from flows.schedule import deployments

    write(project)
    given = settings.load(project.root)
    made = {one.flow_name: one for one in deployments(project.root, given)}
    assert sorted(made) == ["changed", "nightly", "weekly"]
    assert made["nightly"].entrypoint == "flows.schedule.nightly"
    (schedule,) = made["nightly"].schedules or ()
    assert (schedule.schedule.cron, schedule.schedule.timezone) == ("0 2 * * *", "Etc/UTC")
    write(project, SETTINGS.replace('"0 2 * * *"', '""').replace("10m", '""'))
    assert [one.flow_name for one in deployments(project.root, settings.load(project.root))] == ["weekly"]
    write(project, SETTINGS.replace("0 2 * * *", "99 2 * * *"))
    with pytest.raises(InputError, match="cannot read cron '99 2"):
        deployments(project.root, settings.load(project.root))


def test_what_is_not_served_cannot_be_started_at_once(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.serve import serve

    write(project, SETTINGS.replace("10m", '""'))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr("flows.server.connect", lambda _: lambda: "nowhere")
    for name in ("nigthly", "changed"):
        with pytest.raises(
            InputError, match=f"--now {name}: no flow of this name is served; .* Next: give nightly or weekly"
        ):
            serve(project.root, settings.load(project.root), [name])


def test_the_fingerprint_changes_with_a_picture_and_with_a_parameter_and_with_nothing_else(project: Project) -> None:
    from flows.schedule import fingerprint

    write(project)
    first = fingerprint(project.root)
    (project.root / "other.txt").write_text("x")
    assert fingerprint(project.root) == first
    (project.root / "pictures/b.png").write_text("b")
    second = fingerprint(project.root)
    (project.root / "pipelines/lora").mkdir(parents=True)
    (project.root / "pipelines/lora/params.yaml").write_text("rank: 4\n")
    assert len({first, second, fingerprint(project.root)}) == 3


def test_a_look_runs_the_graph_once_for_each_change_and_however_it_ends(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.states import Failed

    from flows import schedule

    write(project)
    monkeypatch.setattr(schedule, "repro_here", lambda *_: Failed(message="ran and failed"))
    told = []
    for step in range(4):
        if step == 2:
            (project.root / "pictures/b.png").write_text("b")
        told.append(schedule.changed.fn(str(project.root), 1).message)
    assert told == ["ran and failed", "no picture and no parameter changed"] * 2


def test_the_weekly_run_wants_a_tag(project: Project) -> None:
    from flows.schedule import last_tag

    with pytest.raises(InputError, match="no tag is on the present commit"):
        last_tag(project.root)


def test_the_server_plans_runs_of_every_deployment(project: Project, prefect_server: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
    from prefect.client.schemas.objects import StateType
    from prefect.server.services.scheduler import schedule_recent_deployments  # which is no part of a test's server

    from flows.schedule import deployments

    write(project)
    with get_client(sync_client=True) as client:
        for one in deployments(project.root, settings.load(project.root)):
            made: Any = one.apply()
            asyncio.run(schedule_recent_deployments())
            runs = client.read_flow_runs(deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[made])))
            assert len(runs) >= 3
            assert {run.state_type for run in runs} == {StateType.SCHEDULED}
            client.delete_deployment(made)


def test_what_the_server_logs_as_an_error_is_told_once_with_its_cause(tmp_path: Path) -> None:
    from flows.watch import Reports

    log = tmp_path / "server.log"
    log.write_text("")
    reports = Reports(log)

    def add(text: str) -> list[str]:
        with log.open("a") as file:
            file.write(text)
        return [
            line.removeprefix("the Prefect server reports an error: ") for line in [*reports.look(), *reports.look()]
        ]

    entry = "09:09:38.6{} | ERROR   | docket - [{} ms] schedule()\nTraceback\n  File x\nsqlalchemy.exc.Error: locked\n"
    assert add("09:09:37.100 | WARNING | prefect.server - slow\n") == []
    assert add(entry.format(10, 308) + "[SQL: INSERT]\n") == [
        f"docket - [308 ms] schedule(): sqlalchemy.exc.Error: locked. All of it is in {log}"
    ]
    assert add(entry.format(20, 186)) == []
    assert add("ERROR:    Exception in ASGI application\n") == [f"Exception in ASGI application. All of it is in {log}"]


@pytest.mark.slow  # crons of a minute
def test_what_is_scheduled_runs_and_is_told_until_the_server_is_gone(project: Project) -> None:
    write(
        project,
        SETTINGS.replace('"0 2 * * *"', '"* * * * *"').replace('"0 4 * * sun"', '"* * * * *"').replace("10m", "30s"),
    )
    project.stages(one={"params": ["sets"]})
    project.dvc("repro", "--quiet")
    for words in (["add", "."], ["commit", "-qm", "a run"], ["tag", "v1"]):
        git(project.root, *words)
    (project.root / "params.yaml").write_text("sets: {photos: pictures, more: pictures}\n")
    told = project.root / "told.txt"
    with told.open("w") as output:
        serving = subprocess.Popen(
            [sys.executable, "-m", "flows.serve"],
            cwd=project.root,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )

    def count(text: str) -> int:
        assert serving.poll() is None, told.read_text()
        return len(re.findall(text, told.read_text()))

    try:
        wait_until(lambda: count("changed: completed in .*: 1 (ran|up to date)"))
        assert count("(changed|nightly): completed in .*: 1 ran") == 1  # of the two, the one whose time came first
        wait_until(lambda: count("nightly: began") > 1 and count("nightly: completed in .*: 1 up to date") > 1)
        wait_until(lambda: count("weekly: completed in .*: v1: 1 identical"))
        project.stages(one={"params": ["sets"], "words": ["fail:3"]})
        wait_until(lambda: count("nightly: failed in .*: 1 of 1 stages failed: one"))
        os.kill(pid_of(server.recorded(project.root / ".scratch/prefect")), signal.SIGKILL)
        assert serving.wait() == 1
        assert "error: the Prefect server: it ended" in told.read_text()
    finally:
        serving.kill()
        serving.wait()
    assert "reports an error" not in told.read_text()


@pytest.mark.slow  # a process that serves, and one for the flow
def test_a_served_flow_runs_in_the_repository_and_leaves_with_ctrl_c(project: Project, prefect_server: str) -> None:
    write(project)
    project.stages(one={})
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PREFECT_API_URL": prefect_server, "COLUMNS": "200"}
    told = project.root.parent / "told.txt"
    with told.open("w") as out:
        serving = subprocess.Popen(
            [sys.executable, "-m", "flows.serve", "--now", "nightly"],
            cwd=project.root,
            env=env,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: project.runs() == ["one"] and (project.root / "out/one").exists())
        wait_until(lambda: "nightly: began" in told.read_text())  # it asks the server from time to time
        serving.send_signal(signal.SIGINT)
        serving.wait(timeout=60)
    finally:
        serving.kill()
    text = told.read_text()
    assert "nightly: 0 2 * * * (Etc/UTC)" in text
    assert text.endswith("stopped\n")
    assert serving.returncode == 130
    assert Path(project.root / "logs/one.log").exists()
