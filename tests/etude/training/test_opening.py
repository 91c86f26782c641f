"""What is loaded of a base for a build, and in which precision."""

from __future__ import annotations

from typing import Any

import pytest

from etude.training.opening import opening
from tests.pipelines.learning import params_of


def params(method: str, previews: bool = False, **changes: Any) -> Any:
    made: Any = params_of(method, **changes)
    if not previews and hasattr(made, "preview"):
        return made.model_copy(update={"preview": made.preview.model_copy(update={"seeds": []})})
    return made


def test_previews_need_all_parts_of_a_base_and_what_no_step_uses_waits() -> None:
    frozen, drawing = opening(params("lora", text_encoder_rate=0.0)), opening(params("lora", previews=True))
    assert "vae" not in frozen.parts
    assert set(drawing.parts) == {"unet", "vae", "text"}
    assert set(frozen.waiting) == {"text"}
    assert set(opening(params("lora", text_encoder_rate=0.5)).waiting) == set()
    assert "vae" in drawing.waiting


@pytest.mark.parametrize(("trained", "wide"), [("fp32", True), ("bf16", False)])
def test_weights_that_are_trained_are_wide_in_a_base_of_half_precision_unless_they_are_rounded(
    trained: str, wide: bool
) -> None:
    switches = {"base_precision": "bf16", "trained_precision": trained}
    how = opening(params_of("fine_tuning", {"ema": 0.0}, **switches))
    assert how.precision == "bf16"
    assert how.wide("unet.conv_in.weight") is wide
    assert not opening(params("lora", base_precision="bf16")).wide("unet.conv_in.weight")


def test_recomputing_is_on_where_it_is_asked_for_and_a_method_without_the_switch_is_in_float32() -> None:
    assert opening(params("lora", recompute=True)).recompute
    assert not opening(params("lora")).recompute
    assert opening(params("aesthetic_gradient")).precision == "fp32"
