from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from etude.pages.charts import Chart, draw, ticks
from etude.pages.dumbbell import Bar
from etude.pages.dumbbell import draw as draw_bars


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.5, 1]), (0, 100, [0, 50, 100]), (0.52, 0.84, [0.6, 0.7, 0.8]), (-1, 1, [-1, -0.5, 0, 0.5, 1])],
)
def test_ticks_are_round_numbers_within_the_scale(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == expected


def test_a_larger_value_stands_higher_and_a_later_step_further_right() -> None:
    svg = draw(Chart("loss", [(0, 1.0, None), (10, 3.0, None), (20, 2.0, None)]))
    (points,) = re.findall(r'polyline class="curve" points="([^"]+)"', svg)
    (x0, y0), (x1, y1), (x2, y2) = (tuple(map(float, pair.split(","))) for pair in points.split())
    assert x0 < x1 < x2
    assert y1 < y2 < y0


def test_a_chart_is_one_well_formed_element_even_of_equal_values() -> None:
    for chart in (Chart("flat", [(5, 1.0, None)]), Chart("c", [(0, 1.0, 0.1), (1, 1.0, None)], {"real": 1.0}, 1)):
        assert ElementTree.fromstring(draw(chart)).tag == "svg"


def test_names_in_a_chart_are_escaped() -> None:
    svg = draw(Chart("<b>", [(0, 1.0, None), (1, 2.0, None)], {"<script>": 1.5}))
    bars = draw_bars("image similarity", [Bar("<i>", 0.1, 0.2)], None)
    for text in (svg, bars):
        ElementTree.fromstring(text)
        assert "<script>" not in text
        assert "<b>" not in text
        assert "<i>" not in text


def test_the_marked_step_is_the_best_dot() -> None:
    svg = draw(Chart("c", [(0, 1.0, None), (10, 3.0, None)], mark=10))
    assert svg.count('class="dot best"') == 1


@pytest.mark.parametrize(("count", "dots", "each"), [(8, True, True), (9, True, False), (8, False, False)])
def test_each_of_a_few_checkpoints_has_a_tick_and_longer_curves_have_round_numbers(
    count: int, dots: bool, each: bool
) -> None:
    steps = [3 + 7 * number for number in range(count)]
    svg = draw(Chart("c", [(step, 1.0 + step, None) for step in steps], dots=dots))
    told = [float(text) for text in re.findall(r'text-anchor="middle">([^<]+)<', svg)]
    assert told == (steps if each else ticks(steps[0], steps[-1], 5))


def test_before_and_after_stand_on_one_scale() -> None:
    svg = draw_bars("image similarity", [Bar("lora", 0.5, 0.7, 0.02, 0.02), Bar("ti", 0.5, 0.9)], real=0.95)
    xs = [float(x) for x in re.findall(r'<circle class="[^"]+" cx="([\d.]+)"', svg)]
    assert xs[0] == xs[2] < xs[1] < xs[3]
    assert "real pictures" in svg
