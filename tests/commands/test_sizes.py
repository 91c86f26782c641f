"""Sizes of files on the true SD 1.5 are those of the formulas."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from commands.sizes import sizes
from etude.core.files import read_json


def test_sizes_are_those_of_the_formulas(tmp_path: Path) -> None:
    sizes(tmp_path / "sizes.json")
    found = read_json(tmp_path / "sizes.json")
    widths = [320, 640, 768, 1280]
    for structure in ((1, 2, 1), (1, 2, 2, 1), (1, 0.75, 0.5, 0.5, 0.5, 0.75, 1)):
        layers = [(int(d * a), int(d * b)) for d in widths for a, b in pairwise(structure)]
        values = 2 * sum(a * b + b for a, b in layers)
        assert found[f"hypernetwork {', '.join(f'{m:g}' for m in structure)}"] == 4 * values
    assert found["hypernetwork 1, 2, 1"] == 87_759_360
    assert found["a vector of textual inversion"] == 4 * 768
    assert found["null-text, one picture"] == 50 * 77 * 768 * 4 + 65_536
    assert found["Custom Diffusion, fp16"] == 2 * 19_169_280
    assert found["Custom Diffusion, fp16, SD 2.1"] == 2 * 25_559_040
    assert found["LoRA of rank 4, fp16"] == 2 * 4 * 589_824
    assert found["checkpoint, fp16"] == 2 * 1_066_235_307
    assert found["checkpoint, fp32, with EMA"] == 4 * (1_066_235_307 + 859_520_964)
