"""The miniature's classifier: what it is shown, what it answers, and the folder that the evaluation opens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from etude.core.params import pick
from etude.evaluation.classifier import Classifier
from etude.training.fit import fit
from etude.training.report import Report
from miniature import classifier, softness, vae
from miniature.classifier import Classifier as Settings
from miniature.draws import randomiser
from miniature.world import FOLDER, Pictures, World, read_world


@pytest.fixture(scope="module")
def world() -> World:
    return read_world()


@pytest.fixture(scope="module")
def settings() -> Settings:
    chosen = pick(FOLDER / "params.yaml", classifier.StageParams).classifier
    return chosen.model_copy(update={"widths": [8, 16], "blocks": 1, "groups": 2, "grid": 2, "rank": 4})


def squares(world: World) -> Pictures:
    """A square of one colour for a concept, sharp and in the middle, in two styles."""
    styles = [*world.styles][:2]
    concepts = [*world.concepts][:3]
    rgba = torch.zeros(6, 4, 32, 32, dtype=torch.uint8)
    for number in range(6):
        rgba[number, number // 2, 8:24, 8:24] = 255
        rgba[number, 3, 8 + 4 * (number % 2) : 24, 8:24] = 255
    return Pictures(rgba, [styles[n % 2] for n in range(6)], [concepts[n // 2] for n in range(6)])


def test_the_classifier_alone_knows_what_is_held_out(world: World) -> None:
    known = classifier.labels(world)
    assert set(world.held_out_concepts) < set(known["concept"])
    assert set(world.held_out_styles) < set(known["style"])
    assert "on an orange background" in known["background"]
    assert all(len(set(labels)) == len(labels) for labels in known.values())


def test_a_published_classifier_is_small(world: World) -> None:
    chosen = pick(FOLDER / "params.yaml", classifier.StageParams).classifier
    with torch.device("meta"):
        network = classifier.build_network(chosen, world)
    assert 2 * sum(tensor.numel() for tensor in network.state_dict().values()) < 4e6  # bytes in float16


def test_labels_belong_to_their_pictures_and_any_colour_has_none(world: World, settings: Settings) -> None:
    how = {"free_colours": 0.5, "moved": 0.0, "tint": 0.0, "zoom": 1.0, "turn": 0.0, "shift": 0.0}
    plain = settings.model_copy(
        update={"distortion": settings.distortion.model_copy(update=how), "shade": 0.0},
    )
    pictures = squares(world)
    shown = classifier.show(pictures, [0, 2, 5] * 20, world, plain, randomiser("test"))
    assert shown.labels["concept"].tolist() == [0, 1, 2] * 20
    assert shown.labels["style"].tolist() == [0, 0, 1] * 20
    colours = torch.tensor(list(world.colours.values())) / 127.5 - 1
    for image, number in zip(shown.images, shown.labels["background"].tolist(), strict=True):
        corner = image[:, 0, 0]
        distance = (colours - corner).abs().amax(dim=1)
        assert (number == classifier.UNKNOWN) if distance.min() > 1e-5 else (number == int(distance.argmin()))
    assert 0 < sum(shown.labels["background"] == classifier.UNKNOWN) < 60


def test_a_blur_is_the_gaussian_of_its_width() -> None:
    images = torch.zeros(2, 3, 15, 15)
    images[:, :, 7, 7] = 1
    made = softness.blur(images, [1.2, 0.0])
    places = torch.arange(-3, 4).float()
    line = torch.exp(-places.square() / (2 * 1.2**2))
    wanted = torch.outer(line, line) / line.sum() ** 2
    assert torch.allclose(made[0, 1, 4:11, 4:11], wanted, atol=1e-6)
    assert torch.allclose(made[1], images[1], atol=1e-6)
    flat = torch.full((1, 3, 9, 9), 0.3)
    assert torch.allclose(softness.blur(flat, [2.0]), flat, atol=1e-6)  # plain backgrounds stay, to the edge


def test_a_share_of_the_pictures_goes_through_the_autoencoder(settings: Settings) -> None:
    torch.manual_seed(0)
    coder = vae.build_vae([8, 8, 8, 8], 2, 32).eval()
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    how = softness.Softness(blur=0.0, noise=0.0, reconstructed=0.25, latent_noise=0.0)
    made = softness.soften(images, coder, how, randomiser("test"))
    assert torch.allclose(made[1:], images[1:], atol=1e-6)
    assert (made[0] - images[0]).abs().mean() > 0.1  # an untrained one gives back something else
    again = softness.soften(images, coder, settings.softness, randomiser("test"))
    assert torch.equal(again, softness.soften(images, coder, settings.softness, randomiser("test")))
    assert again.abs().max() <= 1


def train(settings: Settings, world: World, folder: Path, steps: int, stop: int | None = None) -> classifier.Network:
    pictures = squares(world)
    rhythm = {"steps": steps, "warmup_steps": 0, "resume_every": 2, "log_every": 50, "batch_size": 6}
    plan = settings.training.model_copy(update=rhythm)
    torch.manual_seed(0)
    network = classifier.build_network(settings, world)

    def batches(step: int) -> classifier.Shown:
        if step == stop:
            raise KeyboardInterrupt
        return classifier.show(pictures, range(6), world, settings, randomiser("train", step))

    def loss(batch: classifier.Shown) -> torch.Tensor:
        return classifier.naming_loss(network, batch, 0.0)

    fit(dict(network.named_parameters()), loss, batches, plan, Report(folder, 0, "cpu", "fp32"))
    return network.eval()


def test_a_killed_training_ends_with_the_same_bits(settings: Settings, world: World, tmp_path: Path) -> None:
    whole = train(settings, world, tmp_path / "whole", 4)
    with pytest.raises(KeyboardInterrupt):
        train(settings, world, tmp_path / "killed", 4, stop=3)
    resumed = train(settings, world, tmp_path / "killed", 4)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_the_evaluation_opens_what_it_saves(settings: Settings, world: World, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = classifier.build_network(settings, world).half().float().eval()
    classifier.save_classifier(tmp_path, network, settings, world, 32)
    opened = Classifier(tmp_path, device="cpu")
    for rgba in squares(world).rgba[::2]:
        picture = Image.fromarray(rgba[:3].permute(1, 2, 0).numpy())
        logits = network(opened.pixels(picture))
        assert opened.classify(picture) == {
            part: known[int(logits[part].argmax())] for part, known in classifier.labels(world).items()
        }


def test_real_pictures_are_counted_part_by_part(world: World, settings: Settings) -> None:
    torch.manual_seed(0)
    coder = vae.build_vae([8, 8, 8, 8], 2, 32).eval()
    pictures = squares(world)

    class Always(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            counts = {part: len(known) for part, known in classifier.labels(world).items()}
            return {part: torch.eye(count)[:1].repeat(len(images), 1) for part, count in counts.items()}

    found = classifier.measure(Always(), coder, pictures, world)  # type: ignore[arg-type]
    assert found["concept"] == found["concept_reconstructed"] == pytest.approx(1 / 3, abs=1e-4)
    assert found["style"] == 0.5
    assert found["background"] == pytest.approx(1 / 6, abs=1e-4)
    assert "concept_held_out" not in found
