"""The evidence: what its file may say, what numbers decide, what is kept, and a small one from end to end."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from etude.core.errors import InputError, ParamsError
from etude.core.params import validate
from evidence import claims, study
from evidence.claims import Claim, Drafts, Evidence, Size, chosen
from evidence.decision import FALSE, HOLDS, UNDECIDED, UNMEASURED, Estimate, estimate, verdict, within
from evidence.findings import Memory, decide, decide_size, metrics_of, page, write
from flows import plan
from flows.comparison import Result
from flows.plan import Sources
from tests.shipped import PARAMS, ROOT, held

CLAIM = {
    "says": "it learns",
    "source": "notes",
    "reading": "LoRA comes nearer.",
    "metric": "heldout_similarity",
    "better": "higher",
    "this": "one",
    "than": "other",
}


def content(**changes: Any) -> dict[str, Any]:
    return {
        "sources": {"notes": "Some notes"},
        "own_metrics": {"psnr": "PSNR"},
        "seeds": [["seed=0"], ["seed=1"], ["seed=2"]],
        "experiments": {
            "one": {"method": "lora", "set": "concept", "metrics": ["heldout_similarity"]},
            "other": {"method": "hypernetwork", "set": "style", "own": ["structure=[1,4,1]"]},
        },
        "claims": {"learns": CLAIM},
        "sizes": {},
    } | changes


def evidence(**changes: Any) -> Evidence:
    return validate(content(**changes), Evidence, claims.FILE)


def test_the_repositorys_own_file_names_what_there_is_and_its_drafts_are_valid(tmp_path: Path) -> None:
    found = claims.read(ROOT)
    drafts = Drafts(PARAMS, tmp_path, found).write()
    assert len(drafts) == len(found.experiments) + 1
    assert len(found.seeds) == 3
    both = {(experiment.method, experiment.set) for experiment in found.experiments.values() if experiment.metrics}
    shipped = [path.parent.name for path in PARAMS.glob("pipelines/*/params.yaml")]
    assert both == {(method, name) for method in shipped for name in ("concept", "style")}
    used = {side for claim in found.claims.values() for side, _ in claim.sides()}
    assert used | {name for name, e in found.experiments.items() if e.metrics} == set(found.experiments)


def test_the_one_picture_is_one_of_the_concept_set() -> None:
    (picture,) = (ROOT / "data/samples/concept-one").glob("*.png")
    assert picture.read_bytes() == (ROOT / "data/samples/concept" / picture.name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"experiments": {"one": {"method": "lorra", "set": "concept"}}}, r"no method `lorra`, did you mean `lora`"),
        ({"claims": {"a": CLAIM | {"metric": "heldout_similarty"}}}, r"no metric `heldout_similarty`, did you mean"),
        ({"claims": {"a": CLAIM | {"this": "ones"}}}, r"claims.a: there is no experiment `ones`, did you mean `one`"),
        ({"claims": {"a": CLAIM | {"this": "one.worst"}}}, r"claims.a.this"),
        ({"claims": {"a": CLAIM | {"source": "rumour"}}}, r"no source `rumour`"),
        ({"claims": {"a": CLAIM | {"beter": "lower"}}}, r"unknown key `claims.a.beter`"),
        ({"sizes": {"a": {"says": "s", "source": "notes", "reading": "r", "size": "x"}}}, r"give either `like`, or"),
    ],
)
def test_what_is_not_known_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ParamsError, match=said):
        evidence(**changes)


@pytest.mark.parametrize(
    ("experiment", "said"),
    [
        ({"own": ["rnk=4"]}, "rnk"),
        ({"own": ["rank=0"]}, "one/pipelines/lora/params.yaml.*`rank`"),
        ({"shared": ["evaluat.seeds=[0]"]}, "evaluat"),
        ({"own": ["rank=4,8"]}, "2 combinations"),
        ({"own": ["set=style"]}, "an override changes `set`"),
    ],
)
def test_a_value_that_a_method_does_not_take_is_named_before_anything_runs(
    experiment: dict[str, Any], said: str, tmp_path: Path
) -> None:
    one = {"method": "lora", "set": "concept", **experiment}
    with pytest.raises((ParamsError, InputError), match=said):
        Drafts(PARAMS, tmp_path, evidence(experiments={"one": one}, claims={})).write()


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("warning: b\nerror: c.png: is empty. Next: leave it out.", "c.png: is empty. Next: leave it out."),
        ("error: params: one: {0}/one/params.yaml: `a` is 0. Next: raise it.\n       two: b. Next: correct them.",
         "params: one: experiment one/params.yaml: `a` is 0. Next: raise it.\n       two: b. "
         "Next: correct them; the overrides of experiments are in evidence/claims.yaml."),
        ("Traceback\nKeyError: 7", "etude check: ended with 1: Traceback\nKeyError: 7. Next: correct"),
    ],
)  # fmt: skip
def test_a_fault_of_a_command_is_told_where_it_is_and_not_as_one_of_the_claims(
    written: str, said: str, tmp_path: Path
) -> None:
    folder = tmp_path / "drafts"
    (tmp_path / "commands").mkdir()
    words = written.format(folder)
    (tmp_path / "commands/check.py").write_text(f"import sys\nsys.exit({words!r})\n")
    with pytest.raises(InputError) as told:
        study._check(tmp_path, folder, [folder / "one"])
    assert str(told.value).startswith(said)


def test_a_trial_has_the_seed_and_the_overrides_by_file(tmp_path: Path) -> None:
    trial = Drafts(PARAMS, tmp_path, evidence(), ["evaluate.seeds=[0]"]).trial("other", 1)
    assert trial.title == "other-1"
    assert trial.values == {
        "params.yaml": ["seed=1", "evaluate.seeds=[0]"],
        "pipelines/hypernetwork/params.yaml": ["set=style", "structure=[1,4,1]"],
    }
    assert trial.targets == ["pipelines/hypernetwork/dvc.yaml:evaluate"]


def test_parts_are_chosen_by_method_set_claim_and_experiment() -> None:
    found = evidence()
    assert chosen(found, []) == ["one", "other"]
    assert [chosen(found, [word]) for word in ("lora", "style", "other")] == [["one"], ["other"], ["other"]]
    assert chosen(found, ["learns"]) == ["one", "other"]
    with pytest.raises(ParamsError, match="did you mean `lora`"):
        chosen(found, ["lra"])


def test_identity_hangs_on_parameters_data_and_code_and_on_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    for name in ("params.yaml", *(f"pipelines/{method}/params.yaml" for method in ("lora", "hypernetwork"))):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(held(name), root / name)
    for name in ("code/build.py", "code/other.py", "data/samples/concept/owl.txt", "models/miniature/unet.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("as it was")
    params = {"params.yaml": ("base", "evaluate.seeds"), "pipelines/lora/params.yaml": ()}
    sources = Sources(("code/build.py",), ("artifacts/lora/build",), params, ("python -m build",))
    monkeypatch.setattr(plan, "sources", lambda root, targets: dict.fromkeys(targets, sources))

    def identity(seed: int = 0, also: Sequence[str] = (), **changes: Any) -> str:
        folder = tmp_path / f"drafts-{len(list(tmp_path.iterdir()))}"
        drafts = Drafts(root, folder, evidence(**changes), also)
        drafts.write()
        return drafts.identity("one", seed)

    first = identity()
    (root / "code/other.py").write_text("changed")
    assert identity(also=["grid.cell=64"]) == first  # neither is read by what is run
    other = {"one": {"method": "lora", "set": "concept", "own": ["rank=3"]}}
    found = [identity(seed=1), identity(also=["evaluate.seeds=[9]"]), identity(experiments=other, claims={})]
    for name in ("code/build.py", "data/samples/concept/owl.txt", "models/miniature/unet.txt"):
        (root / name).write_text("changed")
        found.append(identity())
    assert len({first, *found}) == 7


def test_an_estimate_is_the_mean_with_students_interval() -> None:
    found = estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.count, found.spread) == (2.0, 3, 1.0)
    assert found.half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)  # t(0.975; 2), from tables
    assert estimate([0.5]) == Estimate(0.5, 1)
    assert estimate([2.0, 2.0]) == Estimate(2.0, 2, 0.0, 0.0)


def test_a_claim_is_decided_by_whether_zero_lies_in_the_interval() -> None:
    assert verdict(Estimate(0.3, 3, 0.1, 0.25)) == HOLDS
    assert verdict(Estimate(-0.3, 3, 0.1, 0.25)) == FALSE
    assert verdict(Estimate(0.2, 3, 0.1, 0.25)) == UNDECIDED
    assert verdict(Estimate(0.2, 1)) == UNDECIDED  # one value has no interval
    assert verdict(Estimate(0.0, 3, 0.0, 0.0)) == UNDECIDED
    assert verdict(None) == UNMEASURED
    assert [within(5.0, 4.0, 6.0), within(5.0, None, 4.0), within(5.0, 5.0, None)] == [HOLDS, FALSE, HOLDS]


def remember(tmp_path: Path, **runs: list[dict[str, float]]) -> Memory:
    """Numbers of the held-out similarity by experiment, a seed each, on the present state."""
    memory = Memory(tmp_path / "evidence/results.json")
    memory.current = {name: {seed: f"{name}{seed}" for seed in range(3)} for name in ("one", "other")}
    for name, values in runs.items():
        for seed, kinds in enumerate(values):
            memory.take(name, seed, {"heldout_similarity": kinds})
    return memory


ONE = [{"base": 0.1, "best": 0.5}, {"base": 0.2, "best": 0.7}, {"base": 0.3, "best": 0.9}]
OTHER = [{"base": 0.1, "best": 0.4}, {"base": 0.1, "best": 0.5}, {"base": 0.1, "best": 0.6}]


def test_experiments_are_compared_seed_by_seed(tmp_path: Path) -> None:
    memory = remember(tmp_path, one=ONE, other=OTHER)

    def found(**changes: Any) -> Estimate:
        difference = decide("a", Claim(**(CLAIM | changes)), memory).difference
        assert difference
        return difference

    assert found().mean == pytest.approx(0.2)  # 0.1, 0.2, 0.3
    assert found().spread == pytest.approx(0.1)
    assert found(better="lower").mean == pytest.approx(-0.2)
    assert found(this="one.gain", than="other.gain").mean == pytest.approx((0.4 + 0.5 + 0.6 - 0.3 - 0.4 - 0.5) / 3)
    assert found(times=0.5, plus=-0.1).mean == pytest.approx(0.7 - 0.25 + 0.1)
    assert found(than="one.base").mean == pytest.approx(0.5)
    assert decide("a", Claim(**CLAIM), memory).verdict == UNDECIDED  # 0.2 ± 0.25
    assert decide("a", Claim(**(CLAIM | {"than": "one.base"})), memory).verdict == HOLDS


def test_only_seeds_that_both_have_count(tmp_path: Path) -> None:
    memory = remember(tmp_path, one=ONE, other=OTHER[:1])
    finding = decide("a", Claim(**CLAIM), memory)
    assert (finding.verdict, finding.difference) == (UNDECIDED, Estimate(pytest.approx(0.1), 1))
    assert decide("a", Claim(**CLAIM), remember(tmp_path, one=ONE)).verdict == UNMEASURED


def test_a_size_is_held_against_bounds_or_another_size() -> None:
    said: dict[str, Any] = {"says": "s", "source": "notes", "reading": "r", "size": "a"}
    sizes = {"a": 100, "b": 104, "c": 106}
    assert decide_size(Size(**said, least=90.0, most=110.0), sizes) == HOLDS
    assert decide_size(Size(**said, most=99.0), sizes) == FALSE
    assert [decide_size(Size(**said, like=other), sizes) for other in "bc"] == [HOLDS, FALSE]
    assert decide_size(Size(**said, like="d"), sizes) == UNMEASURED


def test_the_numbers_of_an_evaluation_are_told_apart_from_those_of_other_stages() -> None:
    numbers = {"lora:evaluate psnr.best": 2.0, "lora:evaluate psnr.base": 1.0, "other:evaluate psnr.best": 9.0}
    assert metrics_of(Result("x", numbers), "lora") == {"psnr": {"best": 2.0, "base": 1.0}}


def test_numbers_and_page_are_the_same_for_the_same_numbers_and_are_read_back(tmp_path: Path) -> None:
    memory = remember(tmp_path, other=OTHER, one=ONE)
    memory.sizes = {"a file": 3072}
    size = {"says": "1,2,1 | is small", "source": "notes", "reading": "At most 4 kB.", "size": "a file", "most": 4000.0}
    found = evidence(sizes={"small": size})
    write(found, memory, "models/tiny")
    texts = [memory.file.read_bytes(), memory.file.with_suffix(".md").read_bytes()]
    again = Memory.read(memory.file)
    again.current, again.sizes = memory.current, memory.sizes
    write(found, again, "models/tiny")
    assert [memory.file.read_bytes(), memory.file.with_suffix(".md").read_bytes()] == texts
    assert all(again.knows("one", seed) for seed in range(3))

    told = json.loads(texts[0])
    assert told["claims"]["learns"]["verdict"] == UNDECIDED
    assert told["claims"]["learns"]["n"] == 3
    assert told["claims"]["learns"]["difference"]["mean"] == 0.2
    assert told["sizes"] == {"small": HOLDS}
    text = texts[1].decode()
    row = next(line for line in text.splitlines() if "it learns" in line)
    assert row.endswith("held-out similarity: `one` 0.700, `other` 0.500 | 3 | +0.2 ± 0.25 | undecided |")
    row = next(line for line in text.splitlines() if "is small" in line)
    assert row.endswith("a file: 3,072 bytes | – | exact | **holds** |")
    assert row.count(" | ") == 4  # what stands between bars in a quotation does not
    assert "| lora | concept | held-out similarity | 0.200 | 0.700 | +0.5 | 3 | +0.5 ± 0.25 | 0.1 | yes |" in text


def test_numbers_of_an_earlier_state_are_marked_and_measured_again(tmp_path: Path) -> None:
    memory = remember(tmp_path, one=ONE, other=OTHER)
    found = evidence()
    assert "¹" not in page(found, memory, [decide("learns", found.claims["learns"], memory)], "base")
    memory.current["other"][1] = "changed"
    assert (memory.knows("other", 0), memory.knows("other", 1)) == (True, False)
    finding = decide("learns", found.claims["learns"], memory)
    assert finding.earlier
    assert "`other` 0.500¹" in page(found, memory, [finding], "base")


def test_what_is_not_measured_says_so(tmp_path: Path) -> None:
    found, memory = evidence(), remember(tmp_path)
    text = page(found, memory, [decide("learns", found.claims["learns"], memory)], "base")
    assert "held-out similarity: – | 0 | – | not measured |" in text
    assert "| lora | concept | held-out similarity | – | – | – | 0 | – | – | not measured |" in text


def test_two_experiments_of_a_method_on_one_set_are_told_apart(tmp_path: Path) -> None:
    found, memory = evidence(), remember(tmp_path)
    first = next(one for one in found.experiments.values() if one.metrics)
    found = found.model_copy(update={"experiments": {**found.experiments, "again": first}})
    rows = [line for line in page(found, memory, [], "base").splitlines() if line.startswith("| lora")]
    assert [row.split(" | ")[0] for row in rows].count("| lora (`again`)") == len(first.metrics)
    assert [row.split(" | ")[0] for row in rows].count("| lora") == len(first.metrics)


def run(project: Path, *words: str) -> str:
    """What `etude evidence` prints; it must succeed."""
    command = [sys.executable, "-m", "evidence.run", "--jobs", "2", *words]
    env = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_small_evidence_from_end_to_end(tmp_path: Path, tiny_base: Path) -> None:
    from tests.test_pipelines import make_project

    project = make_project(tmp_path / "project", ROOT, tiny_base)
    one = {"method": "lora", "set": "concept", "metrics": ["image_similarity"]}
    claim = CLAIM | {"metric": "image_similarity", "than": "one.base"}
    small = content(experiments={"one": one}, claims={"learns": claim}, seeds=[["seed=0"], ["seed=1"]])

    def say(**changes: Any) -> None:
        with (project / claims.FILE).open("w") as file:
            YAML().dump(small | changes, file)

    say()
    said = run(project, "--seeds", "1")
    assert "1 experiments: 0 measured already, 1 to run" in said
    assert "measured, 1 of 1" in said
    assert "2 experiments: 1 measured already, 1 to run" in run(project)
    told = json.loads((project / "evidence/results.json").read_text())
    assert told["claims"]["learns"]["n"] == 2
    kept = told["experiments"]["one"]
    assert kept["0"]["metrics"]["image_similarity"]["best"] != kept["1"]["metrics"]["image_similarity"]["best"]
    assert "it learns" in (project / "evidence/results.md").read_text()
    assert "2 measured already, 0 to run" in run(project)
    say(experiments={"one": one, "other": one | {"own": ["rank=2"]}})
    assert "4 experiments: 2 measured already, 2 to run" in run(project, "--dry")
