"""What a method declares of its params is known to whoever fetches its models."""

from __future__ import annotations

from etude.core.mixins import Models, OwnBase
from etude.core.params import MethodParams


class OnItsOwnBase(OwnBase, MethodParams):
    """A method with another base."""


class MadeOfModels(Models, MethodParams):
    """A method that is made from other models."""


def test_an_own_base_and_other_models_are_sources_of_a_method_that_says_no_more() -> None:
    assert OnItsOwnBase.model_construct(base="models/x").sources() == {"base": "models/x"}
    assert MadeOfModels.model_construct(models={"a": "models/a"}).sources() == {"models.a": "models/a"}
