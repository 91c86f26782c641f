"""A revision of the repository in a temporary folder of its own that shares DVC's cache.

The folders are few and numbered. A process that uses one holds its lock; what a killed process left, the next user
deletes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event

from etude.core.errors import InputError
from etude.watch.locks import one_at_a_time
from flows import repository
from flows.slots import Slots
from flows.stage import environment

LOCK = "git.lock"  # in the folder of worktrees: git cannot make two at once
MOST = 64  # worktrees at once


@contextmanager
def worktree(
    root: Path, revision: str, *, fresh: bool = False, edits: bytes | None = None, inputs: bool = True
) -> Iterator[tuple[Path, int]]:
    """A checkout of a commit, tag, branch or DVC experiment, with its inputs and without its outputs;
    without `inputs` these are left out as well.

    It shares the repository's DVC cache, run-cache and `.cache`; with `fresh` it has empty ones of its own. With
    `edits`, a patch, it has those changes, and the outputs that are in the cache. Yields the folder, and the descriptor
    of its lock: while a process that inherits the lock runs, nobody deletes the folder.
    Raises InputError when the revision is unknown or an input is neither in the cache nor can be pulled.
    """
    commit = resolve(root, revision)
    folder = root / ".scratch" / "worktrees"
    with Slots(folder).take("tree", MOST, Event()) as (number, lock):
        tree = folder / str(number)
        with one_at_a_time(folder / LOCK):
            _remove(root, tree)
            git(root, "worktree", "add", "--quiet", "--detach", str(tree), commit)
        try:
            _prepare(root, tree, fresh, inputs)
            if edits is not None:
                _edit(tree, edits)
            yield tree, lock
        finally:
            with one_at_a_time(folder / LOCK):
                _remove(root, tree)


def resolve(root: Path, revision: str) -> str:
    """The commit of a revision or of a DVC experiment, by its name. Raises InputError for an unknown name."""
    found = git(root, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", check=False)
    if not found and (refs := git(root, "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{revision}")):
        found = refs.splitlines()[0]
    if not found:
        raise InputError(
            revision,
            "no commit, tag, branch or experiment has this name",
            "see `git tag`, `git branch`, `dvc exp list`",
        )
    return found


def git(folder: Path, *words: str, check: bool = True) -> str:
    """The output of a git command. If git fails: InputError with git's message, or an empty text without `check`."""
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise InputError(
            str(folder),
            f"`git {' '.join(words)}` says: {done.stderr.strip()}",
            "correct this, and run the command again",
        )
    return done.stdout.strip() if done.returncode == 0 else ""


def dvc(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a dvc command in a folder."""
    command = [sys.executable, "-m", "dvc", "--wait-for-lock", *words]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)


def _prepare(root: Path, tree: Path, fresh: bool, wanted: bool) -> None:
    own = root / ".dvc" / "config.local"  # remotes and their credentials
    if own.exists():
        shutil.copy(own, tree / ".dvc" / "config.local")
    repository.use_cache(tree, repository.cache_folder(root))
    inputs = git(tree, "ls-files", "*.dvc").splitlines() if wanted else []
    if inputs and dvc(tree, "checkout", *inputs).returncode and (pull := dvc(tree, "pull", *inputs)).returncode:
        shown = ", ".join(inputs[:3]) + (f" and {len(inputs) - 3} more" if len(inputs) > 3 else "")
        fault = f"the cache does not hold all of these inputs, and `dvc pull` says: {_said(pull.stderr)}"
        raise InputError(shown, fault, "`dvc push` them to DVC's remote from where they are, then run this again")
    if fresh:
        repository.use_cache(tree, tree / ".dvc" / "cache")
    else:
        store = root / ".cache"  # its files are named by all that they depend on, so it is safe to share
        store.mkdir(exist_ok=True)
        (tree / ".cache").symlink_to(store, target_is_directory=True)


def _said(told: str) -> str:
    """What DVC wrote to stderr, in one line, without the address of a page at its end."""
    lines = [line.removeprefix("ERROR: ").rstrip(".?") for line in told.splitlines() if line and line[0] != "<"]
    return "; ".join(lines) or "nothing"


def _edit(tree: Path, edits: bytes) -> None:
    if edits:
        subprocess.run(["git", "apply", "--whitespace=nowarn"], cwd=tree, input=edits, check=True)
    dvc(tree, "checkout", "--quiet", "--allow-missing")  # outputs that the cache lacks are made by the run


def edits_of(root: Path) -> bytes:
    """The user's uncommitted changes to tracked files, as a patch that does not depend on the user's git settings.

    It also contains new `.dvc` files of pictures and models, and the `.gitignore` beside them, which git does not track
    yet: `dvc repro` reads those inputs as well.
    """
    new = git(root, "ls-files", "-z", "--others", "--exclude-standard", "*.dvc", "*.gitignore").split("\0")
    plain = ["--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/"]
    with TemporaryDirectory(prefix="index-") as folder:
        index = Path(folder, "index")  # a copy: the user's own index stays as it is
        shutil.copyfile(root / git(root, "rev-parse", "--git-path", "index"), index)
        env = dict(os.environ, GIT_INDEX_FILE=str(index))
        if paths := [path for path in new if path]:
            subprocess.run(["git", "add", "--intent-to-add", "--", *paths], cwd=root, env=env, check=True)
        command = ["git", "diff", "--binary", *plain, "HEAD"]
        return subprocess.run(command, cwd=root, env=env, capture_output=True, check=True).stdout


def keep(root: Path, tree: Path, name: str, stages: Sequence[str]) -> None:
    """Save what `stages` made in a worktree as a DVC experiment, on top of the commit that is checked out there.

    Only these are saved: other pipelines may never have run here, and DVC would report their outs as missing. Files
    that git does not track yet (a pipeline's dvc.lock, new inputs) are named, since DVC would leave them out.
    """
    new = git(tree, "ls-files", "-z", "--others", "--exclude-standard", "*dvc.lock", "*.dvc", "*.gitignore").split("\0")
    untracked = [word for path in new if path for word in ("--include-untracked", path)]
    with one_at_a_time(root / ".scratch" / "worktrees" / LOCK):
        done = dvc(tree, "exp", "save", "--force", "--name", name, *untracked, *stages)
    if done.returncode:
        raise InputError(name, f"`dvc exp save` says: {done.stderr.strip()}", "correct this, and run the sweep again")


def _remove(root: Path, tree: Path) -> None:
    git(root, "worktree", "remove", "--force", "--force", str(tree), check=False)
    if tree.exists():
        shutil.rmtree(tree)
    git(root, "worktree", "prune")
