import pytest

from tasks.shell.console import progress, say, warn


def test_lines_are_printed_whole_and_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a [red] file :smile: " + "x" * 300
    say(name)
    warn(name)
    told = capsys.readouterr()
    assert told.out == f"{name}\n"
    assert told.err == f"warning: {name}\n"


def test_progress_hands_out_every_item_and_says_nothing_into_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress([1, 2, 3], "work")) == [1, 2, 3]
    told = capsys.readouterr()
    assert told.out + told.err == ""
