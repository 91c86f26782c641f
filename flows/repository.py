"""A repository as DVC keeps it: its cache, its lock, and the values in its params files.

Only this file, `flows.plan` and `flows.record` call DVC's Python API.
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
    """DVC's view of a repository, for one process at a time: writers of the table of busy paths hold this lock."""
    with Repo(str(root), _wait_for_lock=True) as repo, lock_repo(repo):
        repair_table(Path(repo.tmp_dir, RWLOCK_FILE))
        repair_locks(root)
        yield repo


def cache_folder(root: Path) -> Path:
    """Where DVC keeps the content of everything."""
    with Repo(str(root)) as repo:
        return Path(repo.cache.local_cache_dir)


def remote(root: Path) -> str:
    """The URL of DVC's default remote; empty when there is none."""
    with Repo(str(root)) as repo:
        name = repo.config["core"].get("remote", "")
        return str(repo.config["remote"][name]["url"]) if name in repo.config["remote"] else ""


def use_cache(root: Path, cache: Path) -> None:
    """Let the checkout at `root` use the cache folder `cache`, with links instead of copies where the disk can."""
    with Repo(str(root)) as repo, repo.config.edit("local") as config:
        config.setdefault("cache", {}).update(dir=str(cache), type=["reflink", "hardlink", "symlink", "copy"])


def combinations(overrides: Sequence[str]) -> list[dict[str, list[str]]]:
    """The combinations that DVC's `-S` overrides mean (`rank=4,8`, `a.yaml:rate=1e-3,1e-4`): overrides by file.

    Raises InputError where one cannot be read.
    """
    from hydra.errors import HydraException

    try:
        return cast("list[dict[str, list[str]]]", get_hydra_sweeps(to_path_overrides(overrides)))
    except (DvcException, HydraException) as error:
        raise InputError(" ".join(overrides), causes(error), "write -S as `-S file.yaml:key=1,2`") from error


def override(root: Path, values: Mapping[str, Sequence[str]]) -> None:
    """Write values into the params files of a checkout, as `dvc exp run -S` does.

    Raises InputError on an unknown file or key.
    """
    for path, overrides in values.items():
        shown = f"{path}:{','.join(overrides)}"
        try:
            for text in overrides:
                if fault := _unknown(root / path, text):
                    raise InputError(shown, fault, "give a file and a key that exist")
            apply_overrides(root / path, list(overrides))
        except (DvcException, OSError) as error:
            raise InputError(shown, causes(error), "give a file and a key that exist") from error


def _unknown(file: Path, text: str) -> str:
    """What is wrong with the key of `key=value`, in a YAML file: hydra's own message is hard to understand."""
    name = text.partition("=")[0]
    if not file.exists():
        return "there is no such file"
    if name.startswith(("+", "~")) or "[" in name or file.suffix not in (".yaml", ".yml"):
        return ""  # hydra adds or removes it
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

    For a process that is gone but whose number is in use, by a new process or a zombie: DVC looks only at the number,
    and would treat its paths as busy for ever.
    """
    from dvc.rwlock import _edit_rwlock  # DVC has no public function for it

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
    """Repair files that a kill cut short while DVC wrote them: table of busy paths, `dvc.lock`, run-cache."""
    with locked_repo(root) as repo:
        repair_runs(Path(repo.stage_cache.cache_dir))


def causes(error: BaseException) -> str:
    """The message of `error` and of what caused it, on one line."""
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        if (text := " ".join(str(cause).split())) and text not in texts:
            texts.append(text)
        cause = cause.__cause__
    return ": ".join(texts)
