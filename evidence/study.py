"""One run of the evidence: what must be measured, what is known, and where the results are written."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from etude.core.errors import InputError, ParamsError
from etude.core.files import read_json
from etude.core.params import nearest, read_yaml
from evidence import claims, findings
from evidence.claims import Drafts, Evidence
from evidence.findings import Memory
from flows.comparison import Result, Trial

NUMBERS = Path("evidence/results.json")
TRIED = Path("logs/evidence/evidence.json")  # for results with other parameter values, which do not count as evidence
STUDY: ContextVar[Study] = ContextVar("study")  # not a parameter of the flow, because Prefect stores those with the run


@dataclass(frozen=True)
class Study:
    """`wanted`: (experiment, number of the seed) by the title of its trial; `todo`: the trials that must be run."""

    root: Path
    evidence: Evidence
    memory: Memory
    wanted: Mapping[str, tuple[str, int]]
    todo: Sequence[Trial]

    def told(self) -> str:
        """How much there is to do."""
        done = len(self.wanted) - len(self.todo)
        return f"{len(self.wanted)} experiments: {done} measured already, {len(self.todo)} to run"

    @property
    def page(self) -> str:
        """The path of the page, from the root."""
        return self.memory.file.with_suffix(".md").relative_to(self.root).as_posix()

    def take(self, trial: Trial, result: Result) -> None:
        """Store the result of a trial, and write numbers and page at once."""
        name, seed = self.wanted[trial.title]
        self.memory.take(name, seed, findings.metrics_of(result, self.evidence.experiments[name].method))
        self.write()

    def write(self) -> None:
        """Write the numbers and the page, as they are now."""
        self.memory.file.parent.mkdir(parents=True, exist_ok=True)
        findings.write(self.evidence, self.memory, str(read_yaml(self.root / claims.PARAMS)["base"]))


def prepare(root: Path, only: Sequence[str], seeds: int | None, also: Sequence[str]) -> Study:
    """Check the claims, the parameters of every experiment, the sizes; find what is not measured on the present state.

    `only` is as in `claims.chosen`; the first `seeds` seeds are used; `also` are overrides of all experiments: with
    them, the numbers go to logs/evidence. Raises an EtudeError for any fault.
    """
    evidence = claims.read(root)
    names = claims.chosen(evidence, only)
    memory = Memory.read(root / (TRIED if also else NUMBERS))
    with TemporaryDirectory(prefix="evidence-") as folder:
        drafts = Drafts(root, Path(folder), evidence, also)
        _check(root, Path(folder), drafts.write())
        memory.sizes = count_sizes(root, evidence)
        every = range(len(evidence.seeds))
        for name in evidence.experiments:
            memory.current[name] = {seed: drafts.identity(name, seed) for seed in every}
        pairs = [(name, seed) for seed in list(every)[:seeds] for name in names]
        trials = [drafts.trial(*pair) for pair in pairs]
    wanted = {trial.title: pair for trial, pair in zip(trials, pairs, strict=True)}
    return Study(root, evidence, memory, wanted, [t for t in trials if not memory.knows(*wanted[t.title])])


def count_sizes(root: Path, evidence: Evidence) -> dict[str, int]:
    """All sizes in bytes, by name. Raises ParamsError if a claim names an unknown size."""
    with TemporaryDirectory(prefix="sizes-") as folder:
        _run(root, "commands.sizes", str(Path(folder, "sizes.json")))
        known: dict[str, int] = read_json(Path(folder, "sizes.json"))
    for name, claim in evidence.sizes.items():
        for size in claim.names():
            if size not in known:
                fault = f"sizes.{name}: there is no size `{size}`{nearest(size, known)}"
                raise ParamsError(claims.FILE, fault, "use a name that `etude sizes` prints")
    return known


def _check(root: Path, folder: Path, drafts: Sequence[Path]) -> None:
    """Check the parameters of the drafts in ``folder``; raises InputError that names the experiments with faults."""
    try:
        _run(root, "commands.check", *map(str, drafts))
    except InputError as error:
        fault = error.fault.replace(f"{folder}/", "experiment ")
        if fault == error.fault:  # it is of the repository, not of a draft
            raise
        action = f"{error.action}; the overrides of experiments are in {claims.FILE}"
        raise InputError(error.place, fault, action) from None


def _run(root: Path, module: str, *words: str) -> None:
    """Run a command of the repository as a process, as `evidence` may import none. Raises InputError with its error."""
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        _, is_told, text = f"\n{done.stderr.strip()}".rpartition("\nerror: ")
        place, _, rest = text.partition(": ")
        fault, has_action, action = rest.rpartition(" Next: ")
        if is_told and has_action:
            raise InputError(place, fault, action)
        fault = f"ended with {done.returncode}: {text.strip()[-2000:] or 'it says nothing'}"
        raise InputError(f"etude {module.removeprefix('commands.')}", fault, "correct this, and run this again")
