"""JSON Schemas of all params files, so that editors complete and check them: ``etude schemas``."""

from __future__ import annotations

from pathlib import Path

from etude.core.files import write_json
from tasks.shell import run

FOLDER = Path("schemas")


def schemas() -> None:
    """Write schemas/params.schema.json and one file a method.

    Example: etude schemas
    """
    from etude.project import schemas_of

    for path, schema in schemas_of(Path()):
        write_json(FOLDER / f"{path.parent.name or path.stem}.schema.json", schema.model_json_schema())


def settings() -> None:
    """Write schemas/flows.schema.json, by which editors complete and check flows/params.yaml.

    Example: etude settings
    """
    from flows import settings as of_flows

    of_flows.main()


if __name__ == "__main__":
    run(schemas)
