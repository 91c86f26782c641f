"""Several image sets of one run."""

from __future__ import annotations

from pathlib import Path

import pytest

from etude.core.errors import InputError, ParamsError, StaleError
from etude.core.files import write_json
from etude.training.sets import Place, further_places, recorded, refuse_changed_sets
from tests.pipelines.learning import params_of

FURTHER = params_of("lora", repeats=2, further_sets={"studio": 1, "street": 3})


def test_the_pictures_of_a_further_set_have_its_name_before_theirs_and_count_as_often_as_it_says() -> None:
    assert further_places(FURTHER, "latents") == [
        Place("studio/", Path("data/studio/latents"), 1),
        Place("street/", Path("data/street/latents"), 3),
    ]
    assert further_places(params_of("lora"), "latents") == further_places(params_of("model_merge"), "texts") == []
    assert FURTHER.image_sets() == ["concept", "studio", "street"]


def test_a_build_knows_what_further_sets_held_and_refuses_others(tmp_path: Path) -> None:
    write_json(tmp_path / "studio.json", {"data/studio/latents": "1"})
    with pytest.raises(InputError, match=r"street.json: is missing. Next: .* further_set@street runs"):
        recorded(FURTHER, tmp_path)
    write_json(tmp_path / "street.json", {"data/street/latents": "2"})
    records = recorded(FURTHER, tmp_path)
    assert records == {"data/studio/latents": "1", "data/street/latents": "2"}
    refuse_changed_sets(records, records | {"data/concept/latents": "5"})
    with pytest.raises(StaleError, match="data/street/latents: has changed since"):
        refuse_changed_sets(records, records | {"data/street/latents": "3"})
    assert recorded(params_of("lora"), tmp_path) == {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"repeats": 2, "further_sets": {}}, "`repeats` 2 has no effect without `further_sets`"),
        ({"further_sets": {"concept": 1}}, "`further_sets` has `concept`, which is already `set`"),
    ],
)
def test_repeats_that_mean_nothing_and_a_set_twice_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ParamsError, match=said):
        params_of("lora", **changes)
