from pathlib import Path

from etude.memory.footprint import Footprint, Setup


def test_the_peak_is_that_of_the_start_of_a_step_or_of_a_preview() -> None:
    stays = {"weights": 100, "learned": 20, "optimizer": 3}
    assert Footprint(**stays).stays == 123
    assert Footprint(**stays, gradients=7, activations=50, previews=40).peak == 180
    assert Footprint(**stays, gradients=7, activations=50, previews=60).peak == 183
    assert Footprint(**stays, gradients=7, activations=50, previews=60, start=200).peak == 200


def test_weights_in_prompts_need_no_memory() -> None:
    reading = Setup(Path("base"), "sd1", 512, "fp32", chunks=3, rule="kohya").reading
    assert (reading.chunks, reading.rule, reading.emphasis) == (3, "kohya", "none")
