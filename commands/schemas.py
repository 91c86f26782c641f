"""JSON Schemas of all params files, so that editors complete and check them: ``python -m commands.schemas``."""

from __future__ import annotations

from pathlib import Path

from etude.core.files import write_json
from etude.core.method import load_method, method_names
from etude.project import Project
from tasks.shell import run

FOLDER = Path("schemas")


def schemas() -> None:
    """Write schemas/params.schema.json and one file a method."""
    write_json(FOLDER / "params.schema.json", Project.model_json_schema())
    for name in method_names():
        write_json(FOLDER / f"{name}.schema.json", load_method(name).Params.model_json_schema())


if __name__ == "__main__":
    run(schemas)
