"""The switches that save memory: each is offered while it is off, and changes what it says."""

from __future__ import annotations

from typing import Any

from etude.training.switches import RESUMING, advice, switches
from tests.pipelines.learning import params_of


def offered(method: str, precision: str = "bf16", training: dict[str, Any] | None = None, **changes: Any) -> list[str]:
    return [next(iter(switch.change)) for switch in switches(params_of(method, training, **changes), precision)]


def test_a_switch_is_offered_until_it_is_on() -> None:
    params = params_of("dreambooth", {"batch_size": 4, "accumulation": 2, "ema": 0.0})
    params = params.model_copy(update={"preview": params.preview.model_copy(update={"seeds": [5, 6]})})  # type: ignore[attr-defined]
    keys = []
    while switch := next(switches(params, "bf16"), None):
        keys.append(next(iter(switch.change)))
        params = switch.applied(params)
    first = ["recompute", "base_precision", "training.batch_size", "training.optimizer.kind", "preview.seeds"]
    assert keys == [*first, "trained_precision"]
    values: Any = params
    assert (values.training.batch_size, values.training.accumulation) == (1, 8)
    assert (values.base_precision, values.preview.seeds) == ("bf16", [5])


def test_what_another_setting_excludes_is_not_offered() -> None:
    one = {"batch_size": 1, "accumulation": 1, "clip": 1.0, "ema": 0.9}
    assert "gradient_release" in offered("dreambooth", training=one)
    assert "trained_precision" not in offered("dreambooth", training=one, base_precision="bf16")
    assert "gradient_release" not in offered("dreambooth", "fp16", one)
    assert "gradient_release" not in offered("dreambooth", training={"accumulation": 2})
    released = {"batch_size": 4, "accumulation": 1, "clip": 0.0}
    assert "training.batch_size" not in offered("dreambooth", training=released, gradient_release=True)


def test_weights_in_half_are_offered_where_the_project_computes_in_half() -> None:
    assert "base_precision" in offered("lora", "fp16")
    assert "base_precision" not in offered("lora", "fp32")
    assert offered("null_text_inversion", "bf16") == ["recompute", "base_precision"]
    assert offered("aesthetic_gradient") == offered("model_merge") == []


def test_the_advice_is_the_next_switch_and_whether_the_run_goes_on_with_it() -> None:
    first = advice(params_of("lora"), "bf16")
    assert first.startswith("write `recompute: true` (")
    assert first.endswith("the same command goes on from the last saved state")
    assert "recompute" in RESUMING
    second = advice(params_of("lora", recompute=True), "bf16")
    assert "or write `base_precision: bf16` (frozen weights in half), with which the run starts again" in second
    last = advice(params_of("model_merge"), "bf16")
    assert last.startswith("close what else uses the device, and the same command goes on")
    assert "lower the resolutions of `prepare`" in last
