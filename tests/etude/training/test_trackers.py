"""What trackers get of a run, through accelerate; Weights & Biases is played by a module that notes what it is told."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest

from etude.core.errors import ParamsError, TrainingError
from etude.training import settings
from etude.training.settings import refuse_missing_trackers
from etude.training.trackers import Trackers


class Service(ModuleType):
    """A tracker's package: `init` returns a run, whose points are kept."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.points: list[tuple[int, dict[str, float]]] = []
        self.opened: list[dict[str, Any]] = []
        self.closed = 0

    def init(self, **settings: Any) -> SimpleNamespace:
        self.opened.append(settings)
        return SimpleNamespace(log=self._note, finish=self._close)

    def _note(self, values: dict[str, float], step: int) -> None:
        self.points.append((step, values))

    def _close(self) -> None:
        self.closed += 1


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    played = Service()
    monkeypatch.setitem(sys.modules, "wandb", played)
    return played


def test_a_run_that_resumes_goes_on_in_its_run_of_the_tracker_and_sends_no_point_twice(
    service: Service, tmp_path: Path
) -> None:
    params = {"rank": 4, "training": {"steps": 30}}
    stopped = Trackers(["wandb"], tmp_path / "lora-1", params)
    for step in (10, 20):
        stopped.log(step, {"loss": 1 / step})
    resumed = Trackers(["wandb"], tmp_path / "lora-1", params)
    for step in (20, 30):  # its last state is that of step 10
        resumed.log(step, {"loss": 1 / step})
    resumed.end()
    assert service.points == [(step, {"loss": 1 / step}) for step in (10, 20, 30)]
    assert [opened["id"] for opened in service.opened] == ["lora-1", "lora-1"]
    assert service.opened[0]["config"] == {"rank": 4, "training.steps": 30}
    assert service.closed == 1


def test_without_a_choice_no_tracker_is_opened_and_nothing_is_written(service: Service, tmp_path: Path) -> None:
    chosen = Trackers([], tmp_path / "lora-1", {})
    chosen.log(10, {"loss": 0.5})
    chosen.end()
    assert service.opened == []
    assert not (tmp_path / "lora-1").exists()


@pytest.mark.parametrize(
    ("text", "told"), [("api_key not configured\n(no-tty)", "api_key not configured"), ("", "without a message")]
)
def test_a_tracker_that_does_not_start_is_one_line_with_what_to_do(
    text: str, told: str, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_key(**_: Any) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr(service, "init", no_key)
    fault = rf"wandb does not start \(RuntimeError: {told}\)\. Next: configure wandb on this machine"
    with pytest.raises(TrainingError, match=fault):
        Trackers(["wandb"], tmp_path / "lora-1", {}).log(10, {"loss": 0.5})


def test_a_tracker_whose_package_is_missing_is_refused_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "find_spec", lambda name: None if name == "mlflow" else object())
    refuse_missing_trackers(["tensorboard", "wandb"])
    with pytest.raises(
        ParamsError, match="`trackers` has mlflow, which is not installed. Next: run `pip install mlflow`"
    ):
        refuse_missing_trackers(["tensorboard", "mlflow"])


class Opened:
    """A tracker of accelerate that notes how it is opened."""

    settings: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, project: str, **settings: Any) -> None:
        self.settings.append({"project": project, **settings})
        self.tracker = SimpleNamespace(info=SimpleNamespace(run_id="7f3"))

    def start(self) -> None:
        """Nothing is opened."""

    def log(self, values: dict[str, float], step: int) -> None:
        """Nothing is sent."""


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    kinds = dict.fromkeys(("mlflow", "tensorboard"), Opened)
    monkeypatch.setattr("accelerate.tracking.LOGGER_TYPE_TO_CLASS", kinds)
    monkeypatch.setattr(Opened, "settings", [])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # so that it is restored
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    return Opened.settings


def test_mlflow_goes_on_in_the_run_whose_number_it_gave_and_keeps_its_data_beside_the_runs(
    opened: list[dict[str, Any]], tmp_path: Path
) -> None:
    for step in (10, 20):
        Trackers(["mlflow"], tmp_path / "lora-1", {"training": {"steps": 30}}).log(step, {"loss": 0.5})
    assert [(each["run_id"], each["run_name"]) for each in opened] == [(None, "lora-1"), ("7f3", "lora-1")]
    assert opened[0]["tags"] == {"training.steps": "30"}
    assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path.as_posix()}/mlflow.db"


def test_an_address_of_mlflow_that_is_set_is_kept(
    opened: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://here")
    Trackers(["mlflow"], tmp_path / "lora-1", {}).log(10, {"loss": 0.5})
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://here"
    assert len(opened) == 1


def test_tensorboard_writes_into_the_folder_of_the_run(opened: list[dict[str, Any]], tmp_path: Path) -> None:
    trackers = Trackers(["tensorboard"], tmp_path / "lora-1", {"rank": 4})
    trackers.log(10, {"loss": 0.5})
    trackers.log(20, {"loss": 0.25})
    assert opened == [{"project": "etude", "logging_dir": str(tmp_path / "lora-1")}]
    assert not (tmp_path / "lora-1" / "mlflow-run").exists()
