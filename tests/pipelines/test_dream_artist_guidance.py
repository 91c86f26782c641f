from __future__ import annotations

import math

import pytest
import torch

from pipelines.dream_artist.method.guidance import parse_guidance

T = torch.tensor([0, 250, 500, 999])


def values(text: str | float) -> list[float]:
    found = parse_guidance(text).at(T, 1000)
    assert found.shape == (4, 1, 1, 1)
    return [float(value) for value in found.flatten()]


def test_a_number_is_the_scale_of_every_timestep() -> None:
    assert values(3.0) == values("3") == values("3.0") == [3.0] * 4


@pytest.mark.parametrize(
    ("curve", "formula"),
    [
        ("", lambda t: t),
        (":ln", lambda t: t),
        (":cos", lambda t: math.cos((t - 1) * math.pi / 2)),
        (":cos2", lambda t: 1 - math.cos(t * math.pi / 2)),
        (":rate**2", lambda t: t * t),
        (": sqrt(rate) * exp(-1 + rate)", lambda t: math.sqrt(t) * math.exp(t - 1)),
        (":1", lambda t: 1.0),
        (":sin(pi*rate/2)", lambda t: math.sin(math.pi * t / 2)),
    ],
)
def test_a_curve_leads_from_the_low_scale_to_the_high_one(curve: str, formula: object) -> None:
    expected = [1.5 + 2.5 * formula(t / 999) for t in T.tolist()]  # type: ignore[operator]
    assert values(f"1.5-4{curve}") == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        "", "fast", "-3", "3-", "3:cos", "1-2:", "1-2:rote", "1-2:1/rate", "1-2:log(rate)", "1-2:(-rate)**0.5",
        "1-2:__import__('os')", "1-2:rate.real", "1-2:abs", "1-2:[rate]", "1-2:9**9**9**9", "1-2:max(rate,1)",
        "1-2:cos(rate", "1-2:'a'", "1-2:rate if rate else 1", "nan", "1-inf", "1-2:(lambda: 1)()",
    ],
)  # fmt: skip
def test_what_is_no_scale_is_refused_and_none_of_it_runs(text: str) -> None:
    with pytest.raises(ValueError, match="`guidance`"):
        parse_guidance(text)
