"""What was learned, as groups for `fit` and as an artifact's tensors."""

from __future__ import annotations

import torch

from etude.training.learned import groups, saved


def test_text_encoders_learn_at_their_share_of_the_rate() -> None:
    unet, text = torch.zeros(1), torch.ones(1)
    own, others = groups({"unet.a": unet, "text_encoder_2.a": text}, 0.25)
    assert (own.parameters, own.rate) == ({"unet.a": unet}, 1.0)
    assert (others.parameters, others.rate) == ({"text_encoder_2.a": text}, 0.25)


def test_there_is_no_empty_group() -> None:
    assert len(groups({"unet.a": torch.zeros(1)}, 0.25)) == 1


def test_what_is_saved_is_a_copy_that_later_steps_leave_alone() -> None:
    weight = torch.tensor([1.0], requires_grad=True)
    made = saved({"w": weight}, "fp32")["w"]
    with torch.no_grad():
        weight.add_(1)
    assert made.item() == 1
    assert not made.requires_grad


def test_it_is_saved_in_the_precision_asked_for() -> None:
    assert saved({"w": torch.zeros(1)}, "bf16")["w"].dtype == torch.bfloat16
