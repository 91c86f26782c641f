from __future__ import annotations

from pathlib import Path

import pytest
import torch

from etude.core.artifact import Artifact, built, facts_of, is_artifact, load, save
from etude.core.errors import FormatError
from etude.core.tensors import write_tensors


def test_an_artifact_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    made = Artifact("lora", {"a": torch.randn(2, 3)}, {"step": 3, "params": {"rank": 8, "name": "öt"}})
    save(made, tmp_path / "a.safetensors")
    back = load(tmp_path / "a.safetensors")
    assert (back.method, back.facts) == (made.method, made.facts)
    assert torch.equal(back.tensors["a"], made.tensors["a"])


@pytest.mark.parametrize(
    "metadata",
    [{"ss_v2": "False"}, {"etude": "{damaged"}, {"etude": "{}"}, {"etude": "null"}, {"etude": '["method"]'}, {}],
)
def test_another_safetensors_file_is_no_artifact(tmp_path: Path, metadata: dict[str, str]) -> None:
    write_tensors(tmp_path / "a.safetensors", {"a": torch.ones(1)}, metadata)
    with pytest.raises(FormatError, match="not an artifact"):
        load(tmp_path / "a.safetensors")


def test_an_artifact_is_known_by_its_header_and_found_in_the_folder_of_its_build(tmp_path: Path) -> None:
    save(Artifact("lora", {"a": torch.ones(1)}, {}), tmp_path / "artifact.safetensors")
    assert built(tmp_path) == tmp_path / "artifact.safetensors"
    assert built(tmp_path / "artifact.safetensors") == tmp_path / "artifact.safetensors"
    assert built(tmp_path / "none") == tmp_path / "none"
    (tmp_path / "artifact.safetensors").rename(tmp_path / "A.SAFETENSORS")
    write_tensors(tmp_path / "b.safetensors", {"a": torch.ones(1)}, {"ss_v2": "False"})
    (tmp_path / "c.pt").write_bytes((tmp_path / "A.SAFETENSORS").read_bytes())
    paths = [tmp_path / name for name in ("A.SAFETENSORS", "b.safetensors", "c.pt", "none.safetensors", "")]
    assert [is_artifact(path) for path in paths] == [True, False, False, False, False]


def test_facts_are_read_without_the_tensors(tmp_path: Path) -> None:
    made = Artifact("lora", {"a": torch.ones(1)}, {"step": 3})
    save(made, tmp_path / "a.safetensors")
    data = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(data[:-4] + b"\xff" * 4)  # the only number is NaN
    assert facts_of(tmp_path / "a.safetensors") == {"method": "lora", "step": 3}
    with pytest.raises(FormatError, match="not finite"):
        load(tmp_path / "a.safetensors")


def test_a_copy_is_left_alone_by_what_goes_on_learning() -> None:
    weight = torch.tensor([1.0], requires_grad=True)
    made = Artifact("test", {"w": weight}, {}).copied().tensors["w"]
    with torch.no_grad():
        weight.add_(1)
    assert made.item() == 1
    assert not made.requires_grad


def test_it_is_saved_in_its_precision(tmp_path: Path) -> None:
    learning = Artifact("test", {"w": torch.zeros(1, requires_grad=True)}, {}, "bf16")
    save(learning, tmp_path / "a.safetensors")
    assert load(tmp_path / "a.safetensors").tensors["w"].dtype == torch.bfloat16
    assert learning.copied().tensors["w"].dtype == learning.dtype == torch.bfloat16


def test_numbers_that_its_precision_cannot_hold_are_refused_by_name_and_nothing_is_written(tmp_path: Path) -> None:
    large = {"small": torch.ones(1), "large": torch.tensor([1.0, -7e4])}
    match = r"pipelines/test/params.yaml.*`save: fp16` cannot hold `large`.* 70000,.*Next: write `save: bf16`"
    with pytest.raises(FormatError, match=match):
        save(Artifact("test", large, {}, "fp16"), tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []
    save(Artifact("test", large, {}, "bf16"), tmp_path / "a.safetensors")
    assert load(tmp_path / "a.safetensors").tensors["large"][1] == torch.tensor(-7e4).bfloat16()


def test_numbers_that_are_not_finite_are_no_matter_of_precision(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"`w` has numbers that are not finite.*Next: lower the learning rate"):
        save(Artifact("test", {"w": torch.tensor([1.0, torch.nan])}, {}, "fp16"), tmp_path / "a.safetensors")


def test_facts_have_one_byte_form_and_hold_nothing_that_json_lacks(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(1)}
    save(Artifact("test", tensors, {"one": 1, "two": [2.5, None]}), tmp_path / "1.safetensors")
    save(Artifact("test", tensors, {"two": [2.5, None], "one": 1}), tmp_path / "2.safetensors")
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "2.safetensors").read_bytes()
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            save(Artifact("test", tensors, {"loss": value}), tmp_path / "3.safetensors")
    assert not (tmp_path / "3.safetensors").exists()


def test_the_precision_of_an_artifact_is_that_of_its_tensors_where_none_is_set() -> None:
    half = {"w": torch.ones(1, dtype=torch.float16)}
    assert Artifact("test", half, {}).dtype == Artifact("test", half, {}).copied().dtype == torch.float16
    assert Artifact("test", half, {}, "fp32").dtype == torch.float32
    assert Artifact("test", {}, {}).dtype == torch.float32
