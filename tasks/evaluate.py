"""Measure every checkpoint and the untouched base: ``artifacts/<method>/evaluation/``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from etude.base.settings import Sampling, Text
from etude.core.files import write_json
from etude.core.method import load_method
from etude.core.params import Learned, Schema, pick
from etude.evaluation.settings import Evaluate
from tasks.shell import publish, run
from tasks.shell.console import progress, say

if TYPE_CHECKING:
    from etude.evaluation.study import Study

__all__ = ["StageParams", "evaluate"]


class StageParams(Schema):
    """The parts of params.yaml that this stage depends on."""

    base: str
    device: str
    evaluate: Evaluate
    precision: str
    prompts: dict[str, list[str]]
    sampling: Sampling
    text: Text
    threads: int


def evaluate(method: str) -> None:
    """Measure the untouched base, every checkpoint and the final artifact of METHOD."""
    study = _study(method, pick("params.yaml", StageParams))
    from etude.evaluation.results import write
    from etude.evaluation.study import examine
    from etude.rendering.candidates import candidates

    rows = candidates(Path("artifacts", method, "build"))
    examination = examine(study, rows, progress)
    with publish(Path("artifacts", method, "evaluation")) as out:
        write(study, examination, out)
    # a separate file, so that *export* does not run again if only the numbers change
    write_json(Path("artifacts", method, "best.json"), {"checkpoint": examination.best.candidate.name})
    pictures = sum(map(len, examination.drawn.paths.values()))
    say(f"{method}: {len(rows)} rows, {pictures} pictures, {examination.drawn.new} of them drawn now")
    rule = study.evaluate.best
    value, base = examination.best.values[rule.metric], examination.rows[0].values[rule.metric]
    say(f"{method}: best is {examination.best.candidate.name}: {rule.metric} {value}, untouched base {base}")


def _study(method: str, stage_params: StageParams) -> Study:
    own = pick(f"pipelines/{method}/params.yaml", Learned)
    from etude.evaluation.classifier import Classifier
    from etude.evaluation.features import ClipFeatures
    from etude.evaluation.heldout import find_heldout
    from etude.evaluation.study import Study
    from etude.rendering.prompts import prompts_of
    from etude.rendering.renderer import open_renderer

    named = stage_params.model_dump(include={"base", "device", "precision", "threads"})
    renderer = open_renderer(method, **named, reading=stage_params.text)
    settings = stage_params.evaluate
    clip = ClipFeatures(Path(settings.clip), device=renderer.device, threads=stage_params.threads)
    classifier = Classifier(Path(settings.classifier), device=renderer.device) if settings.classify else None
    return Study(
        renderer=renderer,
        clip=clip,
        name=own.word,
        prompts=prompts_of(stage_params.prompts, own.set),
        settings=load_method(method).axes,
        sampling=stage_params.sampling,
        evaluate=settings,
        data=Path("data", own.set),
        heldout=find_heldout(settings.heldout_folder(own.set), clip, classifier),
    )


if __name__ == "__main__":
    run(evaluate)
