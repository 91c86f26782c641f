"""What the commands of flows share."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from etude.core.errors import InputError
from flows import terminal
from flows.terminal import (
    conclude,
    device_memory,
    devices,
    find_root,
    leave,
    note_interrupts,
    refuse_runner,
    say,
    told_in_short,
)


def test_the_root_is_the_nearest_folder_above_with_a_dvc_repository(tmp_path: Path) -> None:
    inner = tmp_path / "outer/inner/deep"
    inner.mkdir(parents=True)
    with pytest.raises(InputError, match="is not in a DVC repository"):
        find_root(tmp_path / "outer")
    (tmp_path / "outer/.dvc").mkdir()
    (tmp_path / "outer/inner/.dvc").write_text("a file")
    assert find_root(inner) == tmp_path / "outer"
    assert find_root(tmp_path / "outer") == tmp_path / "outer"


@pytest.mark.parametrize("name", ["spark", "thread", "threads@x", "", "@x"])
def test_an_unknown_runner_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="there is no such task runner. Next: use threads, dask or ray"):
        refuse_runner(name)


@pytest.mark.parametrize(("kind", "other"), [("dask", "ray"), ("ray", "dask")])
def test_a_runner_that_is_not_installed_names_its_command(
    kind: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "find_spec", lambda name: None if name == f"prefect_{kind}" else name)
    refuse_runner("threads")
    refuse_runner(f"{other}@host:1")
    for name in (kind, f"{kind}@tcp://host"):
        told = f"prefect-{kind} is not installed. Next: install it with `make setup EXTRAS={kind}`"
        with pytest.raises(InputError, match=told):
            refuse_runner(name)


@pytest.mark.parametrize(
    ("listed", "count", "found"),
    [
        ("GPU 0: a\n  MIG 1g: x\nGPU 1: b\n", None, ["0", "1"]),
        ("GPU 0: a\nGPU 1: b\n", 1, ["0"]),
        ("", None, []),
        ("", 2, ["0", "1"]),
    ],
)
def test_without_a_list_of_the_users_every_gpu_of_the_machine_is_handed_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: str, count: int | None, found: list[str]
) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\nprintf '{listed}'\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices(count) == found
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, ,5")
    assert devices(None) == ["4", "5"]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("a", "is wrong", "correct it"), 7, "error: a: is wrong. Next: correct it."),
        (KeyboardInterrupt(), 130, "stopped: [bold] what is finished is kept"),
    ],
)
def test_a_fault_and_ctrl_c_are_one_line_each_with_their_exit_code(
    capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    with pytest.raises(typer.Exit) as ended, told_in_short("stopped: [bold] what is finished is kept", fault=7):
        raise error
    assert ended.value.exit_code == code
    assert capsys.readouterr().err.strip() == line


def test_what_did_not_end_well_is_said_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    conclude("[bold] all is there " + "x" * 200, True)
    assert capsys.readouterr() == ("[bold] all is there " + "x" * 200 + "\n", "")
    with pytest.raises(typer.Exit) as ended:
        conclude("not all", False)
    assert (ended.value.exit_code, capsys.readouterr()) == (1, ("", "not all\n"))
    with pytest.raises(typer.Exit) as ended:
        leave("gone", 3)
    assert ended.value.exit_code == 3


@pytest.fixture
def restored() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("restored")
def test_ctrl_c_is_noted_and_still_interrupts() -> None:
    seen = note_interrupts()
    for count in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert len(seen) == count


@pytest.mark.parametrize(
    ("gpus", "memory", "room"),
    [
        ("GPU 0: a\nGPU 1: b\n", "24564\n16384\n", 16384 * 1024**2),  # MiB; a build must fit on any of them
        ("GPU 0: a\n", "[N/A]\n\n", 0),
        ("", "24564\n", 0),
        ("GPU 0: a\n", "", 0),
    ],
)
def test_the_room_for_a_build_is_the_memory_of_the_smallest_gpu(
    gpus: str, memory: str, room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smi = tmp_path / "nvidia-smi"
    listing = "--query-gpu=memory.total --format=csv,noheader,nounits"
    smi.write_text(f"""#!/bin/sh
case "$*" in
    -L) printf '{gpus}';;
    '{listing}') printf '{memory}';;
esac
exit 9
""")
    smi.chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert device_memory() == room
    assert devices(None) == [str(number) for number in range(gpus.count("GPU"))]
    monkeypatch.setenv("PATH", "/nowhere")
    assert device_memory() == 0


def test_on_windows_every_command_of_flows_says_what_to_use_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(typer.Exit) as ended, told_in_short("stopped"):
        pytest.fail("the command began")
    assert ended.value.exit_code == 1  # where the command names no other code
    assert capsys.readouterr().err.startswith(
        "error: Windows: flows need Linux or macOS. Next: use WSL; or `dvc repro`"
    )


def test_what_is_said_has_no_mark_up_and_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("[red]a\x1b[2J" + "b" * 100)
    with pytest.raises(typer.Exit):
        leave("[red]a\x1b[2J" + "b" * 100)
    line = "[red]a\\x1b[2J" + "b" * 100 + "\n"
    assert capsys.readouterr() == (line, line)
