"""A repository as DVC keeps it: its cache, its lock, and the values in its params files.

With `flows.plan` and `flows.record` the only files that speak to DVC.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from dvc.exceptions import DvcException
from dvc.repo import Repo, lock_repo
from dvc.rwlock import RWLOCK_FILE
from dvc.utils.cli_parse import to_path_overrides
from dvc.utils.hydra import apply_overrides, get_hydra_sweeps

from etude.core.errors import InputError
from etude.core.params import nearest, read_yaml
from flows.repairs import repair_locks, repair_runs, repair_table


@contextmanager
def locked_repo(root: Path) -> Iterator[Repo]:
    """DVC's view of a repository, for one process at a time: whoever writes the table of busy paths holds this lock."""
    with Repo(str(root), _wait_for_lock=True) as repo, lock_repo(repo):
        repair_table(Path(repo.tmp_dir, RWLOCK_FILE))
        repair_runs(Path(repo.stage_cache.cache_dir))
        repair_locks(root)
        yield repo


def cache_folder(root: Path) -> Path:
    """Where DVC keeps the content of everything."""
    with Repo(str(root)) as repo:
        return Path(repo.cache.local_cache_dir)


def remote(root: Path) -> str:
    """Where DVC pushes to by default; nothing when no remote is named."""
    with Repo(str(root)) as repo:
        name = repo.config["core"].get("remote", "")
        return str(repo.config["remote"][name]["url"]) if name in repo.config["remote"] else ""


def use_cache(root: Path, cache: Path) -> None:
    """Let the checkout at `root` keep content in another folder, linked rather than copied where the disk can."""
    with Repo(str(root)) as repo, repo.config.edit("local") as config:
        config.setdefault("cache", {}).update(dir=str(cache), type=["reflink", "hardlink", "symlink", "copy"])


def combinations(overrides: Sequence[str]) -> list[dict[str, list[str]]]:
    """The combinations that DVC's `-S` overrides stand for (`rank=4,8`, `a.yaml:rate=1e-3,1e-4`): overrides by file.

    Raises InputError where one cannot be read.
    """
    from hydra.errors import HydraException

    try:
        return cast("list[dict[str, list[str]]]", get_hydra_sweeps(to_path_overrides(overrides)))
    except (DvcException, HydraException) as error:
        raise InputError(" ".join(overrides), causes(error), "write it as `-S file.yaml:key=1,2`") from error


def override(root: Path, values: Mapping[str, Sequence[str]]) -> None:
    """Write values into the params files of a checkout, as `dvc exp run -S` does.

    Raises InputError on an unknown file or key.
    """
    for path, overrides in values.items():
        shown = f"{path}:{','.join(overrides)}"
        try:
            for text in overrides:
                if fault := _unknown(root / path, text):
                    raise InputError(shown, fault, "name a file and a key that exist")
            apply_overrides(root / path, list(overrides))
        except (DvcException, OSError) as error:
            raise InputError(shown, causes(error), "name a file and a key that exist") from error


def _unknown(file: Path, text: str) -> str:
    """What is wrong with the key of `key=value`, in a YAML file: hydra tells it in words of its own."""
    name = text.partition("=")[0]
    if not file.exists():
        return "there is no such file"
    if name.startswith(("+", "~")) or "[" in name or file.suffix not in (".yaml", ".yml"):
        return ""  # to be added or taken out
    here: Any = read_yaml(file)
    for part in name.split("."):
        entries = dict(enumerate(here)) if isinstance(here, list) else here if isinstance(here, dict) else {}
        known = {str(key): value for key, value in entries.items()}
        if part not in known:
            return f"there is no key `{name}`{nearest(part, known)}"
        here = known[part]
    return ""


def forget(root: Path, pid: int) -> None:
    """Drop what process `pid` holds in DVC's table of busy paths.

    For a process known to be gone whose number something else now has (or keeps, as a zombie nobody reaps): DVC
    looks at the number only, and would call its paths busy for ever.
    """
    from dvc.rwlock import _edit_rwlock  # no public way to it

    with locked_repo(root) as repo:
        hardlink = repo.config["core"].get("hardlink_lock", False)
        with _edit_rwlock(repo.tmp_dir, repo.fs, hardlink) as table:
            for path in [path for path, info in table["write"].items() if info["pid"] == pid]:
                del table["write"][path]
            for path, infos in list(table["read"].items()):
                table["read"][path] = [info for info in infos if info["pid"] != pid]
                if not table["read"][path]:
                    del table["read"][path]


def repair(root: Path) -> None:
    """Repair what a kill cut short while DVC wrote it: its table of busy paths, a `dvc.lock`, its run-cache."""
    with locked_repo(root):
        pass


def causes(error: BaseException) -> str:
    """The message of `error` and of what caused it, on one line."""
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        if (text := " ".join(str(cause).split())) and text not in texts:
            texts.append(text)
        cause = cause.__cause__
    return ": ".join(texts)
