"""The command `etude`, installed as `make setup` installs it: always the code of the checkout that it is typed in."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from commands import app
from etude import command_line, names
from tests.shipped import ROOT, copy_project, git

Etude = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def etude(tmp_path_factory: pytest.TempPathFactory) -> Etude:
    """Runs the installed command in a folder."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for file in ("pyproject.toml", "README.md", "LICENSE", "commands/etude_launcher.py"):
        (source / file).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / file, source / file)
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", target]
    subprocess.run([*install, source], check=True, capture_output=True)
    shutil.rmtree(source)
    assert sorted(path.name for path in target.glob("*.py")) == ["etude_launcher.py"]

    def run(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(target), "COLUMNS": "80", **env}
        command = [str(target / "bin" / "etude"), *words]
        return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with everything committed, and a worktree of it inside, each with a word of its own in its code."""
    folder = copy_project(tmp_path_factory.mktemp("clones") / "first")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "start")
    git(folder, "worktree", "add", "-q", "--detach", ".scratch/worktrees/0")
    shutil.copytree(folder, folder.with_name("second"), ignore=shutil.ignore_patterns(".git", ".scratch"))
    mark(folder, "THE FIRST")
    mark(folder / ".scratch/worktrees/0", "THE WORKTREE")
    mark(folder.with_name("second"), "THE SECOND")
    return folder


def mark(folder: Path, word: str) -> None:
    """Have the help of `etude` and of `etude check` say the word, and `etude check` as well."""
    for file, text in (("app.py", "Check all parameters"), ("check.py", "Check the params files")):
        path = folder / "commands" / file
        path.write_text(path.read_text(encoding="utf-8").replace(text, word), encoding="utf-8")
    path = folder / "etude" / "project.py"
    path.write_text(path.read_text(encoding="utf-8").replace("which is no method", word), encoding="utf-8")


@pytest.mark.parametrize(
    ("place", "word"), [(".", "FIRST"), ("../second", "SECOND"), (".scratch/worktrees/0", "WORKTREE")]
)
@pytest.mark.parametrize("below", [".", "pipelines/lora"])
def test_the_code_of_the_checkout_is_run_in_which_it_is_typed(
    etude: Etude, checkout: Path, place: str, word: str, below: str
) -> None:
    folder = checkout / place / below
    assert f"THE {word}" in etude(folder, "--help").stdout
    assert f"THE {word}" in etude(folder, "check", "--help").stdout
    draft = checkout / place / "pipelines/lora/drafts"
    draft.mkdir(exist_ok=True)
    (draft / "params.yaml").write_text("methods: [lorra]\n", encoding="utf-8")
    done = etude(draft.parent, "check", "drafts")  # a path from where it is typed
    assert done.returncode == 1
    assert f"`lorra`, THE {word}, did you mean `lora`?" in done.stderr


def test_outside_a_checkout_it_says_where_to_go(etude: Etude, tmp_path: Path) -> None:
    done = etude(tmp_path, "check")
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path}: is in no clone of Étude. Next: change into one, or `git clone` one.\n"
    assert etude(tmp_path, _ETUDE_COMPLETE="complete_bash").stderr == ""


def test_in_a_checkout_of_before_nothing_of_another_one_is_run(etude: Etude, checkout: Path) -> None:
    old = checkout / ".scratch/worktrees/1"
    old.mkdir(exist_ok=True)
    (old / "pyproject.toml").write_text('[project]\nname = "etude"\n', encoding="utf-8")
    done = etude(old, "check")
    assert done.returncode == 1
    assert "this checkout is older than `etude`. Next: run what its README says." in done.stderr


def test_every_command_of_the_room_is_one_of_etude() -> None:
    files = [file for file in (ROOT / "commands").glob("*.py") if '__name__ == "__main__"' in file.read_text("utf-8")]
    modules = {command.module for command in app.COMMANDS.values()}
    assert [file.stem for file in files if f"commands.{file.stem}" not in modules] == []


def test_a_misspelt_command_is_answered_with_the_nearest(etude: Etude, checkout: Path) -> None:
    done = etude(checkout, "chekc")
    assert done.returncode == 2
    assert "No such command 'chekc'. Did you mean 'check'?" in done.stderr


HELP_OF_ALL = """
import contextlib, io, sys
from pathlib import Path
from commands import app
for words in [["--help"], *([name, "--help"] for name in app.COMMANDS)]:
    sys.argv, said = ["etude", *words], io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        app.main(Path.cwd(), Path.cwd())
    assert "Usage: etude" in said.getvalue(), words
print(*({"torch", "pydantic", "prefect", "dvc", "diffusers", "transformers", "numpy", "PIL"} & set(sys.modules)))
"""


def test_help_of_all_commands_imports_no_heavy_library() -> None:
    done = subprocess.run([sys.executable, "-c", HELP_OF_ALL], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_the_list_of_commands_says_in_whole_what_each_is_for(etude: Etude, checkout: Path) -> None:
    listed = etude(ROOT, "--help").stdout.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == list(app.COMMANDS)
    assert [line for line in listed if not line.endswith(".") or line.endswith("...")] == []


@pytest.mark.parametrize("name", app.COMMANDS)
def test_the_example_in_the_help_of_a_command_can_be_typed(name: str) -> None:
    command = app.load(name)
    lines = command.get_help(command.make_context(name, ["--help"], resilient_parsing=True)).splitlines()
    (example,) = (line.strip() for line in lines if "Example: " in line)
    program, typed, *words = shlex.split(example.removeprefix("Example: "))
    assert (program, typed) == ("etude", name)
    command.make_context(name, words)  # ends with what is wrong about them


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("etude mem", ["memory"]),
        ("etude images --method d", ["dream_artist", "dreambooth"]),
        ("etude images --set ", ["concept", "style"]),
        ("etude preset sd", ["sd15", "sd21", "sdxl"]),
        ("etude convert lora@160 --to kohya", ["kohya_lora"]),
        ("etude run lora:b", ["lora:build"]),
        ("etude run prep", ["prepare@concept", "prepare@style"]),
        ("etude worker g", ["gpu"]),
    ],
)
def test_shells_complete_commands_methods_and_image_sets(
    etude: Etude, checkout: Path, line: str, expected: list[str]
) -> None:
    words = line.split(" ")
    bash = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_ETUDE_COMPLETE": "complete_bash"}
    assert etude(checkout / "pipelines", **bash).stdout.split() == expected
    fish = {"_TYPER_COMPLETE_FISH_ACTION": "get-args", "_ETUDE_COMPLETE": "complete_fish"}
    said = etude(checkout, **fish, _TYPER_COMPLETE_ARGS=line).stdout.splitlines()
    assert [text.split("\t")[0] for text in said] == expected
    zsh = etude(checkout, _ETUDE_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=line).stdout
    assert [word for word in expected if word not in zsh.replace("\\", "")] == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_given_its_completion(etude: Etude, checkout: Path, shell: str) -> None:
    script = etude(checkout, _ETUDE_COMPLETE=f"source_{shell}").stdout
    assert f"_ETUDE_COMPLETE=complete_{shell}" in script


@pytest.fixture
def below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of a checkout in which a command was typed."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "pipelines"
    (folder / "lora").mkdir(parents=True)
    command_line.enter(tmp_path, folder)
    yield folder
    command_line.enter(tmp_path, tmp_path)


def test_what_is_typed_in_a_folder_is_seen_from_the_root(below: Path) -> None:
    assert command_line.from_root(Path("x.png")) == Path("pipelines/x.png")
    assert command_line.from_root(Path("../x.png")) == Path("x.png")
    assert command_line.from_root(below / "x.png") == below / "x.png"
    assert command_line.from_root(Path("~/x.png")) == Path("~/x.png")


def test_a_name_is_no_path_unless_a_file_is_called_so(below: Path) -> None:
    (below / "owl.pt").touch()
    assert command_line.name_or_path("owl.pt") == str(Path("pipelines/owl.pt"))
    assert command_line.name_or_path("lora") == str(Path("pipelines/lora"))
    assert command_line.name_or_path("lora", ["lora"]) == "lora"
    assert command_line.name_or_path("owner/model") == "owner/model"


def test_names_that_cannot_be_read_are_not_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert (names.methods(), names.image_sets(), names.targets()) == ([], [], [])
    Path("params.yaml").write_text("sets: [1", encoding="utf-8")
    assert names.image_sets() == []
