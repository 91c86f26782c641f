"""Run flows when it is time for them: `python -m flows.serve`. The times stand in flows/params.yaml."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from etude.command import command_line
from etude.errors import InputError
from flows import settings
from flows.run import find_root, leave, told_in_short

CODE = Path(__file__).parent.parent


def main(
    now: Annotated[
        list[str] | None, typer.Option(help="Also start this one at once: nightly, changed or weekly.")
    ] = None,
) -> None:
    """Run the graph nightly and when pictures or parameters changed, and reproduce the last tag weekly.

    Stays until Ctrl-C. Times and time zone stand in flows/params.yaml.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start what runs in the background deaf to it
    with told_in_short("stopped"):
        root = find_root(Path.cwd())
        serve(root, settings.load(root), now or ())


def serve(root: Path, given: settings.Settings, now: list[str] | tuple[str, ...] = ()) -> None:
    """Serve the deployments from this repository's Prefect server, or the one that PREFECT_API_URL names."""
    from flows import server

    ready = server.connect(root)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CODE), os.environ.get("PYTHONPATH")]))
    import prefect
    from prefect.deployments import run_deployment

    from flows.schedule import deployments

    made = deployments(root, given)
    if not made:
        leave(f"nothing to wait for: {settings.FILE} says never to all")
    for name in now:
        if name not in (known := [str(one.flow_name) for one in made]):
            raise InputError(f"--now {name}", "no such flow is served", f"name {' or '.join(known)}")
    console = Console(highlight=False)
    console.print(f"watch at {ready()}", soft_wrap=True)
    for one in made:
        one.apply()
        console.print(f"{one.flow_name}: {_told(one, given.time_zone)}", soft_wrap=True)
        if one.flow_name in now:
            run_deployment(f"{one.flow_name}/{one.name}", timeout=0)
    prefect.serve(*made, limit=1, print_starting_message=False)  # one at a time: they share the checkout


def _told(one: object, zone: str) -> str:
    """When a deployment runs, in words."""
    schedule = getattr(one, "schedules")[0].schedule  # noqa: B009
    cron = getattr(schedule, "cron", None)
    return f"{cron} ({zone})" if cron else f"every {schedule.interval}"


if __name__ == "__main__":
    command_line(main)
