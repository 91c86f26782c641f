"""Parameter values tried as experiments, side by side."""

from __future__ import annotations

from pathlib import Path

import pytest

from etude.core.errors import InputError
from flows import repository
from flows.board import Board
from flows.comparison import Result, render
from flows.stage import Site
from flows.work import Work
from flows.worktree import edits_of, worktree
from tests.flows.conftest import Project
from tests.flows.test_reproduce import once_published, published
from tests.shipped import git

__all__ = ["once_published", "published"]  # fixtures

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")


def test_combinations_are_those_of_dvc() -> None:
    assert repository.combinations(["rate=1,2", "a/b.yaml:x.y=3"]) == [
        {"params.yaml": ["rate=1"], "a/b.yaml": ["x.y=3"]},
        {"params.yaml": ["rate=2"], "a/b.yaml": ["x.y=3"]},
    ]
    with pytest.raises(InputError, match="write -S as"):
        repository.combinations(["rate=[1"])


def test_every_combination_has_a_name_of_its_own() -> None:
    from flows.experiments import titled

    assert list(titled(repository.combinations(["a/b.yaml:x.shift=-1,1", "rate=0.5"]))) == [
        "shift--1-rate-0.5",
        "shift-1-rate-0.5",
    ]
    alike = [{"params.yaml": [f"text={text}"]} for text in ("a b", "a, b", "a; b")]
    assert titled(alike) == dict(zip(("text-a-b", "text-a-b-2", "text-a-b-3"), alike, strict=True))


def test_an_unknown_key_or_file_is_refused_and_comments_stay(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("rate: 1 # of learning\n")
    repository.override(tmp_path, {"params.yaml": ["rate=2"]})
    assert (tmp_path / "params.yaml").read_text() == "rate: 2 # of learning\n"
    for values in ({"params.yaml": ["rat=2"]}, {"other.yaml": ["rate=2"]}):
        with pytest.raises(InputError, match="give a file and a key that exist"):
            repository.override(tmp_path, values)


def test_the_page_puts_what_differs_first_and_marks_the_best_of_each_metric() -> None:
    similar, loss, spread = (
        f"lora:evaluate {name}"
        for name in ("image_similarity.best", "validation_loss.best", "image_similarity.best_spread")
    )
    results = [
        Result("a", {"same": 1, similar: 0.123456, loss: 0.25, spread: 0.3}, {"grid.png": "data:image/webp;base64,AA"}),
        Result("b", {"same": 1, similar: 0.5, loss: 0.75, spread: 0.2}),
        Result("c", fault="build <failed>"),
    ]
    page = render("sweep", results)
    assert page.index(f"<th>{similar}</th>") < page.index("<th>same</th>")
    assert '<td class="best">0.5</td>' in page
    assert '<td class="best">0.25</td>' in page  # a loss is better where it is lower
    assert page.count('class="best"') == 2  # of a spread none is
    assert 'src="data:image/webp;base64,AA"' in page
    assert "build &lt;failed&gt;" in page


def test_edits_are_carried_over_whatever_git_is_configured_to_show(published: Project) -> None:
    for key, value in {"diff.noprefix": "true", "color.ui": "always", "diff.external": "true"}.items():
        git(published.root, "config", key, value)
    (published.root / "params.yaml").write_text("rate: 7\n")
    with worktree(published.root, "HEAD", edits=edits_of(published.root)) as (tree, _):
        assert (tree / "params.yaml").read_text() == "rate: 7\n"


def test_what_came_in_is_there_too_before_it_is_committed(published: Project) -> None:
    (published.root / "photos").mkdir()
    (published.root / "photos/a.txt").write_text("a picture")
    published.dvc("add", "-q", "photos")
    status = git(published.root, "status", "--short")
    with worktree(published.root, "HEAD", edits=edits_of(published.root)) as (tree, _):
        assert (tree / "photos/a.txt").read_text() == "a picture"
    assert git(published.root, "status", "--short") == status
    assert "photos.dvc" in status


def test_an_experiment_that_dvc_does_not_keep_is_a_fault_of_that_one_alone(project: Project) -> None:
    from flows.experiments import keep_experiment

    (project.root / ".scratch/worktrees").mkdir(parents=True)  # without a commit there is nothing to stand on
    result = keep_experiment.fn(project.root, Work(Site(project.root, 1), [], Board()), {}, "one", True)
    assert result.name == "one"
    assert "`dvc exp save` says" in result.fault


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_every_combination_becomes_an_experiment_and_common_stages_run_once(published: Project) -> None:
    from flows.board import Board, use
    from flows.experiments import sweep

    counted = published.root.parent / "counted.txt"
    command = f"python3 work.py common && echo common >> {counted}"
    stages = {"common": {"cmd": command, "deps": ["work.py"]}, "other": {"deps": ["out/common"]}}
    measure = {"cmd": "python3 measure.py", "deps": ["in.txt"], "params": ["rate"], "outs": ["out/metrics.json"]}
    published.stages(**stages, measure=measure)
    published.stages("unchosen/dvc.yaml", never={"outs": ["out/never"]})  # another pipeline, which nobody has run here
    git(published.root, "add", ".")
    git(published.root, "commit", "-qm", "more stages")
    (published.root / "in.txt.dvc").touch()
    (published.root / "measure.py").write_text((published.root / "measure.py").read_text() + "# an edit\n")
    before = git(published.root, "status", "--short")

    board = Board()
    use(board)
    state = sweep(["rate=2,3"], str(published.root), jobs=4, return_state=True)
    assert state.is_completed(), state.message
    assert state.message == "2 experiments kept: sweep-rate-2, sweep-rate-3\ncompared in logs/sweeps/sweep.html"
    assert counted.read_text().split() == ["common"]
    assert {row.state for name, row in board.rows.items() if name.endswith("measure")} == {"ran"}
    assert git(published.root, "status", "--short") == before
    assert git(published.root, "worktree", "list").count("\n") == 1

    kept = {}
    for ref in git(published.root, "for-each-ref", "--format=%(refname)", "refs/exps").split():
        if ref.rpartition("/")[2].startswith("sweep-"):
            assert "# an edit" in git(published.root, "show", f"{ref}:measure.py")
            kept[ref.rpartition("/")[2]] = git(published.root, "show", f"{ref}:params.yaml").strip()
    assert kept == {"sweep-rate-2": "rate: 2", "sweep-rate-3": "rate: 3"}
    assert "sweep-rate-2" in published.dvc("exp", "list", "--name-only")
    page = (published.root / "logs/sweeps/sweep.html").read_text()
    assert "<td>sweep-rate-3</td>" in page
    assert "<th>measure rate</th>" in page
