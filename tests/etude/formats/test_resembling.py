"""What an unknown file is said to look like: a few of its names, and what at least half of them are known for."""

from __future__ import annotations

import pytest

from etude.formats.resembling import described, likeness


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "nothing"),
        (["x"], "1 name (x)"),
        (["c", "a", "b"], "3 names (a, b, c)"),
        (["d", "c", "a", "b"], "4 names (a, b, c …)"),
        (["y" * 60], f"1 name ({'y' * 60})"),
        (["y" * 61], f"1 name ({'y' * 60}…)"),
        (["vae.a", "x"], "2 names (vae.a, x), like a VAE"),
    ],
)
def test_the_first_names_are_shown_and_how_many_there_are(names: list[str], said: str) -> None:
    assert described(names) == said


def test_a_file_looks_like_what_half_of_its_names_are() -> None:
    assert likeness(["vae.a", "vae.b", "x", "y"]) == "a VAE"
    assert likeness(["vae.a", "x", "y"]) == ""
    assert likeness([]) == ""
    assert likeness(["lllite_unet_a", "lora_b"]) == "a ControlNet-LLLite"  # the first sign counts
