"""The content of a method's page, read from the files of the method's stages: nothing is computed or assumed."""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etude.core.artifact import facts_of
from etude.core.errors import InputError
from etude.core.files import read_json
from etude.metrics import HELD_OUT, METRICS
from etude.pages.readme import files

CHECKPOINTS = "checkpoints"  # subfolder of an export with one folder for each checkpoint, if several are exported
FILES = "The files"  # the README section about the files of the export stage
Numbers = Mapping[str, float | None]


@dataclass(frozen=True)
class Checkpoint:
    """A row of ``checkpoints.csv``."""

    name: str
    step: int | None
    values: Numbers  # metric → value; None if it could not be measured


@dataclass(frozen=True)
class File:
    """An exported file, and the README's text about it."""

    name: str
    size: int  # bytes
    about: str


@dataclass(frozen=True)
class Findings:
    """All data of one built and evaluated method."""

    method: str
    about: tuple[str, ...]  # paragraphs of the module's docstring
    facts: Mapping[str, Any]  # of the artifact
    size: int  # bytes of the artifact
    setup: Mapping[str, Any]  # evaluation.json, the setup: name, set, prompts, seeds, sampling …
    metrics: Mapping[str, Mapping[str, float]]  # metrics.json: metric → base, best, final, real, …
    best: Mapping[str, Any]  # best.json
    checkpoints: Sequence[Checkpoint]
    losses: Sequence[tuple[float, float]]  # (step, training loss)
    exported: Mapping[str, Any]  # export.json: which checkpoint was written, and each file with its format
    files: Sequence[File]  # of that checkpoint
    folder: Path  # artifacts/<method>
    readme: Path  # pipelines/<method>/README.md

    def picture(self, kind: str, prompt: int, seed: int) -> Path:
        """The file of a picture; ``kind`` is ``base`` (untouched) or ``best`` (the best checkpoint)."""
        return self.folder / "evaluation" / "pictures" / kind / f"{prompt:02d}-{seed}.png"

    @property
    def training(self) -> list[Path]:
        """Some training pictures."""
        return sorted((self.folder / "grid" / "training").glob("*.png"))

    @property
    def held_out(self) -> bool:
        """Whether the best checkpoint was measured against held-out pictures."""
        return any("best" in self.metrics.get(metric.key, {}) for metric in METRICS if HELD_OUT in metric.needs)

    @property
    def previews(self) -> list[Path]:
        """Pictures drawn during training, by step."""
        return sorted((self.folder / "previews").glob("*.png"))


def find(method: str, root: Path = Path()) -> Findings:
    """Read all files of a method; raises InputError for the first one that is missing."""
    folder, home = root / "artifacts" / method, root / "pipelines" / method
    artifact = folder / "build" / "artifact.safetensors"
    evaluation = folder / "evaluation"
    setup, facts = read_json(evaluation / "evaluation.json"), facts_of(artifact)
    listing = read_json(folder / "export" / "export.json")
    return Findings(
        method=method,
        about=docstring(home / "method" / "__init__.py"),
        facts=facts,
        size=artifact.stat().st_size,
        setup=setup,
        metrics=read_json(evaluation / "metrics.json"),
        best=read_json(evaluation / "best.json"),
        checkpoints=[_checkpoint(row) for row in read_csv(evaluation / "checkpoints.csv")],
        losses=losses(folder / "training"),
        exported=listing,
        files=exported(folder / "export", listing, files(home / "README.md", FILES, str(facts["name"]))),
        folder=folder,
        readme=home / "README.md",
    )


def read_csv(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    """The rows, each as column name → text; raises InputError if the file is missing."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file, delimiter=delimiter))
    except FileNotFoundError:
        raise InputError(path, "is missing", "run `dvc repro` so that the stage that makes it runs first") from None


def _checkpoint(row: Mapping[str, str]) -> Checkpoint:
    values = {name: float(text) if text else None for name, text in row.items() if name not in ("checkpoint", "step")}
    return Checkpoint(row["checkpoint"], int(row["step"]) if row["step"] else None, values)


def losses(training: Path) -> list[tuple[float, float]]:
    """The loss curve that dvclive wrote; empty for a method that trains nothing."""
    path = training / "plots" / "metrics" / "loss.tsv"
    if not path.exists():
        return []
    return [(float(row["step"]), float(row["loss"])) for row in read_csv(path, "\t")]


def docstring(code: Path) -> tuple[str, ...]:
    """Paragraphs of a module's docstring, read without running it."""
    try:
        text = ast.get_docstring(ast.parse(code.read_text(encoding="utf-8"))) or ""
    except FileNotFoundError:
        raise InputError(code, "is missing", "restore it with git") from None
    return tuple(" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip())


def exported(folder: Path, listing: Mapping[str, Any], about: Mapping[str, str]) -> list[File]:
    """The exported checkpoint's files for other programs, each with its text from ``about`` (file → text)."""
    names = sorted(file["path"] for file in listing["files"] if not file["path"].startswith(f"{CHECKPOINTS}/"))
    return [File(name, (folder / name).stat().st_size, about.get(Path(name).name, "")) for name in names]


def caption_of(picture: Path) -> str:
    """The caption in the .txt file beside a training picture; empty without one."""
    text = picture.with_suffix(".txt")
    return text.read_text(encoding="utf-8").strip() if text.exists() else ""
