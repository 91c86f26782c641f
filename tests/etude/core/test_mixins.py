"""What a method declares of its params is known to whoever fetches its models."""

from __future__ import annotations

from pathlib import Path

import pytest

from etude.core.mixins import Models, OwnBase, TrainsText, TrainsWeights, base_of, models_of
from etude.core.params import MethodParams


class OnItsOwnBase(OwnBase, MethodParams):
    """A method with another base."""


class MadeOfModels(Models, MethodParams):
    """A method that is made from other models."""


class OfLayers(TrainsText, MethodParams):
    """A method that trains layers of its own."""


class OfWeights(TrainsWeights, MethodParams):
    """A method that trains the base's weights."""


@pytest.mark.parametrize("kind", [OfLayers, OfWeights])
def test_text_encoders_are_in_a_step_only_if_they_are_trained(kind: type[OfLayers]) -> None:
    assert kind.model_construct(text_encoder_rate=0.0).step_parts == ("unet",)
    assert kind.model_construct(text_encoder_rate=0.5).step_parts == ("unet", "text")


def test_weights_of_text_encoders_are_trained_if_their_rate_is_above_0() -> None:
    weights = ("unet.conv_in.weight", "text_encoder.a", "text_encoder_2.a", "vae.a")
    for rate, trained in ((0.0, 1), (0.5, 3)):
        params = OfWeights.model_construct(text_encoder_rate=rate)
        assert [params.trains(weight) for weight in weights] == [True] * trained + [False] * (4 - trained)


def test_a_method_that_declares_no_more_trains_no_weight_of_the_base_and_reads_its_own_set() -> None:
    params = MethodParams(set="owls", name="owl", trigger=True, export="best")
    assert not params.trains("unet.conv_in.weight")
    assert params.base_parts == params.step_parts == ("unet", "text")
    assert (params.image_sets(), params.sources(), params.class_word) == (["owls"], {}, "")
    assert params.recipe() == {"set": "owls", "name": "owl", "trigger": True}
    assert params.pointed("dogs", "rex", "dog") == {"set": "dogs", "name": "rex"}
    assert not MethodParams.needs_class
    assert base_of(params, "models/shared") == Path("models/shared")
    assert base_of(OnItsOwnBase.model_construct(base="models/x"), "models/shared") == Path("models/x")
    assert models_of(params) == {}
    assert models_of(MadeOfModels.model_construct(models={"a": "models/a"})) == {"a": "models/a"}


def test_an_own_base_and_other_models_are_sources_of_a_method_that_says_no_more() -> None:
    assert OnItsOwnBase.model_construct(base="models/x").sources() == {"base": "models/x"}
    assert MadeOfModels.model_construct(models={"a": "models/a"}).sources() == {"models.a": "models/a"}
