import io

import pytest

from tasks.shell.console import first_of, progress, say, shorten, warn


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


def test_a_long_text_loses_its_middle_and_one_that_fits_nothing() -> None:
    assert shorten("abcdefghij", 10) == "abcdefghij"
    assert shorten("abcdefghijk", 10) == "abcde…hijk"
    assert shorten("abcdefghijklm", 11) == "abcde…ijklm"
    assert len(shorten("x" * 500)) == 60


def test_as_many_cases_as_a_line_holds_are_named_and_the_others_counted() -> None:
    assert first_of(["a", "b"]) == "a; b"
    exact = ["x" * 99, "y" * 99]  # with "; " between them, 200 characters
    assert first_of(exact) == "; ".join(exact)
    assert first_of([exact[0], exact[1] + "y", "z"]) == f"{exact[0]} and 2 more"
    assert first_of(["x" * 500, "b"]) == f"{shorten('x' * 500, 200)} and 1 more"


def test_a_warning_is_one_line_and_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    warn("a\nb\x1b[2J\u202ec é")
    assert capsys.readouterr().err == "warning: a\\nb\\x1b[2J\\u202ec é\n"


def test_lines_keep_their_ends_and_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\n  b\x1b[2J é")
    assert capsys.readouterr().out == "a\n  b\\x1b[2J é\n"


class Terminal(io.StringIO):
    """A stream that people look at."""

    def isatty(self) -> bool:
        return True


def test_progress_is_shown_in_a_terminal_and_leaves_nothing_among_the_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", terminal)
    assert list(progress([1, 2, 3], "pets: prepare")) == [1, 2, 3]
    assert "pets: prepare" in terminal.getvalue()
    assert "100%" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K")  # the bar is gone at the end
    assert capsys.readouterr().out == ""
