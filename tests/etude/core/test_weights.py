"""Weights that are read: dtypes that are known, numbers that are finite, whatever file they are in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from etude.core.errors import EtudeWarning, FormatError
from etude.core.pickles import read_either, read_pickle
from etude.core.weights import allow_nan, read_weights

EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz)
KINDS = ("safetensors", "pickle")


def write(folder: Path, kind: str, tensors: dict[str, Tensor]) -> Path:
    path = folder / ("model.safetensors" if kind == "safetensors" else "model.ckpt")
    save_file(tensors, path) if kind == "safetensors" else torch.save({"state_dict": tensors}, path)
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_refused_by_its_tensor(
    kind: str, dtype: torch.dtype, number: float, tmp_path: Path
) -> None:
    spoiled = torch.ones(300, dtype=dtype)
    spoiled[171] = number
    path = write(tmp_path, kind, {"a": torch.ones(3, dtype=dtype), "b.weight": spoiled})
    with pytest.raises(FormatError, match=r"`b\.weight` holds numbers that are not finite.*--allow-nan"):
        read_either(path)
    assert set(read_either(path, lambda name: name == "a")[0]) == {"a"}  # what is not needed is not looked at
    with allow_nan():
        assert read_either(path)[0]["b.weight"].nan_to_num(0, 0, 0).equal(spoiled.nan_to_num(0, 0, 0))
    with pytest.raises(FormatError):
        read_either(path)  # the switch ends with its block


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool, torch.complex64])
def test_numbers_that_are_no_floats_are_refused_by_their_tensor(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    path = write(tmp_path, kind, {"conv.weight": torch.ones(4, 2).to(dtype)})
    with pytest.raises(FormatError, match=r"`conv\.weight` is (u?int|bool|complex)"):
        read_either(path)


@pytest.mark.parametrize("kind", KINDS)
def test_counters_are_whole_numbers_and_marks_may_be_empty(kind: str, tmp_path: Path) -> None:
    counters = {"text.position_ids": torch.arange(77)[None], "unet.alpha": torch.tensor(4), "v_pred": torch.zeros(0)}
    counters["ztsnr"] = torch.zeros(0, dtype=torch.uint8)
    found, _ = read_either(write(tmp_path, kind, counters))
    assert set(found) == set(counters)
    assert all(found[name].equal(tensor) for name, tensor in counters.items())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", EIGHT_BITS)
def test_floats_of_8_bits_become_float16_to_the_bit_and_that_is_said(
    kind: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    every = torch.arange(256, dtype=torch.uint8).view(dtype)
    every = every[every.float().isfinite()]
    path = write(tmp_path, kind, {"conv.weight": every})
    with pytest.warns(EtudeWarning, match=rf"model\.\w+: has weights in {str(dtype)[6:]}.*float16"):
        read = read_either(path)[0]["conv.weight"]
    assert read.dtype == torch.float16
    assert read.double().equal(every.double())


@pytest.mark.parametrize("mark", ["weight_scale", "scale_weight", "absmax"])
def test_weights_that_need_a_scale_beside_them_are_not_read_without_it(mark: str, tmp_path: Path) -> None:
    path = write(tmp_path, "safetensors", {f"conv.{mark}": torch.ones(1)})
    with pytest.raises(FormatError, match=f"`conv.{mark}` is of a quantised model"):
        read_weights(path)


def test_a_tensor_that_declares_more_numbers_than_the_file_has_is_refused_at_once(tmp_path: Path) -> None:
    for count in (2, 1 << 40):
        torch.save({"w": torch.zeros(1).expand(count)}, tmp_path / "m.pt")
        with pytest.raises(FormatError, match="`w` declares more numbers"):
            read_pickle(tmp_path / "m.pt")


def test_containers_become_plain_and_their_tensors_are_checked(tmp_path: Path) -> None:
    row = torch.ones(2, 3)
    data: Any = {"string_to_param": torch.nn.ParameterDict({"*": torch.nn.Parameter(row)}), 768: ({"a": row}, [row])}
    torch.save(data, tmp_path / "e.pt")
    found = read_pickle(tmp_path / "e.pt")
    assert found["string_to_param"]["*"].equal(row)
    assert not found["string_to_param"]["*"].requires_grad
    assert type(found[768]) is tuple
    torch.save({768: ({"a": row / 0}, [row])}, tmp_path / "e.pt")
    with pytest.raises(FormatError, match=r"`768\.0\.a` holds numbers that are not finite"):
        read_pickle(tmp_path / "e.pt")


def test_the_largest_numbers_of_float32_are_read(tmp_path: Path) -> None:
    largest = torch.tensor([3.4028234663852886e38, -3.4028234663852886e38])
    save_file({"w": largest, "wide": largest.double()}, tmp_path / "m.safetensors")
    assert all(
        tensor.double().equal(largest.double()) for tensor in read_weights(tmp_path / "m.safetensors")[0].values()
    )


def test_a_number_that_float32_cannot_hold_is_refused(tmp_path: Path) -> None:
    save_file({"w": torch.tensor([1e300], dtype=torch.float64)}, tmp_path / "m.safetensors")
    with pytest.raises(FormatError, match="`w` holds numbers that are not finite"):
        read_weights(tmp_path / "m.safetensors")


@pytest.mark.parametrize("value", ["1", [1.0, 2.0], None, {"a": 1}], ids=str)
def test_what_stands_in_place_of_a_tensor_is_refused_by_its_name(value: Any, tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1), "x.alpha": value}, tmp_path / "m.pt")
    with pytest.raises(FormatError, match=r"`x\.alpha`"):
        read_either(tmp_path / "m.pt")


def test_a_pickled_lora_may_count_its_steps_and_have_plain_alphas(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1), "x.alpha": 4, "step": 100}, tmp_path / "m.pt")
    tensors, _ = read_either(tmp_path / "m.pt")
    assert {name: tensor.item() for name, tensor in tensors.items()} == {"w": 1.0, "x.alpha": 4.0}
