"""The precision of a training, and what is left out of it."""

from __future__ import annotations

import pytest
import torch

from etude.training.autocast import computing, outside_fp16


@pytest.mark.parametrize(("precision", "within"), [("fp16", torch.float32), ("bf16", torch.bfloat16)])
def test_what_overflows_in_fp16_is_left_out_of_it_and_computed_in_bf16(precision: str, within: torch.dtype) -> None:
    matrix = torch.ones(2, 2)
    with computing("cpu", precision):
        assert (matrix @ matrix).dtype == {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        with outside_fp16("cpu"):
            assert (matrix @ matrix).dtype == within
        assert (matrix @ matrix).dtype != torch.float32
