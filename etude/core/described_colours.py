"""Colours that a file describes by numbers instead of an ICC profile: cICP, gAMA and cHRM of PNG, nclx of AVIF.

Codes are those of ITU-T H.273. They become an ICC profile (ICC.1:2010), so that colours are converted in one place. The
curves of video are taken as that of sRGB, as in browsers. In a PNG, cICP has precedence over a profile, a profile over
sRGB, and sRGB over gAMA and cHRM; if cICP cannot be used, a profile is (PNG 3, 4.3). In AVIF and HEIC, a profile has
precedence.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence

from etude.core.errors import UnusableError

KEY = "described_profile"  # in Pillow's `Image.info`; such a profile is valid for grey pixels, too
D65, C, DCI = (0.3127, 0.329), (0.31, 0.316), (0.314, 0.351)
# Code → x and y of white, red, green and blue.
PRIMARIES: dict[int, tuple[float, ...]] = {
    1: (*D65, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06),
    4: (*C, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*D65, 0.64, 0.33, 0.29, 0.6, 0.15, 0.06),
    6: (*D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    7: (*D65, 0.63, 0.34, 0.31, 0.595, 0.155, 0.07),
    9: (*D65, 0.708, 0.292, 0.17, 0.797, 0.131, 0.046),
    11: (*DCI, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    12: (*D65, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06),
    22: (*D65, 0.63, 0.34, 0.295, 0.605, 0.155, 0.077),
}
UNKNOWN = 2  # as either code: sRGB's is taken
SRGB = 0.0  # means sRGB's own curve
GAMMAS = {1: SRGB, 2: SRGB, 4: 2.2, 5: 2.8, 6: SRGB, 8: 1.0, 13: SRGB, 14: SRGB, 15: SRGB}  # code → exponent
HDR = {16: "PQ", 18: "HLG"}
USUAL = 1 / 2.2  # gAMA of sRGB
NEAR = 0.005  # numbers that differ by less mean the same
GAMMA_LIMITS = 0.1, 10.0  # of gAMA; a value outside has no meaning, and viewers ignore it
D50 = 0.9642, 1.0, 0.8249
BRADFORD = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))


def profile_of_codes(primaries: int, transfer: int) -> bytes | None:
    """The ICC profile of two codes; None for sRGB. Raises UnusableError for codes that are not converted."""
    if transfer in HDR:
        raise UnusableError(f"is of high dynamic range ({HDR[transfer]}), whose brightness Pillow does not convert")
    if transfer not in GAMMAS or primaries not in (*PRIMARIES, UNKNOWN):
        raise UnusableError(f"its colours (H.273: primaries {primaries}, transfer {transfer}) cannot be converted")
    return _profile(PRIMARIES[1 if primaries == UNKNOWN else primaries], GAMMAS[transfer])


def profile_of_png(chunks: Mapping[bytes, bytes]) -> bytes | None:
    """The ICC profile that a PNG's chunks describe; None for sRGB, or if it has one in iCCP. Raises UnusableError."""
    if comes_first(chunks):
        primaries, transfer, matrix, full = chunks[b"cICP"]
        if matrix or not full:
            raise UnusableError("its cICP chunk is for video (YCbCr, or a narrow range), which Pillow does not convert")
        return profile_of_codes(primaries, transfer)
    if b"iCCP" in chunks or b"sRGB" in chunks or not {b"gAMA", b"cHRM"} & chunks.keys():
        return None
    (inverse,) = _numbers(chunks.get(b"gAMA", b""), 1) or (USUAL,)
    described = _numbers(chunks.get(b"cHRM", b""), 8) or PRIMARIES[1]
    if not GAMMA_LIMITS[0] <= inverse <= GAMMA_LIMITS[1] or min(described[1::2]) <= 0 or max(described) > 1:
        return None
    return _profile(described, SRGB if abs(inverse - USUAL) < NEAR else 1 / inverse)


def comes_first(chunks: Mapping[bytes, bytes]) -> bool:
    """Whether a PNG has a cICP chunk, which has precedence over a profile in iCCP."""
    return len(chunks.get(b"cICP", b"")) == 4


def _numbers(data: bytes, count: int) -> tuple[float, ...] | None:
    return tuple(value / 100_000 for value in struct.unpack(f">{count}I", data)) if len(data) == 4 * count else None


def _profile(described: Sequence[float], gamma: float) -> bytes | None:
    import numpy as np  # commands that read no picture do not need it

    if gamma == SRGB and np.allclose(described, PRIMARIES[1], rtol=0, atol=NEAR):
        return None
    white, red, green, blue = (np.array([x / y, 1, (1 - x - y) / y]) for x, y in np.reshape(described, (4, 2)))
    columns = np.stack([red, green, blue], axis=1)
    if abs(np.linalg.det(columns)) < NEAR:  # three colours on a line
        return None
    cones = np.array(BRADFORD)
    adapted = np.linalg.inv(cones) @ np.diag(cones @ D50 / (cones @ white)) @ cones
    colorants = (adapted @ columns * np.linalg.solve(columns, white)).T
    kind, numbers = (0, [gamma]) if gamma else (3, [2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045])
    curve = b"para" + struct.pack(">IHH", 0, kind, 0) + _fixed(numbers)
    points = {b"wtpt": D50, **dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), colorants, strict=True))}
    tags = {name: b"XYZ " + bytes(4) + _fixed(point) for name, point in points.items()}
    return _file({**tags, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)})


def _file(tags: Mapping[bytes, bytes]) -> bytes:
    """A display profile of version 4 with these tags and a name."""
    text = "described".encode("utf-16-be")
    name = b"mluc" + struct.pack(">IIIHHII", 0, 1, 12, 0x656E, 0x5553, len(text), 28) + text
    table, data, start = b"", b"", 128 + 4 + 12 * (len(tags) + 1)
    for tag, content in {b"desc": name, **tags}.items():
        table += tag + struct.pack(">II", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(data), b"", 0x04300000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + _fixed(D50) + bytes(48)
    return head + struct.pack(">I", len(tags) + 1) + table + data


def _fixed(values: Iterable[float]) -> bytes:
    return b"".join(struct.pack(">i", round(float(value) * 65536)) for value in values)
