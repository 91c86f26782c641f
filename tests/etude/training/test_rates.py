"""Which learning rate moves what."""

from __future__ import annotations

import torch

from etude.training.rates import groups


def test_text_encoders_learn_at_their_share_of_the_rate() -> None:
    unet, text = torch.zeros(1), torch.ones(1)
    own, others = groups({"unet.a": unet, "text_encoder_2.a": text}, 0.25)
    assert (own.parameters, own.rate) == ({"unet.a": unet}, 1.0)
    assert (others.parameters, others.rate) == ({"text_encoder_2.a": text}, 0.25)


def test_there_is_no_empty_group() -> None:
    assert len(groups({"unet.a": torch.zeros(1)}, 0.25)) == 1
