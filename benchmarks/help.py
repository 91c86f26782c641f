"""What `--help` of each command costs compared with a Python that does nothing: `python -m benchmarks.help`.

Each number is the least time of several rounds; in each round every command runs once. Run this on an idle machine.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from commands.app import COMMANDS
from etude.core.files import write_json
from tasks import shell

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "logs" / "benchmarks" / "help.json"
START = "import etude_launcher; etude_launcher.main()"
NOTHING = "python -c pass"


def main(rounds: Annotated[int, typer.Option(min=1, help="Times that each is measured.")] = 10) -> None:
    """Print how many times as long as a bare Python each `--help` takes."""
    ways = {NOTHING: ["-c", "pass"], "etude --help": ["-c", START, "--help"]}
    ways |= {f"etude {name} --help": ["-c", START, name, "--help"] for name in COMMANDS}
    least: dict[str, float] = {}
    for _ in range(rounds):
        for name, words in ways.items():
            least[name] = min(_seconds(words), least.get(name, float("inf")))
    ratios = {name: seconds / least[NOTHING] for name, seconds in least.items()}
    for name, ratio in ratios.items():
        Console().print(f"{name}: {ratio:.1f}", highlight=False)
    write_json(RESULT, {"seconds": least, "ratios": ratios})


def _seconds(words: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


if __name__ == "__main__":
    shell.run(main)
