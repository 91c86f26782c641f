"""Numbers that a method measured of itself, and tables as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from etude.core.artifact import Artifact, save
from etude.evaluation.results import own_measures, write_csv
from etude.rendering.candidates import UNTOUCHED, Candidate


def candidate(folder: Path, step: int, **measures: Any) -> Candidate:
    path = folder / f"{step}.safetensors"
    facts = {"measures": measures} if measures else {}
    save(Artifact("lora", {}, facts), path)
    return Candidate(str(step), step, path)


def measure(value: float, **more: float) -> dict[str, Any]:
    return {"name": "Shift", "about": "of a bias", "better": "lower", "value": value, **more}


def test_a_methods_own_measure_has_the_values_of_the_best_and_the_final_checkpoint(tmp_path: Path) -> None:
    best = candidate(tmp_path, 10, shift=measure(0.5, base=1.0, real=2.0), only=measure(7))
    final = candidate(tmp_path, 20, shift=measure(0.25))
    words = {"name": "Shift", "about": "of a bias", "better": "lower"}
    assert own_measures(best, final) == {
        "shift": ({"best": 0.5, "final": 0.25, "base": 1.0, "real": 2.0}, words),
        "only": ({"best": 7}, words),
    }


def test_a_method_without_measures_of_its_own_has_none(tmp_path: Path) -> None:
    plain = candidate(tmp_path, 10)
    assert own_measures(plain, plain) == {}
    assert own_measures(UNTOUCHED, candidate(tmp_path, 20, shift=measure(1))) == {}


def test_a_table_is_written_with_its_header_the_same_on_every_system(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ["name", "value"], [["a, b", 0.5], ["ü", None]])
    assert (tmp_path / "a.csv").read_bytes() == 'name,value\n"a, b",0.5\nü,\n'.encode()
