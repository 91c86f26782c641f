"""Builds and drawing on a GPU that is not there: no operation mixes devices, and no step waits for the GPU."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from etude.base.loading import load_base
from etude.base.waiting import discard
from etude.core.method import load_method, needs
from etude.training import fit
from etude.training.opening import open_base
from etude.training.preview import draw, encode_fixed
from etude.training.report import Report
from tests.gpu import OnGpu, a_gpu, placed
from tests.pipelines.learning import image_set, on_tiny, params_of, picture
from tests.tiny import build_tiny

ONCE = {"steps": 1, "checkpoint_every": 1}
CASES: dict[str, dict[str, Any]] = {
    "custom_diffusion": {},
    "dream_artist": {"reconstruction": 0.5},
    "dreambooth": {"templates": ["[name]", "a [name]"], "text_encoder_rate": 0.0},
    "fine_tuning": {"caption_dropout": 0.5, "text_encoder_rate": 0.0},
    "hypernetwork": {"caption_dropout": 0.5},
    "lora": {"text_encoder_rate": 1.0},
    "textual_inversion": {},
}


def learned(method: str, folder: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> list[str]:
    """Build on the GPU, draw with the result; returns what the steps waited for."""
    module, params = load_method(method), params_of(method, ONCE, **changes)
    data, waited = image_set(load_base(folder)), list[str]()
    with a_gpu() as waits:
        base = open_base(folder, params, "cuda")
        report = Report(scratch, seed=3, device="cuda", precision="bf16")
        report.prepared = partial(discard, base, "text")
        preview: Any = getattr(params, "preview", None)
        if preview:
            texts = encode_fixed(base, preview, params, report.precision)
            report.preview = lambda: draw(base, preview, params.name, report.precision, texts)
        gradients: Any = fit._gradients

        def watched(*given: Any) -> Any:
            waits.clear()
            value = gradients(*given)
            waited.extend(waits)
            return value

        monkeypatch.setattr(fit, "_gradients", watched)
        artifact = module.build(base=base, params=params, report=report, **{name: data[name] for name in needs(module)})
        assert not any(isinstance(tensor, OnGpu) for tensor in artifact.tensors.values())
        with module.apply(artifact, load_base(folder, device="cuda", dtype=base.dtype)) as changed:
            assert picture(changed).shape == (1, 64, 64, 3)
    return waited


@pytest.mark.parametrize("method", CASES)
def test_a_build_on_a_gpu_mixes_no_devices_and_its_steps_do_not_wait(
    method: str, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert learned(method, tiny_base, tmp_path / "run", monkeypatch, **CASES[method]) == []


def test_so_does_a_build_with_a_base_that_is_conditioned_on_sizes_and_its_weights_in_half_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build_tiny(tmp_path / "base", "sdxl")
    assert learned("lora", folder, tmp_path / "run", monkeypatch, base_precision="bf16") == []


def test_so_does_a_build_with_a_base_that_is_conditioned_on_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build_tiny(tmp_path / "base", unclip=True)
    changes = on_tiny("clip_inversion", folder)
    waited = learned("clip_inversion", folder, tmp_path / "run", monkeypatch, **changes)
    assert {*waited} <= {"to the GPU"}  # each text is encoded once


def test_the_gpu_that_is_not_there_refuses_what_a_gpu_refuses() -> None:
    with a_gpu() as waits:
        there, here = torch.ones(2, device="cuda"), torch.ones(2)
        with pytest.raises(RuntimeError, match="on the host"):
            there + here
        with pytest.raises(RuntimeError, match="generator"):
            torch.randn(2, device="cuda", generator=torch.Generator())
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert isinstance(there * 2 + torch.tensor(1.0), OnGpu)
        assert (there.device.type, there.cpu().device.type) == ("cuda", "cpu")
        assert waits == ["to the host"]
        row = torch.ones(2, requires_grad=True)
        (row.to("cuda") * there).sum().backward()
        assert row.grad is not None
        assert not isinstance(row.grad, OnGpu)
        assert placed(there) is there
