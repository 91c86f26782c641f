"""The locks are valid for everyone: each Python and platform that the README names, with every extra."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from itertools import chain
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name as canonical
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
IN_MAIN = {"dev", "miniature"}  # the extras that requirements.lock itself includes
LOCKS = {extra: f"requirements-{extra}.lock" for extra in EXTRAS if extra not in IN_MAIN}

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
SYSTEM = ("sys_platform", "platform_system", "os_name", "platform_machine")
PLATFORMS = {  # uv's name of a platform: the values of its markers
    "x86_64-manylinux_2_28": ("linux", "Linux", "posix", "x86_64"),
    "aarch64-manylinux_2_28": ("linux", "Linux", "posix", "aarch64"),
    "aarch64-apple-darwin": ("darwin", "Darwin", "posix", "arm64"),
    "x86_64-pc-windows-msvc": ("win32", "Windows", "nt", "AMD64"),
}
OLDEST_MACOS = "14.0"  # torch's wheels need it
ONLY_SOURCE = ("antlr4-python3-runtime",)  # no wheels; plain Python, so its source installs anywhere
CUDA = re.compile(r"(cuda-|nvidia-(?!ml-py)|triton$)")  # only torch requires these, and pins them itself


def environment(platform: str, python: str) -> dict[str, str]:
    """The values of markers on that platform, in the oldest release of that Python."""
    system = dict(zip(SYSTEM, PLATFORMS[platform], strict=True))
    interpreter = {"implementation_name": "cpython", "platform_python_implementation": "CPython"}
    versions = {"python_version": python, "python_full_version": f"{python}.0", "implementation_version": f"{python}.0"}
    return {**default_environment(), **system, **interpreter, **versions}


def lines(lock: str) -> list[str]:
    return [line for line in (ROOT / lock).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


@cache
def parsed(text: str) -> Requirement:
    return Requirement(text)


def pins(locks: Iterable[str], here: dict[str, str]) -> dict[str, Version]:
    """The pinned version of each package that pip would install here."""
    found: dict[str, Version] = {}
    for pin in map(parsed, chain.from_iterable(map(lines, locks))):
        if pin.marker is None or pin.marker.evaluate(here):
            (exact,) = pin.specifier
            version = Version(exact.version)
            assert exact.operator == "==", pin
            assert found.setdefault(canonical(pin.name), version) == version, f"two versions of {pin.name}"
    return found


def wanted(needs: Iterable[str], here: dict[str, str], extras: Iterable[str] = ()) -> list[Requirement]:
    """The requirements that apply here, for a package that is installed with these extras."""
    found = []
    for need in map(parsed, needs):
        marker = need.marker
        if marker is None or any(marker.evaluate({**here, "extra": extra}) for extra in ("", *extras)):
            found.append(need)
    return found


def faults(needs: list[Requirement], pinned: dict[str, Version], here: dict[str, str]) -> list[str]:
    """Requirements without a fitting pin: of these needs, and of what the pinned packages require.

    Packages that are not installed at the pinned version are skipped: the slow test looks them up in the index.
    """
    queue, seen, found = [(need, "pyproject.toml") for need in needs], set(), []
    while queue:
        need, who = queue.pop()
        name = canonical(need.name)
        asked = (name, frozenset(need.extras))
        if CUDA.match(name):
            continue
        if name not in pinned:
            found.append(f"{who} needs {need}, which is not pinned")
        elif not need.specifier.contains(pinned[name], prereleases=True):
            found.append(f"{who} needs {need}, pinned is {pinned[name]}")
        elif asked not in seen:
            seen.add(asked)
            queue += [(inner, name) for inner in wanted(requires(name, pinned[name]), here, need.extras)]
    return found


@cache
def requires(name: str, version: Version) -> list[str]:
    """The requirements of the installed package; empty if it is not installed at that version."""
    try:
        installed = distribution(name)
    except PackageNotFoundError:
        return []
    return (installed.requires or []) if Version(installed.version).public == version.public else []


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_has_a_fitting_pin(platform: str, python: str) -> None:
    here = environment(platform, python)
    needs = [*PROJECT["dependencies"], *EXTRAS["dev"], *EXTRAS["miniature"]]
    assert faults(wanted(needs, here), pins(["requirements.lock"], here), here) == []
    for extra, lock in LOCKS.items():
        assert faults(wanted(EXTRAS[extra], here), pins(["requirements.lock", lock], here), here) == []


def test_a_pin_outside_a_declared_range_is_found() -> None:
    here = environment("aarch64-apple-darwin", "3.13")
    pinned = pins(["requirements.lock"], here)
    needs = wanted(PROJECT["dependencies"], here)
    for name, version in {"fastapi": "0.151.0", "sqlalchemy": "2.1.9"}.items():  # Prefect's server breaks with these
        (fault,) = faults(needs, {**pinned, name: Version(version)}, here)
        assert fault.startswith(f"pyproject.toml needs {name}")
    deeper = {**pinned, "tokenizers": Version("0.1")}
    assert any(fault.startswith("transformers needs tokenizers") for fault in faults(needs, deeper, here))
    del deeper["tokenizers"]
    assert "transformers needs tokenizers" in " ".join(faults(needs, deeper, here))


def test_what_another_platform_needs_is_pinned_too() -> None:
    windows = environment("x86_64-pc-windows-msvc", "3.14")
    pinned = pins(["requirements.lock"], windows)
    del pinned["tzdata"]
    assert "tzdata" in " ".join(faults(wanted(PROJECT["dependencies"], windows), pinned, windows))


@pytest.mark.parametrize("lock", ["requirements.lock", *LOCKS.values()])
def test_a_lock_names_packages_and_no_place_or_build(lock: str) -> None:
    for line in lines(lock):
        assert re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+( ; [\w.'<>=!() ]+)?", line), line
        assert not CUDA.match(line.split("==")[0]), f"{line}: each build of torch needs its own"
    names = [line.split("==")[0] for line in lines(lock)]
    assert names == sorted(set(names))


def test_every_extra_is_locked_and_make_knows_it() -> None:
    assert {file.name for file in ROOT.glob("requirements-*.lock")} == set(LOCKS.values())
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (known,) = re.findall(r"^LOCKED := (.*)$", makefile, re.MULTILINE)
    assert set(known.split()) == set(LOCKS)


def test_the_readme_names_the_pythons_that_are_locked() -> None:
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert [minor for minor in range(9, 20) if allowed.contains(f"3.{minor}.0")] == [11, 12, 13, 14]
    assert f"Python {PYTHONS[0]} to {PYTHONS[-1]}" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def uv() -> Path:
    """The resolver; skips the test if no package index answers."""
    program = Path(sys.executable).parent / "uv"
    probe = [program, "pip", "compile", "--quiet", "--no-cache", "-"]
    asked = subprocess.run(probe, input="packaging", capture_output=True, text=True, check=False)
    if asked.returncode:
        pytest.skip(f"no package index answers: {asked.stderr.strip().splitlines()[-1]}")
    return program


@pytest.mark.slow
@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("python", PYTHONS)
def test_the_index_has_everything_for_this_python_and_platform(
    platform: str, python: str, uv: Path, tmp_path: Path
) -> None:
    locks = ["requirements.lock", *LOCKS.values()]
    command = [uv, "pip", "install", "--dry-run", "--target", tmp_path, "--python", sys.executable]
    command += ["--python-platform", platform, "--python-version", python]
    command += ["--only-binary", ":all:", *(f"--no-binary={name}" for name in ONLY_SOURCE)]
    command += [f"--requirements={lock}" for lock in locks]
    env = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": OLDEST_MACOS}
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    installs = {name: Version(version).public for name, version in re.findall(r"^ \+ (\S+)==(\S+)$", run.stderr, re.M)}
    locked = {name: str(version) for name, version in pins(locks, environment(platform, python)).items()}
    assert {name: version for name, version in installs.items() if not CUDA.match(name)} == locked


@pytest.mark.slow
def test_make_lock_has_nothing_to_change(uv: Path, tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "README.md", "requirements.lock", *LOCKS.values()):
        shutil.copy(ROOT / name, tmp_path / name)
    subprocess.run(["make", "lock", f"BIN={uv.parent}"], cwd=tmp_path, check=True, capture_output=True)
    for name in ("requirements.lock", *LOCKS.values()):
        assert (tmp_path / name).read_text(encoding="utf-8") == (ROOT / name).read_text(encoding="utf-8")
