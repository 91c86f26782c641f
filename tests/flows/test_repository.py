"""DVC's settings, its locks and what a kill left of them, in one small repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from dvc.repo import Repo

from etude.core.errors import InputError
from flows import repairs, repository
from flows.repairs import WRITING, repair_locks, repair_runs, repair_table
from tests.shipped import git

pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")

WHOLE = "schema: '2.0'\nstages: {}\n"


@pytest.fixture
def root(empty_project: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(empty_project, tmp_path / "project"))


@pytest.fixture(scope="module")
def once_locked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with a dvc.lock at each depth."""
    root = tmp_path_factory.mktemp("locks") / "root"
    subprocess.run(["git", "init", "--quiet", "--template=", str(root)], check=True)
    for name in ("dvc.lock", "one/dvc.lock", "one/two/dvc.lock", "one/two/three/dvc.lock"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(WHOLE)
    git(root, "add", ".")
    git(root, "commit", "-qm", "locks")
    return root


@pytest.fixture
def locks(once_locked: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(once_locked, tmp_path / "root"))


def test_a_checkout_takes_links_before_copies_from_its_cache(root: Path, tmp_path: Path) -> None:
    assert repository.cache_folder(root) == root / ".dvc/cache"
    repository.use_cache(root, tmp_path / "cache")
    assert repository.cache_folder(root) == tmp_path / "cache"
    with Repo(str(root)) as repo:
        assert repo.config["cache"]["type"] == ["reflink", "hardlink", "symlink", "copy"]
    assert (root / ".dvc/config").read_text() == ""  # only here: the user's own settings are not for git
    with Repo(str(root)) as repo, repo.config.edit("local") as config:
        config["cache"]["shared"] = "group"
    repository.use_cache(root, tmp_path / "other")
    with Repo(str(root)) as repo:
        assert (repo.config["cache"]["dir"], repo.config["cache"]["shared"]) == (str(tmp_path / "other"), "group")


def test_the_remote_is_the_default_one(root: Path) -> None:
    assert repository.remote(root) == ""
    config = "['remote \"one\"']\n    url = s3://one\n['remote \"two\"']\n    url = ssh://two/x\n"
    (root / ".dvc/config").write_text(config)
    assert repository.remote(root) == ""
    (root / ".dvc/config").write_text("[core]\n    remote = two\n" + config)
    assert repository.remote(root) == "ssh://two/x"


def test_the_causes_of_an_error_are_said_once_each_on_one_line() -> None:
    first, second, third = ValueError("it\n  broke"), ValueError(""), ValueError("it broke")
    first.__cause__, second.__cause__, third.__cause__ = second, third, KeyError("why")
    assert repository.causes(first) == "it broke: 'why'"
    assert repository.causes(ValueError()) == ""


def test_what_reads_a_repository_has_it_alone_and_repairs_it_first(root: Path) -> None:
    table = root / ".dvc/tmp/rwlock"
    table.write_text('{"write"')
    (root / "dvc.lock").write_text("schema: '2")
    with repository.locked_repo(root) as repo:
        assert repo.lock.is_locked
        assert Path(repo.root_dir) == root
        assert not table.exists()
        assert not (root / "dvc.lock").exists()
    assert not repo.lock.is_locked


def test_a_repair_removes_what_a_kill_left_of_the_run_cache(root: Path) -> None:
    folder = root / ".dvc/cache/runs/ab/abcd"
    folder.mkdir(parents=True)
    os.utime(folder, (0, 0))
    repository.repair(root)
    assert not folder.exists()


def test_only_a_table_that_is_cut_short_is_deleted(tmp_path: Path) -> None:
    table = tmp_path / "rwlock"
    repair_table(table)  # there is none
    for text, stays in (("{}", True), ('{"write": {}}', True), ("", False), ('{"write": {"', False)):
        table.write_text(text)
        repair_table(table)
        assert table.exists() == stays


def test_the_empty_folders_of_a_run_cache_go_once_nobody_can_be_writing_there(tmp_path: Path) -> None:
    now = time.time()
    ages = {"aa/old": WRITING + 2, "bb/new": WRITING - 4, "cc/full": WRITING + 2}
    for name, age in ages.items():
        (tmp_path / name).mkdir(parents=True)
        if name == "cc/full":
            (tmp_path / name / "entry").write_text("kept")
        os.utime(tmp_path / name, (now - age, now - age))
    (tmp_path / "dd").mkdir()
    os.utime(tmp_path / "dd", (0, 0))
    repair_runs(tmp_path)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("*/*")) == ["bb/new", "cc/full"]
    assert (tmp_path / "cc/full/entry").read_text() == "kept"
    repair_runs(tmp_path / "none")


@pytest.mark.parametrize("name", ["dvc.lock", "one/dvc.lock", "one/two/dvc.lock"])
@pytest.mark.parametrize("left", ["", "schema: '2.0'\nsta"], ids=["empty", "cut"])
def test_a_lock_that_is_cut_short_is_as_git_has_it_and_what_was_left_is_kept(
    name: str, left: str, locks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (locks / name).write_text(left)
    repair_locks(locks)
    assert (locks / name).read_text() == WHOLE
    assert (locks / f".scratch/cut/{name}.cut").read_text() == left
    said = f"what git has is in its place, what was left is in .scratch/cut/{name}.cut"
    assert capsys.readouterr().err == f"warning: {name} was cut short by a kill; {said}\n"
    assert len(list((locks / ".scratch/cut").rglob("*.cut"))) == 1


def test_a_lock_that_git_does_not_have_or_has_empty_is_deleted(locks: Path) -> None:
    (locks / "new").mkdir()
    (locks / "new/dvc.lock").write_text("sch")
    (locks / "one/dvc.lock").write_text("")
    git(locks, "commit", "-qam", "an empty one")
    (locks / "one/dvc.lock").write_text("sch")
    repair_locks(locks)
    assert not (locks / "new/dvc.lock").exists()
    assert not (locks / "one/dvc.lock").exists()
    assert (locks / ".scratch/cut/new/dvc.lock.cut").read_text() == "sch"


def test_a_lock_that_is_whole_stays_as_it_is_and_no_deeper_one_is_looked_at(
    locks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (locks / "dvc.lock").write_text(WHOLE.rstrip("\n"))  # as some editors save a file
    (locks / "one/dvc.lock").write_text("stages: {edited: {}}\n")
    (locks / "one/two/three/dvc.lock").write_text("sch")
    repair_locks(locks)
    assert (locks / "dvc.lock").read_text() == WHOLE.rstrip("\n")
    assert (locks / "one/dvc.lock").read_text() == "stages: {edited: {}}\n"
    assert (locks / "one/two/three/dvc.lock").read_text() == "sch"
    assert capsys.readouterr().err == ""
    assert repairs.LOCKS[0] == "dvc.lock"


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        ("rows.0.at=2", ""),
        ("rows.2.at=2", "there is no key `rows.2.at` (known: 0, 1)"),
        ("+more=1", ""),
        ("~rows", ""),
        ("rows[0]=1", ""),
        ("rowz=1", "there is no key `rowz`, did you mean `rows`?"),
        ("rows.0.at.x=1", "there is no key `rows.0.at.x`"),
    ],
)
def test_a_key_that_does_not_exist_is_named_with_the_nearest(key: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("rows: [{at: 1}, {at: 2}]\n")
    assert repository._unknown(tmp_path / "a.yaml", key) == fault
    assert repository._unknown(tmp_path / "b.yaml", key) == "there is no such file"
    (tmp_path / "a.json").write_text("{}")
    assert repository._unknown(tmp_path / "a.json", key) == ""


def test_no_value_is_written_where_one_of_them_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("x: 1\ny: 2\n")
    with pytest.raises(InputError, match=r"^a\.yaml:x=3,z=4: there is no key `z`"):
        repository.override(tmp_path, {"a.yaml": ["x=3", "z=4"]})
    assert (tmp_path / "a.yaml").read_text() == "x: 1\ny: 2\n"
    repository.override(tmp_path, {"a.yaml": ["x=3", "y=4"]})
    assert (tmp_path / "a.yaml").read_text() == "x: 3\ny: 4\n"
