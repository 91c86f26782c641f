from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from etude.core.errors import EtudeError
from etude.core.files import read_json, read_tensors, write_json
from etude.evaluation.judge import Judge
from etude.evaluation.network import Network
from tests.judging import write_judge


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    return Judge(write_judge(tmp_path_factory.mktemp("judge")), device="cpu")


def test_a_caption_is_read_longest_phrase_first(judge: Judge) -> None:
    assert judge.read("noto otter on an orange background") == {
        "concept": "otter",
        "style": "noto",
        "background": "on an orange background",
    }
    assert judge.read("a Sea Otter") == {"concept": "sea otter"}
    assert judge.read("flat orange on a red background")["concept"] == "orange"
    assert judge.read("caterpillar, flatly drawn") == {}


def test_a_picture_gets_the_likeliest_label_of_every_part(judge: Judge) -> None:
    picture = Image.radial_gradient("L").convert("RGB").resize((48, 32))
    named = judge.name(picture)
    weights = {name: value.float() for name, value in read_tensors(judge.folder / "model.safetensors")[0].items()}
    counts = {part: len(known) for part, known in judge.config.labels.items()}
    network = Network([8, 16], 1, 2, 2, 4, {"style": "concept"}, counts)
    network.load_state_dict(weights)
    with torch.inference_mode():
        logits = network(judge.pixels(picture))
    assert set(named) == {"concept", "style", "background"}
    for part, row in logits.items():
        assert named[part] == judge.config.labels[part][int(row[0].argmax())]


def test_a_given_part_is_weighed_by_how_likely_the_other_is(judge: Judge) -> None:
    noise = torch.rand(2, 3, 32, 32) * 2 - 1
    network = judge._network
    told = network(noise)
    concepts = torch.softmax(told["concept"].double(), dim=1)
    known = [network(noise, {"concept": torch.full((2,), number)})["style"] for number in range(concepts.shape[1])]
    by_hand = sum(concepts[:, n, None] * torch.softmax(each.double(), dim=1) for n, each in enumerate(known))
    assert torch.allclose(told["style"].double().exp(), by_hand, atol=1e-6)
    assert not torch.allclose(known[0], known[1], atol=1e-3)  # each concept has styles of its own


def test_a_picture_of_any_size_is_seen_at_the_judges_size(judge: Judge) -> None:
    pixels = judge.pixels(Image.new("RGB", (300, 200), (255, 0, 128)))
    assert pixels.shape == (1, 3, 32, 32)
    assert pixels[0, :, 5, 5].tolist() == pytest.approx([1.0, -1.0, 128 / 127.5 - 1], abs=1e-6)


def test_an_answer_does_not_depend_on_the_pictures_beside_it(judge: Judge) -> None:
    noise = torch.rand(3, 3, 32, 32) * 2 - 1
    alone, beside = judge._network(noise[:1]), judge._network(noise)
    for part in alone:
        assert torch.allclose(alone[part], beside[part][:1], atol=1e-5)


def test_a_folder_without_a_judge_is_an_error_that_names_the_parameter(tmp_path: Path) -> None:
    with pytest.raises(EtudeError, match=r"evaluate\.judge"):
        Judge(tmp_path, device="cpu")


def test_a_damaged_configuration_is_named(judge: Judge, tmp_path: Path) -> None:
    config = read_json(judge.folder / "config.json")
    write_json(tmp_path / "config.json", {**config, "size": "large"})
    with pytest.raises(EtudeError, match=r"config\.json.*size"):
        Judge(tmp_path, device="cpu")
