"""Worktrees: what is put into one, what is asked of git and DVC, and what is cleared."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from etude.core.errors import InputError
from etude.watch.locks import locked
from flows import repository, worktree
from tests.flows.conftest import Calls
from tests.shipped import git


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository with two commits, a tag, an experiment of DVC's and an empty folder for DVC's settings."""
    root = tmp_path_factory.mktemp("trees") / "once"
    subprocess.run(["git", "init", "--quiet", "--template=", str(root)], check=True)
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("")
    (root / ".gitignore").write_text("/.scratch/\n/.cache\n")
    for number in ("one", "two"):
        (root / "a.txt").write_text(number)
        git(root, "add", "--force", ".")
        git(root, "commit", "-qm", number)
        git(root, "tag", number)
    git(root, "update-ref", "refs/exps/ab/cdef/tried", "one")
    return root


@pytest.fixture
def root(once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(once, tmp_path / "root"))


@pytest.fixture
def dvc(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What is asked of DVC; it always succeeds. The settings of caches are noted in the same order."""
    dvc = Calls(SimpleNamespace(returncode=0, stderr=""))
    monkeypatch.setattr(worktree, "dvc", dvc)
    monkeypatch.setattr(repository, "cache_folder", lambda folder: folder / "shared")
    monkeypatch.setattr(repository, "use_cache", lambda *given: dvc.append(("use cache", *given)))
    return dvc


def test_a_revision_is_a_commit_a_tag_or_an_experiment(once: Path) -> None:
    one, two = (git(once, "rev-parse", name).strip() for name in ("one", "two"))
    assert [worktree.resolve(once, name) for name in ("one", "HEAD", one[:8], "tried")] == [one, two, one, one]
    with pytest.raises(InputError, match="never: no commit, tag, branch or experiment has this name"):
        worktree.resolve(once, "never")
    blob = git(once, "rev-parse", "HEAD:a.txt").strip()
    with pytest.raises(InputError, match="no commit"):
        worktree.resolve(once, blob)


def test_a_command_of_git_that_fails_is_refused_or_gives_nothing(once: Path) -> None:
    assert worktree.git(once, "tag") == "one\ntwo"
    with pytest.raises(
        InputError, match=r"(?s)`git show nothing` says: fatal: .* Next: correct this, and run the command again"
    ):
        worktree.git(once, "show", "nothing")
    assert worktree.git(once, "show", "nothing", check=False) == ""
    assert worktree.git(once, "ls-files", "--error-unmatch", "a.txt", "b.txt", check=False) == ""


def test_a_worktree_is_a_detached_checkout_that_lasts_as_long_as_the_block(root: Path, dvc: Calls) -> None:
    with worktree.worktree(root, "one") as (tree, lock):
        assert tree == root / ".scratch/worktrees/0"
        assert (tree / "a.txt").read_text() == "one"
        assert git(tree, "rev-parse", "--abbrev-ref", "HEAD").strip() == "HEAD"
        with (root / ".scratch/worktrees/tree-0.lock").open("a") as probe:
            assert os.path.samestat(os.fstat(lock), os.fstat(probe.fileno()))
            assert not locked(probe.fileno())
        with worktree.worktree(root, "two") as (other, _):
            assert other == root / ".scratch/worktrees/1"
    assert not tree.exists()
    assert not other.exists()
    assert git(root, "worktree", "list").count("\n") == 1


def test_git_makes_and_removes_one_worktree_at_a_time(root: Path, dvc: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    alone: dict[str, bool] = {}
    ask = worktree.git

    def watched(folder: Path, *words: str, **named: Any) -> str:
        if words[0] == "worktree":
            with (root / ".scratch/worktrees" / worktree.LOCK).open("a") as probe:
                alone[words[1]] = alone.get(words[1], True) and not locked(probe.fileno())
        return ask(folder, *words, **named)

    monkeypatch.setattr(worktree, "git", watched)
    with worktree.worktree(root, "one"):
        pass
    assert alone["add"]
    assert all(alone.values())


def test_a_worktree_shares_the_cache_and_the_store_of_its_repository(root: Path, dvc: Calls) -> None:
    with worktree.worktree(root, "HEAD") as (tree, _):
        assert dvc == [("use cache", tree, root / "shared")]
        assert (tree / ".cache").resolve() == root / ".cache"
        assert (root / ".cache").is_dir()
        (tree / ".cache/kept").write_text("kept")
        assert not (tree / ".dvc/config.local").exists()
    assert (root / ".cache/kept").read_text() == "kept"
    with worktree.worktree(root, "HEAD") as (tree, _):  # the store is there already
        assert (tree / ".cache/kept").exists()


def test_a_fresh_worktree_takes_its_inputs_from_the_cache_and_then_has_an_empty_one(root: Path, dvc: Calls) -> None:
    (root / "photos.dvc").write_text("")
    git(root, "add", "photos.dvc")
    git(root, "commit", "-qm", "photos")
    with worktree.worktree(root, "HEAD", fresh=True) as (tree, _):
        shared, own = ("use cache", tree, root / "shared"), ("use cache", tree, tree / ".dvc/cache")
        assert dvc == [shared, (tree, "checkout", "photos.dvc"), own]
        assert not (tree / ".cache").exists()
    dvc.clear()
    with worktree.worktree(root, "HEAD", inputs=False) as (tree, _):
        assert dvc == [("use cache", tree, root / "shared")]


def test_the_users_own_remotes_and_credentials_are_there_too(root: Path, dvc: Calls) -> None:
    (root / ".dvc/config.local").write_text("secret")
    with worktree.worktree(root, "HEAD") as (tree, _):
        assert (tree / ".dvc/config.local").read_text() == "secret"


@pytest.mark.parametrize(
    ("pulled", "told"), [(0, ""), (1, "ERROR: no remote"), (1, "")], ids=["pulled", "refused", "silent"]
)
def test_an_input_that_no_cache_has_is_pulled_or_refused_with_the_words_of_dvc(
    root: Path, monkeypatch: pytest.MonkeyPatch, dvc: Calls, pulled: int, told: str
) -> None:
    for name in ("b.dvc", "a.dvc"):
        (root / name).write_text("")
    git(root, "add", ".")
    git(root, "commit", "-qm", "inputs")
    asked: list[tuple[str, ...]] = []

    def answer(tree: Path, *words: str) -> Any:
        asked.append(words)
        code = 1 if words[0] == "checkout" else pulled
        return SimpleNamespace(returncode=code, stderr=f"first\n{told}\n" if told else "")

    monkeypatch.setattr(worktree, "dvc", answer)
    if pulled:
        said = f"first; {told.removeprefix('ERROR: ')}" if told else "nothing"
        fault = rf"a\.dvc, b\.dvc: the cache .*`dvc pull` says: {said}\. Next: `dvc push` them"
        with pytest.raises(InputError, match=fault), worktree.worktree(root, "HEAD"):
            pass
        assert not list((root / ".scratch/worktrees").glob("0"))
    else:
        with worktree.worktree(root, "HEAD"):
            pass
    assert asked == [("checkout", "a.dvc", "b.dvc"), ("pull", "a.dvc", "b.dvc")]


def test_edits_are_applied_and_then_the_outputs_that_the_cache_has_are_checked_out(root: Path, dvc: Calls) -> None:
    (root / "a.txt").write_text("edited  \n")  # with white space at its end
    edits = worktree.edits_of(root)
    with worktree.worktree(root, "HEAD", edits=edits) as (tree, _):
        assert (tree / "a.txt").read_text() == "edited  \n"
        assert dvc[1:] == [(tree, "checkout", "--quiet", "--allow-missing")]
    with worktree.worktree(root, "HEAD", edits=b"") as (tree, _):  # without an edit outputs are checked out as well
        assert dvc[3:] == [(tree, "checkout", "--quiet", "--allow-missing")]
    with pytest.raises(subprocess.CalledProcessError), worktree.worktree(root, "one", edits=edits):
        pass
    assert git(root, "worktree", "list").count("\n") == 1


def test_edits_are_all_changes_of_tracked_files_and_new_inputs_and_nothing_else(root: Path) -> None:
    assert worktree.edits_of(root) == b""
    git(root, "rm", "--quiet", "--cached", "a.txt")  # in the index alone
    (root / "new.txt").write_text("not tracked")
    (root / "sub").mkdir()
    (root / "sub/photos.dvc").write_text("outs\n")
    (root / "sub/.gitignore").write_text("/photos\n")
    (root / ".dvc/config").write_bytes(bytes(range(256)))
    status = git(root, "status", "--porcelain")
    edits = worktree.edits_of(root).decode()
    assert edits.count("diff --git") == 4
    for path in ("a.txt", "sub/photos.dvc", "sub/.gitignore", ".dvc/config"):
        assert f"diff --git a/{path} b/{path}" in edits
    assert "GIT binary patch" in edits
    assert git(root, "status", "--porcelain") == status


@pytest.mark.parametrize(
    ("old", "setting"),
    [
        ("diff.noprefix", "true"),
        ("diff.mnemonicPrefix", "true"),
        ("color.ui", "always"),
        ("diff.external", "true"),
        ("diff.srcPrefix", "x/"),
    ],
)
def test_edits_do_not_depend_on_the_users_settings_of_git(root: Path, old: str, setting: str) -> None:
    (root / "a.txt").write_text("edited")
    edits = worktree.edits_of(root)
    git(root, "config", old, setting)
    assert worktree.edits_of(root) == edits


def test_edits_are_the_bytes_of_the_files_whatever_program_shows_them(root: Path) -> None:
    (root / "a.txt").write_text("edited")
    edits = worktree.edits_of(root)
    git(root, "config", "diff.upper.textconv", "tr a-z A-Z <")
    (root / ".git/info").mkdir(exist_ok=True)
    (root / ".git/info/attributes").write_text("a.txt diff=upper\n")
    assert worktree.edits_of(root) == edits


def test_an_experiment_is_saved_with_its_stages_and_with_what_git_does_not_track_yet(root: Path, dvc: Calls) -> None:
    (root / ".scratch/worktrees").mkdir(parents=True)
    for name in ("pipelines/lora/dvc.lock", "photos.dvc", "other.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("new")
    worktree.keep(root, root, "sweep-1", ["a", "lora:b"])
    ((tree, *words),) = dvc
    new = ["--include-untracked", "photos.dvc", "--include-untracked", "pipelines/lora/dvc.lock"]
    assert (tree, words) == (root, ["exp", "save", "--force", "--name", "sweep-1", *new, "a", "lora:b"])
    assert (root / ".scratch/worktrees/git.lock").exists()  # nobody else makes a worktree meanwhile
    dvc.result = SimpleNamespace(returncode=1, stderr=" no commit\n")
    with pytest.raises(
        InputError, match="sweep-1: `dvc exp save` says: no commit. Next: correct this, and run the sweep"
    ):
        worktree.keep(root, root, "sweep-1", [])


def test_a_command_of_dvc_waits_for_its_lock_and_finds_the_python_of_the_flow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Calls("done")
    monkeypatch.setattr(worktree.subprocess, "run", asked)
    assert worktree.dvc(tmp_path, "push", "a") == "done"
    ((command, named),) = asked
    assert command[1:] == ["-m", "dvc", "--wait-for-lock", "push", "a"]
    assert (named["cwd"], named["check"], named["text"], named["capture_output"]) == (tmp_path, False, True, True)
    assert named["env"]["PATH"].startswith(str(Path(command[0]).parent))
    assert named["env"]["DVC_NO_ANALYTICS"] == "1"


def test_what_is_left_of_a_worktree_is_removed_also_where_git_does_not_know_it(root: Path, dvc: Calls) -> None:
    left = root / ".scratch/worktrees/0"
    left.mkdir(parents=True)
    (left / "a.txt").write_text("left over")
    with worktree.worktree(root, "one") as (tree, _):
        assert tree == left
        assert (tree / "a.txt").read_text() == "one"
        git(root, "worktree", "lock", str(tree))
    assert not left.exists()
    git(root, "worktree", "add", "--quiet", "--detach", str(left), "one")
    shutil.rmtree(left)  # git still knows it
    with worktree.worktree(root, "two") as (tree, _):
        assert (tree / "a.txt").read_text() == "two"


@pytest.mark.parametrize(
    ("count", "named"),
    [
        (1, "0.dvc"),
        (3, "0.dvc, 1.dvc, 2.dvc"),
        (4, "0.dvc, 1.dvc, 2.dvc and 1 more"),
        (5, "0.dvc, 1.dvc, 2.dvc and 2 more"),
    ],
)
def test_of_many_inputs_that_no_cache_has_the_first_three_are_named_and_no_address_of_a_page(
    count: int, named: str, root: Path, monkeypatch: pytest.MonkeyPatch, dvc: Calls
) -> None:
    for number in range(count):
        (root / f"{number}.dvc").write_text("")
    git(root, "add", ".")
    git(root, "commit", "-qm", "inputs")
    dvc.result = SimpleNamespace(returncode=1, stderr="ERROR: lost.\n\n<https://error.dvc.org/missing>\n")
    with pytest.raises(InputError) as refused, worktree.worktree(root, "HEAD"):
        pass
    assert str(refused.value).startswith(
        f"{named}: the cache does not hold all of these inputs, and `dvc pull` says: lost. Next: "
    )


def test_edits_that_git_cannot_tell_are_an_error_and_not_none(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", "--template=", str(tmp_path)], check=True)
    (tmp_path / "a.txt").write_text("a")
    git(tmp_path, "add", ".")  # and there is no commit to compare it with
    with pytest.raises(subprocess.CalledProcessError):
        worktree.edits_of(tmp_path)
