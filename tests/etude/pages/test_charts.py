from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from etude.pages.charts import Chart, draw, ticks
from etude.pages.dumbbell import Bar
from etude.pages.dumbbell import draw as draw_bars


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.5, 1]),
        (0, 100, [0, 50, 100]),
        (0.52, 0.84, [0.6, 0.7, 0.8]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (0, 40, [0, 10, 20, 30, 40]),
        (0, 8, [0, 2, 4, 6, 8]),
        (0, 30, [0, 10, 20, 30]),
        (0.1, 0.5, [0.1, 0.2, 0.3, 0.4, 0.5]),
        (3, 43, [10, 20, 30, 40]),
    ],
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


def found(svg: str, kind: str, *names: str) -> list[tuple[float, ...]]:
    """These numbers of each element of a class."""
    elements = [element for element in ElementTree.fromstring(svg).iter() if element.get("class") == kind]
    return [tuple(float(element.attrib[name]) for name in names) for element in elements]


def texts(svg: str, kind: str) -> list[tuple[str | None, float, float]]:
    elements = [element for element in ElementTree.fromstring(svg).iter() if element.get("class") == kind]
    return [(element.text, float(element.attrib["x"]), float(element.attrib["y"])) for element in elements]


def test_every_part_of_a_chart_stands_where_its_value_is() -> None:
    points = [(0, 1.0, None), (10, 3.0, 0.5), (20, 2.0, None)]
    svg = draw(Chart("loss", points, {"real": 2.5}, mark=20))

    def up(value: float) -> float:
        """From 0.8 at 224 px to 3.7 at 14 px: the values 1 to 3.5, with 8 % of air above and below."""
        return round(224 - (value - 0.8) / 2.9 * 210, 1)

    assert svg.startswith('<svg viewBox="0 0 440 260" role="img" aria-label="loss">')
    assert f'points="52.0,{up(1)} 239.0,{up(3)} 426.0,{up(2)}"' in svg
    assert found(svg, "dot", "cx", "cy", "r") == [(52, up(1), 3.5), (239, up(3), 3.5)]
    assert found(svg, "dot best", "cx", "cy", "r") == [(426, up(2), 5)]
    assert found(svg, "spread", "x1", "x2", "y1", "y2") == [(239, 239, up(3.5), up(2.5))]
    assert found(svg, "level", "x1", "x2", "y1", "y2") == [(52, 426, up(2.5), up(2.5))]
    assert found(svg, "rule", "x1", "x2", "y1", "y2") == [(52, 426, up(value), up(value)) for value in (1, 2, 3)]
    assert texts(svg, "tick") == [
        *((f"{value}", 44, pytest.approx(up(value) + 4)) for value in (1, 2, 3)),
        ("0", 52, 246),
        ("10", 239, 246),
        ("20", 426, 246),
        ("real", 426, pytest.approx(up(2.5) - 5)),
    ]


def test_equal_values_stand_in_the_middle_of_a_chart() -> None:
    svg = draw(Chart("flat", [(5, 1.0, None)]))
    assert found(svg, "dot", "cx", "cy") == [(239, 119)]


def test_a_curve_without_dots_has_none() -> None:
    svg = draw(Chart("loss", [(0, 1.0, None), (10, 3.0, None)], dots=False))
    assert found(svg, "dot", "cx") == []


def test_every_part_of_a_comparison_stands_where_its_value_is() -> None:
    svg = draw_bars("image similarity", [Bar("lora", 0.5, 0.7, 0.02, 0.03), Bar("ti", 0.5, 0.9)], real=0.95)

    def across(value: float) -> float:
        """From 190 px to 730 px: the values 0.48 to 0.95, with 5 % of air on both sides."""
        return round(190 + (value - 0.48 + 0.0235) / (0.47 * 1.1) * 540, 1)

    assert svg.startswith('<svg viewBox="0 0 760 144" role="img" aria-label="image similarity before and after">')
    assert found(svg, "dot", "cx", "cy", "r") == [(across(0.5), 48, 6), (across(0.5), 92, 6)]
    assert found(svg, "dot best", "cx", "cy", "r") == [(across(0.7), 48, 6), (across(0.9), 92, 6)]
    assert found(svg, "curve", "x1", "x2", "y1", "y2") == [
        (across(0.5), across(0.7), 48, 48),
        (across(0.5), across(0.9), 92, 92),
    ]
    assert found(svg, "spread wide", "x1", "x2", "y1", "y2") == [
        (across(0.48), across(0.52), 48, 48),
        (across(0.67), across(0.73), 48, 48),
    ]
    assert found(svg, "level", "x1", "x2", "y1", "y2") == [(across(0.95), across(0.95), 26, 114)]
    tenths = [0.5, 0.6, 0.7, 0.8, 0.9]
    assert found(svg, "rule", "x1", "x2", "y1", "y2") == [(across(value), across(value), 26, 114) for value in tenths]
    told = [(f"{value:g}", across(value), 134) for value in tenths]
    assert texts(svg, "tick") == [*told, ("real pictures", across(0.95), 17)]
    assert texts(svg, "label") == [("lora", 172, 53), ("ti", 172, 97)]


def test_a_spread_at_the_end_of_a_comparison_is_within_it() -> None:
    svg = draw_bars("image similarity", [Bar("lora", 0.5, 0.7, 0.1, 0.3)], real=None)
    left, right = (round(190 + share * 540, 1) for share in (0.05 / 1.1, 1.05 / 1.1))  # from 0.4 to 1, and 5 % of air
    ends = [end for spread in found(svg, "spread wide", "x1", "x2") for end in spread]
    assert (min(ends), max(ends)) == (left, right)


def test_one_value_alone_stands_in_the_middle_of_a_comparison() -> None:
    svg = draw_bars("image similarity", [Bar("lora", 0.5, 0.5)], real=None)
    assert found(svg, "dot", "cx") == [(460,)]
    assert "real pictures" not in svg


def test_before_and_after_stand_on_one_scale() -> None:
    svg = draw_bars("image similarity", [Bar("lora", 0.5, 0.7, 0.02, 0.02), Bar("ti", 0.5, 0.9)], real=0.95)
    xs = [float(x) for x in re.findall(r'<circle class="[^"]+" cx="([\d.]+)"', svg)]
    assert xs[0] == xs[2] < xs[1] < xs[3]
    assert "real pictures" in svg
