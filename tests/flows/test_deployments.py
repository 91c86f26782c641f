"""What runs by itself and with which settings; what is printed of it. Without a server."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from httpx import ConnectError
from prefect.states import Completed, Failed
from pydantic import ValidationError

from etude.core.errors import InputError
from flows import schedule, serve, server, settings, watch
from flows.settings import Settings, seconds
from tests.flows.conftest import Calls

GIVEN = {
    "time_zone": "Europe/Zurich",
    "jobs": 3,
    "nightly": {"cron": "0 2 * * *"},
    "changed": {"interval": "10m"},
    "weekly": {"cron": "0 4 * * sun", "force": True, "tolerance": 0.25},
}


def test_the_nightly_run_is_of_everything_with_all_that_the_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repro = Calls(Failed(message="it broke"))
    monkeypatch.setattr(schedule.graph, "repro", repro)
    monkeypatch.setattr(schedule, "cores", lambda: 6)
    monkeypatch.setattr(schedule, "devices", lambda count: ["5"] if count is None else [])
    state = schedule.nightly.fn(str(tmp_path))
    assert (state.is_failed(), state.message) == (True, "it broke")
    repro.result = Completed(message="1 ran")
    state = schedule.nightly.fn(tmp_path, 2)
    assert (state.is_completed(), state.message) == (True, "1 ran")
    named = {"return_state": True}
    assert repro == [(str(tmp_path), (), 6, ["5"], named), (str(tmp_path), (), 2, ["5"], named)]


def test_the_weekly_run_reproduces_the_last_tag_and_tolerates_a_thousandth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reproduce = Calls(Completed(message="v2: 1 identical"))
    monkeypatch.setattr(schedule, "reproduce", reproduce)
    monkeypatch.setattr(schedule, "cores", lambda: 6)
    monkeypatch.setattr(schedule, "devices", lambda _: ["5"])
    asked = Calls("v2")
    monkeypatch.setattr(schedule, "git", asked)
    state = schedule.weekly.fn(str(tmp_path))
    schedule.weekly.fn(str(tmp_path), 2, True, 0.25)
    assert (state.is_completed(), state.message) == (True, "v2: 1 identical")
    common = {"gpus": ["5"], "return_state": True}
    assert reproduce == [
        ("v2", str(tmp_path), {"jobs": 6, "force": False, "tolerance": 1e-3, **common}),
        ("v2", str(tmp_path), {"jobs": 2, "force": True, "tolerance": 0.25, **common}),
    ]
    assert asked[0] == (tmp_path, "describe", "--tags", "--abbrev=0", {"check": False})


def test_a_look_that_finds_a_change_runs_with_its_jobs_and_keeps_what_it_saw_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "params.yaml").write_text("sets: {}\n")
    ran = Calls(Completed(message="1 ran"))

    def run(root: Path, jobs: int) -> Any:
        (tmp_path / "params.yaml").write_text(f"sets: {{}} # changed during run {len(ran)}\n")
        return ran(root, jobs)

    monkeypatch.setattr(schedule, "repro_here", run)
    schedule.changed.fn(str(tmp_path), 4)
    schedule.changed.fn(str(tmp_path))
    assert ran == [(tmp_path, 4), (tmp_path, 0)]
    (tmp_path / "params.yaml").write_text("sets: {} # changed during run 0\n")
    assert schedule.changed.fn(str(tmp_path)).message == "no picture and no parameter changed"


def test_a_fingerprint_is_of_name_size_and_time_of_each_picture_of_each_set(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("sets: {b: photos, a: more/pictures}\n")
    files = [tmp_path / "photos/a.png", tmp_path / "more/pictures/deep/b.png"]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text("ab")
    seen = [schedule.fingerprint(tmp_path)]
    for file in files:
        now = file.stat()
        file.write_text("abc")
        os.utime(file, ns=(now.st_atime_ns, now.st_mtime_ns))
        seen.append(schedule.fingerprint(tmp_path))  # another size
        os.utime(file, ns=(now.st_atime_ns, now.st_mtime_ns + 1))
        seen.append(schedule.fingerprint(tmp_path))  # another time
        file.rename(file.with_name("c.png"))
        seen.append(schedule.fingerprint(tmp_path))  # another name
    (tmp_path / "params.yaml").write_text("sets: {a: more/pictures, b: photos}\n")
    seen.append(schedule.fingerprint(tmp_path))  # another params file
    assert len(set(seen)) == len(seen)
    (tmp_path / "params.yaml").write_text("methods: []\n")
    assert len(schedule.fingerprint(tmp_path)) == 64


def deployed(root: Path, **changes: Any) -> dict[str, Any]:
    return {str(one.flow_name): one for one in schedule.deployments(root, Settings.model_validate(GIVEN | changes))}


def test_each_deployment_has_its_time_and_its_parameters(tmp_path: Path) -> None:
    made = deployed(tmp_path)
    assert list(made) == ["nightly", "weekly", "changed"]
    common = {"root": str(tmp_path), "jobs": 3}
    assert made["nightly"].parameters == made["changed"].parameters == common
    assert made["weekly"].parameters == common | {"force": True, "tolerance": 0.25}
    assert {one.name for one in made.values()} == {"here"}
    assert made["weekly"].entrypoint == "flows.schedule.weekly"
    times = {name: one.schedules[0].schedule for name, one in made.items()}
    assert (times["nightly"].cron, times["weekly"].cron) == ("0 2 * * *", "0 4 * * sun")
    assert times["changed"].interval == timedelta(minutes=10)
    assert {time.timezone for time in times.values()} == {"Europe/Zurich"}


def test_what_is_never_to_run_is_not_deployed(tmp_path: Path) -> None:
    weekly = GIVEN["weekly"] | {"cron": ""}  # type: ignore[operator]
    assert list(deployed(tmp_path, weekly=weekly)) == ["nightly", "changed"]
    assert list(deployed(tmp_path, nightly={"cron": ""}, weekly=weekly)) == ["changed"]
    assert deployed(tmp_path, nightly={"cron": ""}, weekly=weekly, changed={"interval": ""}) == {}


@pytest.mark.parametrize(
    ("change", "fine"),
    [
        ({"changed": {"interval": "10"}}, True),
        ({"changed": {"interval": "9.9s"}}, False),
        ({"changed": {"interval": "366d"}}, True),
        ({"changed": {"interval": "366.1d"}}, False),
        ({"changed": {"interval": ""}}, True),
        ({"changed": {"interval": "soon"}}, False),
        ({"jobs": 0}, True),
        ({"jobs": -1}, False),
        ({"jobs": 1024}, True),
        ({"jobs": 1025}, False),
        ({"weekly": {"cron": "", "force": False, "tolerance": 1}}, True),
        ({"weekly": {"cron": "", "force": False, "tolerance": 1.01}}, False),
        ({"weekly": {"cron": "", "force": False, "tolerance": -0.01}}, False),
        ({"nightly": {"cron": "0 2 * *"}}, False),
        ({"nightly": {"cron": "*/5 1-3 1,15 JAN mon"}}, True),
    ],
)
def test_settings_have_their_bounds(change: dict[str, Any], fine: bool) -> None:
    if fine:
        assert Settings.model_validate(GIVEN | change)
    else:
        with pytest.raises(ValidationError):
            Settings.model_validate(GIVEN | change)


@pytest.mark.parametrize("text", ["", "4 weeks", "-3", "1..5", "5x"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        seconds(text)
    assert seconds(" 2 h ") == 7200


def test_the_schema_for_editors_is_written_where_they_look_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "schemas").mkdir()
    settings.main()
    assert '"time_zone"' in (tmp_path / "schemas/flows.schema.json").read_text()


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What serving calls; nothing is served."""
    did: dict[str, Any] = {"serve": Calls(), "said": Calls(), "connect": Calls(lambda: "http://here")}
    monkeypatch.setattr(serve, "_serve", did["serve"])
    monkeypatch.setattr(serve, "say", did["said"])
    monkeypatch.setattr(server, "connect", did["connect"])
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PREFECT_API_URL", "")
    monkeypatch.delenv("PREFECT_API_URL")
    monkeypatch.setenv("PYTHONPATH", "/mine")
    return did


def test_deployments_are_served_from_the_repositorys_own_server_or_from_the_users(
    tmp_path: Path, served: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = Settings.model_validate(GIVEN)
    serve.serve(tmp_path, given, ["weekly"])
    monkeypatch.setenv("PREFECT_API_URL", "http://there/api")
    serve.serve(tmp_path, given)
    (made, zone, now, home), (_, _, later, none) = served["serve"]
    assert [one.flow_name for one in made] == ["nightly", "weekly", "changed"]
    assert (zone, now, home) == ("Europe/Zurich", ["weekly"], tmp_path / "home")
    assert (later, none) == ((), None)
    assert served["connect"] == [(tmp_path,)] * 2
    assert served["said"] == [("watch at http://here",)] * 2
    assert os.environ["PYTHONPATH"].split(os.pathsep)[0] == str(serve.CODE)
    assert os.environ["PYTHONPATH"].split(os.pathsep)[-1] == "/mine"


def test_nothing_to_wait_for_and_a_server_that_is_gone_end_serving(
    tmp_path: Path, served: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    never = {"nightly": {"cron": ""}, "weekly": GIVEN["weekly"] | {"cron": ""}, "changed": {"interval": ""}}  # type: ignore[operator]
    with pytest.raises(typer.Exit) as ended:
        serve.serve(tmp_path, Settings.model_validate(GIVEN | never))
    assert ended.value.exit_code == 1
    assert capsys.readouterr().err == "nothing to wait for: flows/params.yaml says never to all\n"

    def away(*_: object) -> None:
        raise ConnectError("refused")

    monkeypatch.setattr(serve, "_serve", away)
    with pytest.raises(
        InputError, match=r"the Prefect server: it does not answer \(refused\). Next: run `etude serve` again"
    ):
        serve.serve(tmp_path, Settings.model_validate(GIVEN))


@pytest.mark.parametrize("own", [True, False])
def test_what_is_due_is_served_with_its_looks_and_what_is_wanted_now_is_begun(
    own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, begun, did = Calls(), Calls(), Calls()

    class Serving:
        def add(self, one: Any) -> str:
            return f"id of {one.flow_name}"

        def serve(self, looks: list[Any], tell: Any, lives: Any) -> None:
            did([look.__self__ for look in looks], tell, lives())

    monkeypatch.setattr(watch, "Serving", Serving)
    monkeypatch.setattr(watch, "Runs", lambda names, zone: SimpleNamespace(look=Look("runs", names, zone).look))
    monkeypatch.setattr(watch, "Reports", lambda log: SimpleNamespace(look=Look("reports", log).look))
    monkeypatch.setattr(server, "lives", lambda home: home / "alive")
    monkeypatch.setattr(serve, "say", said)
    monkeypatch.setattr("prefect.deployments.run_deployment", begun)
    made = list(deployed(tmp_path).values())
    serve._serve(made, "Europe/Zurich", ["weekly"], tmp_path if own else None)
    names = {f"id of {name}": name for name in ("nightly", "weekly", "changed")}
    ((looks, tell, lives),) = did
    assert looks[0].given == ("runs", names, "Europe/Zurich")
    assert [look.given for look in looks[1:]] == ([("reports", tmp_path / "server.log")] if own else [])
    assert (tell, lives) == (said, tmp_path / "alive" if own else True)
    assert begun == [("weekly/here", {"timeout": 0})]
    assert said == [
        ("nightly: 0 2 * * * (Europe/Zurich)",),
        ("weekly: 0 4 * * sun (Europe/Zurich)",),
        ("changed: every 0:10:00",),
    ]


class Look:
    """Something to look at, made with these words."""

    def __init__(self, *given: Any) -> None:
        self.given = given

    def look(self) -> list[str]:
        return []


@pytest.mark.parametrize(("words", "now"), [(None, ()), (["weekly"], ["weekly"])])
def test_serving_reads_the_settings_of_its_repository_and_ends_with_ctrl_c_also_in_a_background_job_of_a_shell(
    words: list[str] | None,
    now: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    served = Calls()
    monkeypatch.setattr(serve, "find_root", lambda _: tmp_path)
    monkeypatch.setattr(settings, "load", lambda root: f"settings of {root}")
    monkeypatch.setattr(serve, "serve", lambda *given: (served(*given), signal.raise_signal(signal.SIGINT)))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(typer.Exit) as ended:
            serve.main(words)
    finally:
        signal.signal(signal.SIGINT, before)
    assert served == [(tmp_path, f"settings of {tmp_path}", now)]
    assert (ended.value.exit_code, capsys.readouterr().err) == (130, "stopped\n")
