"""Run flows when it is time for them: `etude serve`. The times are in flows/params.yaml."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from etude import names
from etude.command_line import command_line
from etude.core.errors import InputError
from flows.terminal import describe, find_root, leave, say, told_in_short

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

    from flows.settings import Settings

CODE = Path(__file__).parent.parent


def main(
    now: Annotated[
        list[str] | None,
        typer.Option(
            help="Also start this one at once: nightly, changed or weekly.",
            autocompletion=names.among("nightly", "changed", "weekly"),
        ),
    ] = None,
) -> None:
    """Run the graph nightly and when pictures or parameters changed, and reproduce the last tag weekly.

    Stays until Ctrl-C. Times and time zone are in flows/params.yaml.

    Example: etude serve --now nightly
    """
    from flows import settings

    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs with SIGINT ignored
    with told_in_short("stopped"):
        root = find_root(Path.cwd())
        serve(root, settings.load(root), now or ())


def serve(root: Path, given: Settings, now: Sequence[str] = ()) -> None:
    """Serve the deployments from this repository's Prefect server, or the one that PREFECT_API_URL names.

    Raises InputError where that server is gone.
    """
    from flows import server, settings

    own = "PREFECT_API_URL" not in os.environ
    ready = server.connect(root)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(CODE), os.environ.get("PYTHONPATH")]))
    from httpx import HTTPError

    from flows.schedule import deployments

    made = deployments(root, given)
    if not made:
        leave(f"nothing to wait for: {settings.FILE} says never to all")
    for name in now:
        if name not in (known := [str(one.flow_name) for one in made]):
            raise InputError(
                f"--now {name}",
                f"no flow of this name is served; {settings.FILE} may say never to it",
                f"give {' or '.join(known)}",
            )
    say(f"watch at {ready()}")
    try:
        _serve(made, given.time_zone, now, Path(os.environ["PREFECT_HOME"]) if own else None)
    except HTTPError as error:
        fault = f"it does not answer ({describe(error)})"
        action = "run `etude serve` again" + ("" if own else " when it answers")
        raise InputError("the Prefect server", fault, action) from error


def _serve(made: Sequence[RunnerDeployment], zone: str, now: Sequence[str], home: Path | None) -> None:
    """Run what is due, and print it; with the `home` of the repository's own server print that server's errors too."""
    from prefect.deployments import run_deployment

    from flows import server
    from flows.watch import Look, Reports, Runs, Serving

    serving = Serving()
    names = {serving.add(one): str(one.flow_name) for one in made}
    looks: list[Look] = [Runs(names, zone).look]
    if home:
        looks.append(Reports(home / "server.log").look)
    for one in made:
        say(f"{one.flow_name}: {_told(one, zone)}")
        if one.flow_name in now:
            run_deployment(f"{one.flow_name}/{one.name}", timeout=0)
    serving.serve(looks, say, lambda: home is None or server.lives(home))


def _told(one: object, zone: str) -> str:
    """When a deployment runs, in words."""
    schedule = getattr(one, "schedules")[0].schedule  # noqa: B009
    cron = getattr(schedule, "cron", None)
    return f"{cron} ({zone})" if cron else f"every {schedule.interval}"


if __name__ == "__main__":
    command_line(main)
