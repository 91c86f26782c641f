"""The content of `evidence/claims.yaml`: experiments, the claims that they decide, and the seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from etude.core.errors import ParamsError
from etude.core.files import sha256_tree
from etude.core.method import load_method, method_names
from etude.core.params import MethodParams, Schema, load, nearest, read_yaml
from etude.core.store import key
from etude.metrics import BY_KEY
from flows import plan, repository
from flows.comparison import Trial
from flows.drafts import copy_params
from flows.plan import Sources

FILE = Path("evidence/claims.yaml")
PARAMS = "params.yaml"
KINDS = ("best", "base", "final", "real", "gain")  # the values of a metric; gain: best - base
NAME = r"^[a-z][a-z0-9_]*$"
SIDE = rf"^[a-z][a-z0-9_]*(\.({'|'.join(KINDS)}))?$"

Override = Annotated[str, Field(min_length=1)]


class Experiment(Schema):
    """A method on an image set, run once for each seed."""

    method: str
    set: str
    own: list[Override] = Field(default=[], description="DVC's -S, of the method's own params file")
    shared: list[Override] = Field(default=[], description="DVC's -S, as on the command line")
    metrics: list[str] = Field(default=[], description="metrics in which it is compared with the untouched base")

    @property
    def target(self) -> str:
        """The DVC target to bring up to date: the evaluation, without grid and page."""
        return f"pipelines/{self.method}/dvc.yaml:evaluate"

    def overrides(self) -> list[str]:
        """All overrides, as DVC's -S takes them."""
        return [*(f"{self.file}:{text}" for text in (f"set={self.set}", *self.own)), *self.shared]

    @property
    def file(self) -> str:
        """The method's params file."""
        return f"pipelines/{self.method}/{PARAMS}"


class Claim(Schema):
    """One sentence, and the comparison that decides it: whether `this` is better than `times` · `than` + `plus`."""

    says: str = Field(min_length=1, description="the source's own words")
    source: str
    reading: str = Field(min_length=1, description="what is taken to follow from it, and is measured")
    metric: str
    better: Literal["higher", "lower"]
    this: str = Field(pattern=SIDE, description="experiment.kind, without a kind the best checkpoint's value")
    than: str = Field(pattern=SIDE)
    times: float = 1.0
    plus: float = 0.0

    def sides(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """(experiment, kind) of both sides."""
        first, second = (side.partition(".") for side in (self.this, self.than))
        return (first[0], first[2] or "best"), (second[0], second[2] or "best")


class Size(Schema):
    """One sentence about a file's size, decided by counting."""

    says: str = Field(min_length=1)
    source: str
    reading: str = Field(min_length=1)
    size: str = Field(description="a name that `etude sizes` knows")
    least: float | None = Field(default=None, description="bytes")
    most: float | None = Field(default=None, description="bytes")
    like: str | None = Field(default=None, description="another size, of which it is to be within 5 %")

    def names(self) -> list[str]:
        """The names of the sizes that decide the claim."""
        return [self.size, *([self.like] if self.like else [])]

    @model_validator(mode="after")
    def _decidable(self) -> Self:
        if (self.like is None) == (self.least is None and self.most is None):
            raise ValueError("give either `like`, or one or both of `least` and `most`")
        return self


class Evidence(Schema):
    """All of evidence/claims.yaml."""

    sources: dict[str, str] = Field(min_length=1)
    own_metrics: dict[str, str] = Field(description="metrics that methods measure of themselves, and their names")
    seeds: list[list[Override]] = Field(min_length=1)
    experiments: dict[Annotated[str, Field(pattern=NAME)], Experiment] = Field(min_length=1)
    claims: dict[Annotated[str, Field(pattern=NAME)], Claim]
    sizes: dict[Annotated[str, Field(pattern=NAME)], Size]

    def metric_name(self, metric: str) -> str:
        """The name of a metric for people."""
        return BY_KEY[metric].name.lower() if metric in BY_KEY else self.own_metrics[metric]

    @model_validator(mode="after")
    def _known(self) -> Self:
        faults: list[str] = []

        def check(where: str, what: str, name: str, known: Iterable[str]) -> None:
            if name not in (known := list(known)):
                faults.append(f"{where}: there is no {what} `{name}`{nearest(name, known)}")

        metrics = [*BY_KEY, *self.own_metrics]
        for name, experiment in self.experiments.items():
            check(f"experiments.{name}", "method", experiment.method, method_names())
            for metric in experiment.metrics:
                check(f"experiments.{name}", "metric", metric, metrics)
        for name, claim in self.claims.items():
            check(f"claims.{name}", "metric", claim.metric, metrics)
            check(f"claims.{name}", "source", claim.source, self.sources)
            for side, _ in claim.sides():
                check(f"claims.{name}", "experiment", side, self.experiments)
        for name, size in self.sizes.items():
            check(f"sizes.{name}", "source", size.source, self.sources)
        if faults:
            raise ValueError("; ".join(faults))
        return self


def read(root: Path) -> Evidence:
    """Read the file and check that it is consistent. Raises ParamsError that lists every fault."""
    return load(root / FILE, Evidence)


def chosen(evidence: Evidence, only: Sequence[str]) -> list[str]:
    """The experiments that these words name: methods, image sets, claims, experiments. No word means all.

    Raises ParamsError for a word that names nothing.
    """
    found: dict[str, None] = {}
    for word in only:
        named = [n for n, e in evidence.experiments.items() if word in (n, e.method, e.set)]
        if word in evidence.claims:
            named += [name for name, _ in evidence.claims[word].sides()]
        if not named:
            known = {*evidence.experiments, *evidence.claims, *(e.method for e in evidence.experiments.values())}
            raise ParamsError(
                "ONLY",
                f"nothing is called `{word}`{nearest(word, known)}",
                "give a method, image set, claim or experiment",
            )
        found |= dict.fromkeys(named)
    return list(found) if only else list(evidence.experiments)


@dataclass(frozen=True)
class Drafts:
    """Every experiment's params files with its overrides, in `folder`; they are checked before anything runs."""

    root: Path
    folder: Path
    evidence: Evidence
    also: Sequence[str] = ()  # further overrides, applied to all experiments

    def write(self) -> list[Path]:
        """Write and return one folder for the seeds and one per experiment. Raises ParamsError for an invalid value."""
        for name, experiment in self.evidence.experiments.items():
            copy_params(self.root, self.folder / name)
            for values in ([f"{PARAMS}:methods=[{experiment.method}]"], self.overrides(name)):
                self._override(name, values)
            method = load_method(experiment.method)
            params: MethodParams = self._load(name, experiment.file, method.Params)
            if params.set != experiment.set:
                raise ParamsError(
                    FILE,
                    f"experiments.{name}: an override changes `set`",
                    "write the image set in the experiment's `set`",
                )
        seeds = self.folder / "seeds"
        copy_params(self.root, seeds)
        for overrides in self.evidence.seeds:
            self._override("seeds", overrides)
        return [seeds, *(self.folder / name for name in self.evidence.experiments)]

    def overrides(self, name: str) -> list[str]:
        """The overrides that `write` applies to an experiment's files."""
        return [*self.evidence.experiments[name].overrides(), *self.also]

    def trial(self, name: str, seed: int) -> Trial:
        """The run of an experiment with one of the seeds."""
        values = _by_file([*self.evidence.seeds[seed], *self.overrides(name)])
        return Trial(f"{name}-{seed}", values, [self.evidence.experiments[name].target])

    def identity(self, name: str, seed: int) -> str:
        """A digest of all that the numbers depend on: code, data, parameters."""
        experiment = self.evidence.experiments[name]
        sources = self._sources[experiment.target]
        shared = read_yaml(self.folder / name / PARAMS)
        values = {file: _picked(read_yaml(self.folder / name / file), keys) for file, keys in sources.params.items()}
        named = _strings(values) - set(sources.outs)
        paths = sorted({*sources.paths, *named, shared["sets"][experiment.set]})
        digests = {path: digest for path in paths if (digest := self._digest(path))}
        return key(values, digests, list(sources.commands), self.evidence.seeds[seed])

    @cached_property
    def _sources(self) -> dict[str, Sources]:
        return plan.sources(self.root, dict.fromkeys(e.target for e in self.evidence.experiments.values()))

    @cached_property
    def _known_digests(self) -> dict[str, str]:
        return {}

    def _digest(self, path: str) -> str:
        """The digest of a path in the repository; empty if the path does not exist, as for most texts in params."""
        if path not in self._known_digests:
            inside = path and not path.startswith(("/", ".")) and len(path) < 200 and (self.root / path).exists()
            self._known_digests[path] = sha256_tree(self.root / path) if inside else ""
        return self._known_digests[path]

    def _override(self, name: str, overrides: Sequence[str]) -> None:
        repository.override(self.folder / name, _by_file(overrides))

    def _load(self, name: str, file: str, schema: type[MethodParams]) -> MethodParams:
        try:
            return load(self.folder / name / file, schema)
        except ParamsError as error:
            fault = str(error).replace(f"{self.folder}/", "experiment ")
            raise ParamsError(FILE, fault, "correct the overrides of this experiment") from None


def _by_file(overrides: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Overrides by params file. Raises ParamsError if they give several combinations."""
    found = repository.combinations(overrides)
    if len(found) != 1:
        raise ParamsError(
            FILE, f"{' '.join(overrides)} gives {len(found)} combinations, not one", "write an experiment for each"
        )
    return found[0]


def _picked(data: Mapping[str, Any], keys: Sequence[str]) -> Mapping[str, Any]:
    """The values at some dotted keys; all of them for no key."""
    if not keys:
        return data
    found: dict[str, Any] = {}
    for name in keys:
        value: Any = data
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        found[name] = value
    return found


def _strings(value: Any) -> set[str]:
    """Every text in nested values."""
    if isinstance(value, Mapping):
        return set().union(*map(_strings, value.values()))
    if isinstance(value, list):
        return set().union(*map(_strings, value))
    return {value} if isinstance(value, str) else set()
