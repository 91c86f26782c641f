"""What was measured for the evidence: the numbers in `evidence/results.json`, and the page beside it, `results.md`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etude.core.files import atomic_path, read_json, write_json
from etude.metrics import BY_KEY
from etude.pages.words import number, size
from evidence.claims import Claim, Evidence, Size
from evidence.decision import UNMEASURED, Estimate, estimate, verdict, within
from flows.comparison import Result

ALIKE = 0.05  # share by which two sizes may differ if a claim says that they are the same
Metrics = Mapping[str, Mapping[str, float]]  # metric → kind (base, best, …) → value

INTRO = """# Evidence

What the notes that Étude began with claim of the methods, beside what was measured here: every experiment of
`evidence/claims.yaml` with up to {seeds} seeds, on `{base}`. `make evidence` measures what is missing and writes this
page and `results.json`, which holds all numbers.

A seed decides both what is random in training and the noise of the pictures that are measured. Two experiments
are compared seed by seed; the interval is Student's, 95 %, of the mean difference over n seeds. A claim **holds** where
the difference lies above zero by more than its interval, is **false** where it lies below by more, and is undecided
otherwise. Values are those of the checkpoint that evaluation calls the best, where nothing else is said.
"""
EARLIER = "¹ Measured on an earlier state of code, data or parameters."
CLAIMS = ["| claim | measured | n | interval | verdict |", "|---" * 5 + "|"]
METHODS = ["| method | set | metric | base | method | better by | n | interval | s | beats it |", "|---" * 10 + "|"]


@dataclass
class Memory:
    """Numbers of experiments by name and seed, each with the digest of the state on which it was measured."""

    file: Path
    runs: dict[str, dict[int, tuple[str, Metrics]]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    current: dict[str, dict[int, str]] = field(default_factory=dict)  # digests of the present state

    @classmethod
    def read(cls, file: Path) -> Memory:
        """The numbers stored in a file; none if the file is missing."""
        memory = cls(file)
        for name, kept in (read_json(file)["experiments"] if file.exists() else {}).items():
            memory.runs[name] = {int(seed): (run["key"], run["metrics"]) for seed, run in kept.items()}
        return memory

    def knows(self, name: str, seed: int) -> bool:
        """Whether an experiment was measured on the present state."""
        return self.runs.get(name, {}).get(seed, ("", {}))[0] == self.current[name][seed]

    def earlier(self, name: str) -> bool:
        """Whether any number of an experiment was measured on an earlier state."""
        return any(not self.knows(name, seed) for seed in self.runs.get(name, {}))

    def take(self, name: str, seed: int, metrics: Metrics) -> None:
        """Store the metrics of an experiment."""
        self.runs.setdefault(name, {})[seed] = self.current[name][seed], metrics

    def values(self, name: str, metric: str, kind: str) -> dict[int, float]:
        """The measured values by seed."""
        found = {}
        for seed, (_, metrics) in sorted(self.runs.get(name, {}).items()):
            values = metrics.get(metric, {})
            if kind == "gain" and {"best", "base"} <= set(values):
                found[seed] = values["best"] - values["base"]
            elif kind in values:
                found[seed] = values[kind]
        return found


def metrics_of(result: Result, method: str) -> dict[str, dict[str, float]]:
    """The metrics of an experiment's evaluation, from the numbers of all its stages."""
    found: dict[str, dict[str, float]] = {}
    for name, value in result.metrics.items():
        stage, _, path = name.partition(" ")
        if stage == f"{method}:evaluate":
            metric, _, kind = path.rpartition(".")
            found.setdefault(metric, {})[kind] = value
    return found


@dataclass(frozen=True)
class Finding:
    """A claim: its two sides if both were measured, how much better `this` is, and the verdict."""

    name: str
    this: Estimate | None
    than: Estimate | None
    difference: Estimate | None
    verdict: str
    earlier: bool


def decide(name: str, claim: Claim, memory: Memory) -> Finding:
    """Compare seed by seed: this - (times · than + plus), with the sign changed if lower is better."""
    (first, one), (second, other) = claim.sides()
    this, than = memory.values(first, claim.metric, one), memory.values(second, claim.metric, other)
    sign = 1.0 if claim.better == "higher" else -1.0
    both = sorted(set(this) & set(than))
    if not both:
        return Finding(name, None, None, None, UNMEASURED, False)
    difference = estimate([sign * (this[seed] - claim.times * than[seed] - claim.plus) for seed in both])
    sides = estimate([this[seed] for seed in both]), estimate([than[seed] for seed in both])
    return Finding(name, *sides, difference, verdict(difference), memory.earlier(first) or memory.earlier(second))


def decide_size(claim: Size, sizes: Mapping[str, int]) -> str:
    """HOLDS, FALSE or UNMEASURED."""
    if not set(claim.names()) <= set(sizes):
        return UNMEASURED
    if claim.like:
        wanted = sizes[claim.like]
        return within(sizes[claim.size], (1 - ALIKE) * wanted, (1 + ALIKE) * wanted)
    return within(sizes[claim.size], claim.least, claim.most)


def write(evidence: Evidence, memory: Memory, base: str) -> None:
    """Write the numbers, and the page beside them; both depend only on the numbers and the claims."""
    found = [decide(name, claim, memory) for name, claim in evidence.claims.items()]
    kept = {}
    for name, runs in sorted(memory.runs.items()):
        if name in evidence.experiments:
            kept[name] = {str(seed): {"key": run[0], "metrics": run[1]} for seed, run in sorted(runs.items())}
    told = {finding.name: _told(finding) for finding in found}
    sizes = {name: decide_size(claim, memory.sizes) for name, claim in evidence.sizes.items()}
    counted = dict(sorted(memory.sizes.items()))
    write_json(memory.file, {"experiments": kept, "claims": told, "bytes": counted, "sizes": sizes})
    with atomic_path(memory.file.with_suffix(".md")) as file:
        file.write_text(page(evidence, memory, found, base), encoding="utf-8")


def page(evidence: Evidence, memory: Memory, found: Sequence[Finding], base: str) -> str:
    """The page as Markdown."""
    lines = [INTRO.format(seeds=len(evidence.seeds), base=base)]
    for source, title in evidence.sources.items():
        rows = [_claim_row(evidence, f) for f in found if evidence.claims[f.name].source == source]
        rows += [_size_row(s, memory.sizes) for s in evidence.sizes.values() if s.source == source]
        if rows:
            lines += [f"## {title}\n", *CLAIMS, *rows, ""]
    lines += ["## Every method against the untouched base\n"]
    lines += ["Better by more than the standard deviation between the seeds (s): yes or no.\n"]
    lines += [*METHODS, *_method_rows(evidence, memory)]
    text = "\n".join(lines) + "\n"
    return f"{text}\n{EARLIER}\n" if "¹" in text else text


def _told(finding: Finding) -> dict[str, Any]:
    if finding.difference is None:
        return {"verdict": finding.verdict}
    sides = {"this": finding.this, "than": finding.than, "difference": finding.difference}
    told: dict[str, Any] = {name: _numbers(side) for name, side in sides.items() if side}
    return {**told, "n": finding.difference.count, "verdict": finding.verdict}


def _numbers(side: Estimate) -> dict[str, float]:
    numbers = {"mean": side.mean, "spread": side.spread, "half_interval": side.half}
    return {name: float(f"{value:.6g}") for name, value in numbers.items() if value is not None}


def _claim_row(evidence: Evidence, finding: Finding) -> str:
    claim = evidence.claims[finding.name]
    says = f"“{claim.says}” {claim.reading}"
    if finding.this is None or finding.than is None or finding.difference is None:
        return _row([says, f"{evidence.metric_name(claim.metric)}: –", "0", "–", finding.verdict])
    (first, one), (second, other) = claim.sides()
    beside = f"{_worded(second, other)} {number(finding.than.mean)}"
    if claim.times != 1:
        beside += f" (times {claim.times:g})"
    if claim.plus:
        beside += f" ({claim.plus:+g})".replace("-", "−")
    measured = f"{_worded(first, one)} {number(finding.this.mean)}, {beside}"
    mark = "¹" if finding.earlier else ""
    cells = [says, f"{evidence.metric_name(claim.metric)}: {measured}{mark}", str(finding.difference.count)]
    return _row([*cells, _interval(finding.difference), _bold(finding.verdict)])


def _worded(experiment: str, kind: str) -> str:
    return f"`{experiment}`" + ("" if kind == "best" else f" ({kind})")


def _size_row(claim: Size, sizes: Mapping[str, int]) -> str:
    found = decide_size(claim, sizes)
    says = f"“{claim.says}” {claim.reading}"
    if found == UNMEASURED:
        return _row([says, "–", "0", "–", found])
    measured = ", ".join(f"{name}: {_bytes(sizes[name])}" for name in claim.names())
    return _row([says, measured, "–", "exact", _bold(found)])


def _bytes(count: int) -> str:
    return f"{size(count)} ({count / 2**20:.4g} MiB)" if count >= 10**6 else f"{count:,} bytes"


def _method_rows(evidence: Evidence, memory: Memory) -> Iterator[str]:
    """A row for each metric of each method; further experiments of a method on the same set are named."""
    firsts: dict[tuple[str, str], str] = {}
    for name, experiment in evidence.experiments.items():
        if experiment.metrics:
            first = firsts.setdefault((experiment.method, experiment.set), name)
        for metric in experiment.metrics:
            sign = BY_KEY[metric].sign if metric in BY_KEY else 1
            best, base = (memory.values(name, metric, kind) for kind in ("best", "base"))
            gains = {seed: sign * value for seed, value in memory.values(name, metric, "gain").items()}
            method = experiment.method if name == first else f"{experiment.method} (`{name}`)"
            head = [method, experiment.set, evidence.metric_name(metric)]
            if not gains:
                yield _row([*head, "–", "–", "–", "0", "–", "–", UNMEASURED])
                continue
            gain = estimate(list(gains.values()))
            beaten = gain.mean > (gain.spread or 0.0)
            sides = [_mean(side, gains) for side in (base, best)]
            told = "yes" if beaten else "**no**"
            told = f"{told} (one seed)" if gain.count == 1 else told
            numbers = [_signed(gain.mean), str(gain.count), _interval(gain), _spread(gain.spread)]
            yield _row([*head, *sides, *numbers, told + ("¹" if memory.earlier(name) else "")])


def _interval(value: Estimate) -> str:
    if value.half is None:
        return f"{_signed(value.mean)}, of one seed"
    return f"{_signed(value.mean)} ± {value.half:.2g}"


def _spread(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−")


def _bold(verdict: str) -> str:
    return verdict if verdict == "undecided" else f"**{verdict}**"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _mean(values: Mapping[int, float], seeds: Iterable[int]) -> str:
    """The mean of the values measured with these seeds, formatted."""
    return number(estimate([values[seed] for seed in seeds]).mean)
