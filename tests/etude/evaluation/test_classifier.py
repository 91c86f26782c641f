from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from etude.core.errors import EtudeError
from etude.core.files import read_json, write_json
from etude.core.tensors import read_tensors, write_tensors
from etude.evaluation.classifier import Classifier
from etude.evaluation.network import Network
from tests.classifying import write_classifier


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return Classifier(write_classifier(tmp_path_factory.mktemp("classifier")), device="cpu")


def test_a_caption_is_read_longest_phrase_first(classifier: Classifier) -> None:
    assert classifier.read_labels("noto otter on an orange background") == {
        "concept": "otter",
        "style": "noto",
        "background": "on an orange background",
    }
    assert classifier.read_labels("a Sea Otter") == {"concept": "sea otter"}
    assert classifier.read_labels("flat orange on a red background")["concept"] == "orange"
    assert classifier.read_labels("caterpillar, flatly drawn") == {}
    assert "concept" not in classifier.read_labels("on an orange background, on an orange background")


def test_a_picture_gets_the_likeliest_label_of_every_part(classifier: Classifier) -> None:
    picture = Image.radial_gradient("L").convert("RGB").resize((48, 32))
    named = classifier.classify(picture)
    weights = {name: value.float() for name, value in read_tensors(classifier.folder / "model.safetensors")[0].items()}
    counts = {part: len(known) for part, known in classifier.config.labels.items()}
    network = Network([8, 16], 1, 2, 2, 4, {"style": "concept"}, counts)
    network.load_state_dict(weights)
    with torch.inference_mode():
        logits = network(classifier.pixels(picture))
    assert set(named) == {"concept", "style", "background"}
    for part, row in logits.items():
        assert named[part] == classifier.config.labels[part][int(row[0].argmax())]


def test_a_given_part_is_weighed_by_how_likely_the_other_is(classifier: Classifier) -> None:
    noise = torch.rand(2, 3, 32, 32) * 2 - 1
    network = classifier._network
    told = network(noise)
    concepts = torch.softmax(told["concept"].double(), dim=1)
    known = [network(noise, {"concept": torch.full((2,), number)})["style"] for number in range(concepts.shape[1])]
    by_hand = sum(concepts[:, n, None] * torch.softmax(each.double(), dim=1) for n, each in enumerate(known))
    assert torch.allclose(told["style"].double().exp(), by_hand, atol=1e-6)
    assert not torch.allclose(known[0], known[1], atol=1e-3)  # each concept has styles of its own


def test_a_picture_of_any_size_is_seen_at_the_classifiers_size(classifier: Classifier) -> None:
    pixels = classifier.pixels(Image.new("RGB", (300, 200), (255, 0, 128)))
    assert pixels.shape == (1, 3, 32, 32)
    assert pixels[0, :, 5, 5].tolist() == pytest.approx([1.0, -1.0, 128 / 127.5 - 1], abs=1e-6)


def test_an_answer_does_not_depend_on_the_pictures_beside_it(classifier: Classifier) -> None:
    noise = torch.rand(3, 3, 32, 32) * 2 - 1
    alone, beside = classifier._network(noise[:1]), classifier._network(noise)
    for part in alone:
        assert torch.allclose(alone[part], beside[part][:1], atol=1e-5)


def test_a_folder_without_a_classifier_is_an_error_that_names_the_parameter(tmp_path: Path) -> None:
    with pytest.raises(EtudeError, match=r"evaluate\.classifier"):
        Classifier(tmp_path, device="cpu")


def test_a_damaged_configuration_is_named(classifier: Classifier, tmp_path: Path) -> None:
    config = read_json(classifier.folder / "config.json")
    write_json(tmp_path / "config.json", {**config, "size": "large"})
    with pytest.raises(EtudeError, match=r"config\.json.*size"):
        Classifier(tmp_path, device="cpu")


def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path) -> None:
    file = write_classifier(tmp_path) / "model.safetensors"
    tensors = read_tensors(file)[0]
    name = min(tensors)
    write_tensors(file, tensors | {name: torch.full_like(tensors[name], torch.nan)})
    with pytest.raises(EtudeError, match=f"`{name}` holds numbers that are not finite"):
        Classifier(tmp_path, device="cpu").classify(Image.new("RGB", (8, 8)))
