"""Block weights: a number for each of the UNet's 25 blocks (bbc-mc's merge block weighted), and one for the rest.

0 … 11 are IN00 … IN11, 12 is M00, 13 … 24 are OUT00 … OUT11, with the numbers of LDM's names. The rest are the text
encoders, the VAE and SDXL's embedding of sizes. SDXL's UNet has fewer blocks: IN09 … IN11 and OUT09 … OUT11 do not
exist there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

COUNT = 25
_RESNETS = 2  # in each level of the down path, in every Stable Diffusion


def block_of(name: str) -> int | None:
    """The block of a tensor ``<part>.<name>`` in diffusers' names; None for the rest."""
    part, _, name = name.partition(".")
    if part != "unet" or name.startswith("add_embedding"):
        return None
    if match := re.match(r"down_blocks\.(\d+)\.(?:resnets|attentions)\.(\d+)\.", name):
        return (_RESNETS + 1) * int(match[1]) + int(match[2]) + 1
    if match := re.match(r"down_blocks\.(\d+)\.downsamplers", name):
        return (_RESNETS + 1) * (int(match[1]) + 1)
    if match := re.match(r"up_blocks\.(\d+)\.(?:resnets|attentions)\.(\d+)\.", name):
        return 13 + (_RESNETS + 1) * int(match[1]) + int(match[2])
    if match := re.match(r"up_blocks\.(\d+)\.upsamplers", name):
        return 13 + (_RESNETS + 1) * int(match[1]) + _RESNETS
    if name.startswith("mid_block"):
        return 12
    return 0 if name.startswith(("conv_in", "time_embedding")) else 24


def weights_of(value: float | Sequence[float] | str) -> tuple[float, ...]:
    """25 numbers from one number, from 25, or from the name of a preset."""
    if isinstance(value, str):
        return PRESETS[value]
    return (float(value),) * COUNT if isinstance(value, int | float) else tuple(value)


def _drawn(shape: Callable[[float], float]) -> tuple[float, ...]:
    """The values of a curve at each block, x from 0 to 1."""
    return tuple(round(shape(i / (COUNT - 1)), 10) for i in range(COUNT))


def _at(places: Sequence[int], value: float = 1.0) -> tuple[float, ...]:
    return tuple(value if i in places else 0.0 for i in range(COUNT))


def _smooth(x: float) -> float:
    return 3 * x**2 - 2 * x**3


def _folded(value: float) -> float:
    """A triangle wave between 0 and 1."""
    value %= 2
    return 2 - value if value > 1 else value


def _hermite(offset: float, cube: float) -> Callable[[float], float]:
    """A cubic that rises, falls and rises again; the value at 0 is always 0, without ``offset``."""
    return lambda x: 0.0 if x == 0 else cube * x**3 - 1.5 * cube * x**2 + 25 / 6 * x + offset


def _wrap(count: int) -> tuple[float, ...]:
    return _at([*range(count), *range(COUNT - count, COUNT)])


def _reversed(preset: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(1 - value, 10) for value in preset)


_SOFT = _at([5, 9, 15, 19], 0.5)
_CURVES = {
    "SMOOTHSTEP": _drawn(_smooth),
    "2SMOOTHSTEP": _drawn(lambda x: _folded(2 * _smooth(x))),
    "3SMOOTHSTEP": _drawn(lambda x: _folded(3 * _smooth(x))),
    "4SMOOTHSTEP": _drawn(lambda x: _folded(4 * _smooth(x))),
    "HALF_SMOOTHSTEP": _drawn(lambda x: _smooth(_folded(2 * x))),
    "ONE_THIRD_SMOOTHSTEP": _drawn(lambda x: _smooth(_folded(3 * x))),
    "ONE_FOURTH_SMOOTHSTEP": _drawn(lambda x: _smooth(_folded(4 * x))),
}
_REVERSED = {
    "REVERSE_SMOOTHSTEP": "SMOOTHSTEP",
    "2R_SMOOTHSTEP": "2SMOOTHSTEP",
    "3R_SMOOTHSTEP": "3SMOOTHSTEP",
    "4R_SMOOTHSTEP": "4SMOOTHSTEP",
    "HALF_R_SMOOTHSTEP": "HALF_SMOOTHSTEP",
    "ONE_THIRD_R_SMOOTHSTEP": "ONE_THIRD_SMOOTHSTEP",
    "ONE_FOURTH_R_SMOOTHSTEP": "ONE_FOURTH_SMOOTHSTEP",
}

# sd-meh's presets, computed by formulas; in sd-meh they are tables, rounded to ten digits
PRESETS: dict[str, tuple[float, ...]] = {
    "GRAD_V": _drawn(lambda x: abs(1 - 2 * x)),
    "GRAD_A": _drawn(lambda x: 1 - abs(1 - 2 * x)),
    "FLAT_25": (0.25,) * COUNT,
    "FLAT_75": (0.75,) * COUNT,
    "WRAP08": _wrap(4),
    "WRAP12": _wrap(6),
    "WRAP14": _wrap(7),
    "WRAP16": _wrap(8),
    "MID12_50": _at(range(5, 19), 0.5),
    "OUT07": _at(range(18, COUNT)),
    "OUT12": _at(range(13, COUNT)),
    "OUT12_5": tuple(0.5 if i == 12 else value for i, value in enumerate(_at(range(13, COUNT)))),
    "RING08_SOFT": tuple(max(pair) for pair in zip(_SOFT, _at([6, 7, 8, 16, 17, 18]), strict=True)),
    "RING08_5": _at([*range(6, 10), *range(15, 19)]),
    "RING10_5": _at([*range(5, 10), *range(15, 20)]),
    "RING10_3": _at([*range(6, 11), *range(14, 19)]),
    **_CURVES,
    **{name: _reversed(_CURVES[other]) for name, other in _REVERSED.items()},
    "COSINE": _drawn(lambda x: (1 + math.cos(math.pi * x)) / 2),
    "REVERSE_COSINE": _drawn(lambda x: (1 - math.cos(math.pi * x)) / 2),
    "TRUE_CUBIC_HERMITE": _drawn(_hermite(1 / 24, 77 / 12)),
    "TRUE_REVERSE_CUBIC_HERMITE": _reversed(_drawn(_hermite(1 / 24, 77 / 12))),
    "FAKE_CUBIC_HERMITE": _drawn(_hermite(0, 19 / 3)),
    "FAKE_REVERSE_CUBIC_HERMITE": _reversed(_drawn(_hermite(0, 19 / 3))),
    "ALL_A": (0.0,) * COUNT,
    "ALL_B": (1.0,) * COUNT,
}
