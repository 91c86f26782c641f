"""What presets say of memory is true."""

from __future__ import annotations

import re

import pytest

from tests.preset_memory import CLAIM, LARGE, claims, count, counted_methods, holds
from tests.shipped import ROOT


@pytest.mark.parametrize("preset", LARGE)
def test_a_preset_says_of_each_method_what_card_its_build_fits_and_nothing_else_of_memory(preset: str) -> None:
    assert sorted(claims(preset)) == counted_methods()
    text = (ROOT / "presets" / f"{preset}.yaml").read_text(encoding="utf-8")
    assert not re.findall(r"#.*\d ?G(?:i)?B", CLAIM.sub("", text))


@pytest.mark.slow
def test_a_build_fits_the_card_that_its_preset_names() -> None:
    """All rows are `python -m tests.preset_memory`: they take half an hour."""
    footprint = count("sd15", "textual_inversion")
    assert holds(footprint, claims("sd15")["textual_inversion"])
    assert not holds(footprint, 2)


def test_a_build_that_is_too_large_does_not_hold_a_claim() -> None:
    from etude.memory.footprint import Footprint

    assert holds(Footprint(weights=7_200_000_000), 8)
    assert not holds(Footprint(weights=7_300_000_000), 8)
