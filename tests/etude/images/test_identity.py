import io
from itertools import combinations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from etude.images.identity import TINT, Signature, near_duplicates, pixel_hash, signature


def painting(seed: int, size: int = 128) -> Image.Image:
    """Soft random shapes: a picture with something in it, different for each seed."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)).resize((size, size), 3)
    for _ in range(4):
        x, y, r = (int(v) for v in rng.integers(10, size - 10, 3))
        colour = tuple(int(v) for v in rng.integers(0, 255, 3))
        ImageDraw.Draw(image).ellipse((x - r // 3, y - r // 3, x + r // 3, y + r // 3), fill=colour)
    return image.filter(ImageFilter.GaussianBlur(1))


def test_a_hash_is_of_pixels_size_and_mode_alone() -> None:
    image = painting(0)
    same = Image.open(io.BytesIO(saved(image, "PNG", compress_level=9)))
    assert pixel_hash(image) == pixel_hash(same.convert("RGB"))
    one_off = image.copy()
    one_off.putpixel((3, 4), (1, 2, 3))
    assert pixel_hash(one_off) != pixel_hash(image)
    black = [Image.new(mode, size) for mode, size in [("RGB", (4, 2)), ("RGB", (2, 4)), ("L", (4, 6)), ("L", (6, 4))]]
    assert len({pixel_hash(image) for image in black}) == 4


def saved(image: Image.Image, form: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def test_recompressed_resized_and_faintly_changed_pictures_are_near_duplicates_and_different_ones_are_not() -> None:
    found = {}
    for seed in range(12):
        image = painting(seed)
        found[f"{seed:02}"] = signature(image)
        found[f"{seed:02} jpeg"] = signature(Image.open(io.BytesIO(saved(image, "JPEG", quality=60))).convert("RGB"))
        found[f"{seed:02} small"] = signature(image.resize((97, 97), 1).resize((128, 128), 3))
        found[f"{seed:02} brighter"] = signature(image.point(lambda level: min(level + 6, 255)))
    pairs = near_duplicates(found, 0.05)
    assert all(one[:2] == other[:2] for one, other in pairs)
    assert {f"{seed:02}" for seed in range(12)} == {one for one, _ in pairs if len(one) == 2}
    assert len(pairs) >= 60  # of 72


def test_plain_pictures_of_different_colours_are_no_duplicates() -> None:
    plain = {name: signature(Image.new("RGB", (64, 64), name)) for name in ("red", "blue", "white", "navy")}
    assert near_duplicates(plain, 0.05) == []
    mirrored = painting(1).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert near_duplicates({"a": signature(painting(1)), "b": signature(mirrored)}, 0.05) == []


def test_the_share_of_bits_and_the_tint_are_limits_that_may_be_reached_and_not_passed() -> None:
    def made(bits: int = 0, tint: int = 0) -> Signature:
        """With this many of 512 bits set, and a colour level at one place of the grid."""
        levels = np.zeros((4, 4, 3), dtype=np.int16)
        levels[3, 2, 1] = tint
        return Signature(np.packbits(np.arange(512) < bits).view(np.uint64), levels)

    plain = made()
    for share, allowed in ((0.05, 25), (0.1, 51), (0.0, 0)):
        assert near_duplicates({"a": plain, "b": made(bits=allowed)}, share) == [("a", "b")]
        assert near_duplicates({"a": plain, "b": made(bits=allowed + 1)}, share) == []
    assert near_duplicates({"a": plain, "b": made(tint=TINT)}, 0.05) == [("a", "b")]
    assert near_duplicates({"a": made(tint=TINT + 1), "b": plain}, 0.05) == []
    assert near_duplicates({"c": plain, "a": plain, "b": made(bits=99), "d": plain}, 0.05) == [
        ("a", "c"),
        ("a", "d"),
        ("c", "d"),
    ]


def test_the_pairs_of_a_large_set_are_those_that_comparing_all_with_all_finds() -> None:
    rng = np.random.default_rng(0)
    signatures = {}
    for number in range(60):
        bits, tint = rng.random(512) < rng.uniform(0.1, 0.9), rng.integers(60, 200, (4, 4, 3))
        for near in range(3):  # in each group some are near in both, in bits alone or in colours alone
            changed = bits ^ (rng.random(512) < rng.uniform(0.0, 0.1))
            levels = tint + rng.integers(-14, 14, (4, 4, 3))
            name = f"{rng.integers(1 << 60):x}-{number}-{near}"
            signatures[name] = Signature(np.packbits(changed).view(np.uint64), levels.astype(np.int16))
    expected = []
    for one, other in combinations(sorted(signatures), 2):
        differ = int(np.bitwise_count(signatures[one].bits ^ signatures[other].bits).sum())
        if differ <= 512 // 20 and np.abs(signatures[one].tint - signatures[other].tint).max() <= TINT:
            expected.append((one, other))
    assert len(expected) > 10
    assert near_duplicates(signatures, 0.05) == expected
    assert near_duplicates({}, 0.05) == []


def test_a_signature_has_a_bit_for_each_cell_that_is_brighter_than_the_one_before_by_three_levels() -> None:
    steps = [3, 2, -9, 30, 0, 3, 4, -50, 2, 3, 100, -20, 2, 1, 3, 90]
    levels = np.cumsum([60, *steps]).astype(np.uint8)
    set_bits = [int(step >= 3) for step in steps]
    row = np.packbits(set_bits).tobytes().hex()
    right = np.repeat(np.tile(levels, (272, 1)), 16, axis=1)  # 17 columns of 16 px
    for pixels, expected in ((right, row * 16 + "00" * 32), (right.T, "00" * 32 + "".join(both(set_bits)))):
        found = signature(Image.fromarray(pixels).convert("RGB"))
        assert found.text()[:128] == expected
        quarters = pixels.reshape(4, 68, 4, 68).mean(axis=(1, 3))
        assert np.abs(found.tint - quarters[..., None]).max() <= 0.5
        again = Signature.of_text(found.text())
        assert (again.bits == found.bits).all()
        assert (again.tint == found.tint).all()


def both(bits: list[int]) -> list[str]:
    """Two bytes for each row of 16 cells: all of its bits are the same."""
    return ["ffff" if bit else "0000" for bit in bits]
