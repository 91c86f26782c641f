"""The flow that runs the missing experiments of the evidence. Importing this module imports Prefect."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from evidence.study import STUDY
from flows.board import current
from flows.comparison import Result, Trial
from flows.experiments import try_all


@flow(name="evidence", validate_parameters=False)
def evidence(jobs: int = 1, gpus: Sequence[str] = ()) -> State[None]:
    """Run the experiments that STUDY lists, side by side; write numbers and page as each experiment ends.

    The flow ends as Failed, with the reasons, if an experiment could not be measured; all others are still measured.
    """
    study, board = STUDY.get(), current()
    faults: list[str] = []
    ended = count(1)

    def done(trial: Trial, result: Result) -> None:
        if result.fault:
            faults.append(f"{trial.title}: {result.fault}")
        else:
            study.take(trial, result)
        board.note(f"{trial.title}: {'failed' if result.fault else 'measured'}, {next(ended)} of {len(study.todo)}")

    try_all(study.root, study.todo, jobs, gpus, done)
    measured = f"{len(study.todo) - len(faults)} of {len(study.todo)} experiments measured: {study.page}"
    return (Failed if faults else Completed)(message="\n".join([*faults, measured]))
