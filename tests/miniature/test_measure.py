"""What the miniature is put to, on a tiny base and on pictures drawn from the icons in the repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from etude.core.errors import InputError
from etude.core.files import write_json
from etude.core.params import pick
from miniature import classifier, kept, measure, table, trials
from miniature.draws import randomiser
from miniature.render import Render
from miniature.world import FOLDER, Pictures, World, read_world
from tests.classifying import write_classifier


@pytest.fixture(scope="module")
def world() -> World:
    return read_world()


@pytest.fixture(scope="module")
def few(world: World) -> World:
    """A world of four concepts, one of them held out."""
    concepts = {name: world.concepts[name] for name in [*world.concepts][:3]}
    held_out = {name: world.held_out_concepts[name] for name in [*world.held_out_concepts][:1]}
    return world.model_copy(update={"concepts": concepts, "held_out_concepts": held_out})


@pytest.fixture(scope="module")
def pictures(few: World) -> Pictures:
    return kept.draw_pictures(few, Render(size=64, margin=4))


def test_the_kept_icons_are_all_that_the_world_names(world: World) -> None:
    found = {style: set(kept.read_icons(world.package(style))) for style in (*world.styles, *world.held_out_styles)}
    drawn = set().union(*(found[style] for style in world.styles))
    assert drawn == {*world.concepts, *world.held_out_concepts}
    for style in world.held_out_styles:
        assert found[style] == set(world.firefox)


def test_every_kept_set_has_its_author_and_a_permissive_licence(root: Path) -> None:
    card = (root / kept.ICONS / "README.md").read_text(encoding="utf-8")
    assert card.count("MIT](https") + card.count("Apache-2.0](https") + card.count("CC-BY-4.0](https") == 7 + 1
    assert "Microsoft Corporation" in (root / kept.ICONS / "LICENSE-MIT.txt").read_text(encoding="utf-8")
    assert "Version 2.0" in (root / kept.ICONS / "LICENSE-Apache-2.0.txt").read_text(encoding="utf-8")


def test_what_the_source_stage_left_is_kept_and_comes_back(tmp_path: Path) -> None:
    record = {"style": "noto", "title": "Noto", "version": "1", "author": "A", "author_url": "u"}
    write_json(tmp_path / "out/sources.json", {"noto": {**record, "licence": "MIT", "licence_url": "l"}})
    icons = {"cat": {"body": "<path/>", "box": [0, 0, 16, 16]}}
    write_json(tmp_path / "out/noto.json", icons)
    kept.keep(tmp_path / "out", tmp_path / "icons")
    assert kept.read_icons("noto", tmp_path / "icons") == icons
    assert "| noto | [Noto](u) 1 | A | [MIT](l) |" in (tmp_path / "icons/README.md").read_text(encoding="utf-8")
    (tmp_path / "icons/noto.json.xz").write_bytes(b"no xz")
    with pytest.raises(InputError, match="damaged"):
        kept.read_icons("noto", tmp_path / "icons")
    with pytest.raises(InputError, match="missing"):
        kept.read_icons("twemoji", tmp_path / "icons")


def test_a_caption_names_what_its_real_picture_shows(few: World, pictures: Pictures) -> None:
    asked = trials.ask(pictures, [*few.concepts] * 20, few, randomiser("test"))
    assert {one.wanted["style"] for one in asked} == set(few.styles)  # never the held-out one
    for one in asked:
        assert one.caption == f"{one.wanted['style']} {one.wanted['concept']} {one.wanted['background']}"
        assert (pictures.style[one.real], pictures.concept[one.real]) == (one.wanted["style"], one.wanted["concept"])
    shown = trials.real_pictures(asked[:12], pictures, few)
    for one, picture in zip(asked, shown, strict=False):
        assert list(picture.getpixel((0, 0))) == few.colours[one.colour]


def test_hits_are_counted_part_by_part_and_what_was_wrong_is_kept(few: World, pictures: Pictures) -> None:
    asked = trials.ask(pictures, [*few.concepts][:2], few, randomiser("test"))
    seen = [dict(asked[0].wanted), {**asked[1].wanted, "concept": "ghost"}]
    assert trials.hits(asked, seen) == {"concept": 0.5, "style": 1.0, "background": 1.0}
    assert trials.confusions(asked, seen) == {asked[1].caption: [["ghost"]]}


def test_new_renderings_are_mirrored_on_colours_that_no_caption_names(few: World, pictures: Pictures) -> None:
    images = trials.new_renderings(pictures, few, randomiser("test"))
    colours = torch.tensor(list(few.colours.values())) / 127.5 - 1
    distances = (images[:, None, :, 0, 0] - colours[None]).abs().amax(dim=2)
    assert distances.min() > 0.02
    assert images.shape == (len(pictures), 3, 64, 64)


@pytest.fixture(scope="module")
def settings() -> measure.Measure:
    chosen = pick(FOLDER / "params.yaml", measure.StageParams).measure
    sampling = chosen.sampling.model_copy(update={"steps": 2})
    return chosen.model_copy(
        update={"captions": 5, "held_out": 2, "batch": 2, "alone": 1, "sampling": sampling, "threads": 1}
    )


def test_everything_is_measured_once_and_again_with_the_same_numbers(
    few: World, pictures: Pictures, settings: measure.Measure, tiny_base: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for part in tiny_base.iterdir():
        (model / part.name).symlink_to(part)
    write_classifier(model / "judge", classifier.labels(few))
    found = measure.measured(model, pictures, few, settings)
    assert found.report == measure.measured(model, pictures, few, settings).report
    assert set(found.report["scores"]) == set(table.ROWS)
    assert set(found.report["real"]) == {"concept", "style", "background", "held_out"}
    assert (found.report["captions"], found.report["held_out"], len(found.shown)) == (5, 2, 5)
    assert found.report["weights"] == table.weights(model)
    assert set(found.seconds) == {"alone", "batch"}
    measure.write(tmp_path / "out", found)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "drawn.png",
        "measured.json",
        "table.md",
        "wrong.json",
    }
    assert " s |" not in (tmp_path / "out/table.md").read_text(encoding="utf-8")  # no seconds in an out


def report(**scores: float) -> dict[str, Any]:
    told = dict.fromkeys(table.ROWS, 0.8) | {"vae_psnr": 26.5, "held_out": 0.02} | scores
    real = {"concept": 0.97, "style": 0.99, "background": 1.0, "held_out": 0.9}
    sampling = {"steps": 20, "sampler": "dpm++", "guidance": 4.0}
    return {"scores": told, "real": real, "captions": 500, "held_out": 90, "seed": 1, "sampling": sampling}


def test_the_table_says_which_bars_are_cleared() -> None:
    bars = pick(FOLDER / "params.yaml", measure.StageParams).measure.bars
    lines = table.markdown(report(concept=0.55), bars, {"alone": 1.2, "batch": 0.9}).splitlines()
    assert "| autoencoder, PSNR on concepts it has not seen | 26.50 dB | – | ≥ 26.00 dB | yes |" in lines
    assert "| drawn: concept | 55.0 % ± 2.2 | 97.0 % | ≥ 60.0 % | no |" in lines
    assert "| held-out concepts by name: concept | 2.0 % ± 1.5 | 90.0 % | ≤ 5.0 % | yes |" in lines
    assert "| one picture alone | 1.20 s | – | ≤ 1.5 s | yes |" in lines
    assert "| a picture in batches | 0.90 s | – | ≤ 0.8 s | no |" in lines


def test_a_card_takes_what_was_measured_of_its_own_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bars = table.Bars(
        vae_psnr=26.0, retrieval=0.75, concept=0.6, style=0.85, background=0.95, held_out=0.05, alone=1.5, batch=0.8
    )
    write_json(Path("model/vae/config.json"), {})
    write_json(table.LOGS / "measured.json", {**report(), "weights": table.weights(Path("model"))})
    told = table.of_model(Path("model"), bars)
    assert "80.0 %" in told
    assert "500 random captions" in told
    write_json(Path("model/vae/config.json"), {"another": 1})
    assert table.of_model(Path("model"), bars).startswith("Not measured yet")
