"""Class images: drawn once, kept under all that they depend on, encoded as *encode* encodes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from etude.base.latents import encode_images
from etude.base.loading import load_base
from etude.base.settings import ClassImages, Text
from etude.base.text import encode_prompts
from etude.core.errors import InputError, OutOfMemoryError
from etude.core.files import sha256_tree
from etude.core.params import pick
from etude.core.store import key
from etude.diffusion.sample import generate
from etude.training.batches import Batches, load_images
from etude.training.prior import load_prior, pairs
from tasks.class_images import StageParams, batches, class_images
from tasks.class_images import _context as context
from tests.tasks.learning import change, make_project, write_yaml

SAMPLING = {"sampler": "ddim", "steps": 2, "guidance": 2.0, "negative": "", "clip_skip": 0}
ASKED = {"prompts": ["bear", "a bear"], "count": 5, "seed": 7, "batch_size": 2, "real": []} | SAMPLING
OUT = Path("artifacts/dreambooth/class_images")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A project whose class images were drawn. Read only."""
    folder = make_project(
        tmp_path_factory.mktemp("class"), tiny_base, "dreambooth", name="sks bear", class_images=ASKED
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        class_images("dreambooth")
    return folder


@pytest.fixture
def project(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(drawn, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def ask(prior_weight: float = 1.0, **changes: Any) -> None:
    own = {"class_images": ASKED | changes, "prior_weight": prior_weight}
    write_yaml(Path("pipelines/dreambooth/params.yaml"), own)


def set_base(path: str) -> None:
    change(Path("params.yaml"), base=path)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.strip().splitlines()[-1].rpartition(": ")[2]


def test_prompts_take_turns_and_every_picture_has_a_seed_of_its_own() -> None:
    asked = ClassImages(**ASKED)
    assert [(prompt, list(numbers)) for prompt, numbers in batches(asked)] == [
        ("bear", [0, 2]),
        ("bear", [4]),
        ("a bear", [1, 3]),
    ]


@pytest.mark.usefixtures("project")
def test_the_out_holds_what_the_base_draws_its_moments_and_the_states_of_its_text(tiny_base: Path) -> None:
    base = load_base(tiny_base)
    expected = generate(base, ["a bear"] * 2, seeds=[8, 10], **SAMPLING)
    prior = load_prior(OUT, [])
    assert prior.images.names == tuple(f"drawn/{number:05d}" for number in range(5))
    for name, pixels in zip(("00001", "00003"), expected, strict=True):
        with Image.open(OUT / f"drawn/pictures/{name}.png") as picture:
            assert np.array_equal(np.asarray(picture), pixels.numpy())
        place = prior.images.names.index(f"drawn/{name}")
        mean, logvar = encode_images(base, pixels[None])
        torch.testing.assert_close(prior.images.mean[place], mean[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(prior.images.logvar[place], logvar[0], rtol=0, atol=1e-5)
        assert prior.captions.texts[f"drawn/{name}"] == "a bear"
        states = prior.captions.conditioning[f"drawn/{name}"].hidden
        torch.testing.assert_close(states, encode_prompts(base, ["a bear"]).hidden, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("project")
def test_nothing_is_drawn_again_and_a_lost_store_gives_the_same_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    before = sha256_tree(OUT)
    shutil.rmtree("artifacts")
    class_images("dreambooth")
    assert said(capsys) == "0 drawn, 5 from cache"
    shutil.rmtree(".cache")
    class_images("dreambooth")
    assert said(capsys) == "5 drawn, 0 from cache"
    assert sha256_tree(OUT) == before


@pytest.mark.usefixtures("project")
def test_a_batch_of_which_one_picture_is_lost_is_drawn_again_whole_and_is_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before, lost = sha256_tree(OUT), (OUT / "drawn/pictures/00003.png").read_bytes()
    (kept,) = (path for path in Path(".cache/class_images").rglob("*.png") if path.read_bytes() == lost)
    kept.unlink()
    class_images("dreambooth")
    assert said(capsys) == "2 drawn, 3 from cache"
    assert sha256_tree(OUT) == before


@pytest.mark.usefixtures("project")
def test_where_memory_does_not_suffice_for_a_batch_its_size_and_what_to_lower_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    ask(seed=8)
    monkeypatch.setattr("etude.diffusion.sample.generate", full)
    with pytest.raises(
        OutOfMemoryError, match=r"drawing 2 class images at once: .*Next: lower `class_images\.batch_size`"
    ):
        class_images("dreambooth")


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"seed": 8}, "5 drawn, 0 from cache"),
        ({"steps": 3}, "5 drawn, 0 from cache"),
        ({"prompts": ["bear", "red bear"]}, "2 drawn, 3 from cache"),
        ({"count": 4}, "0 drawn, 4 from cache"),
        ({"count": 6}, "1 drawn, 5 from cache"),
    ],
)
def test_what_is_asked_otherwise_is_drawn_anew_however_many_files_there_are(
    change: dict[str, Any], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(**change)
    class_images("dreambooth")
    assert said(capsys) == expected


@pytest.mark.usefixtures("project")
def test_what_other_weights_code_libraries_or_settings_would_draw_is_not_taken_from_the_cache(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage_params = pick("params.yaml", StageParams)
    contexts = [key(context(stage_params.model_copy(update=other))) for other in ({}, {"threads": 2})]
    contexts.append(key(context(stage_params.model_copy(update={"precision": "bf16"}))))
    contexts.append(
        key(context(stage_params.model_copy(update={"text": Text(chunks=2, rule="kohya", emphasis="none")})))
    )
    for place in ("etude.base.digest.part_digest", "tasks.class_images.code_digests", "tasks.class_images.versions"):
        with monkeypatch.context() as patch:
            patch.setattr(place, lambda *_: "other")
            contexts.append(key(context(stage_params)))
    assert len(set(contexts)) == 7
    monkeypatch.setattr("tasks.class_images.versions", lambda *_: {"torch": "0.0"})
    class_images("dreambooth")
    assert said(capsys) == "5 drawn, 0 from cache"


@pytest.mark.usefixtures("project")
def test_real_pictures_of_the_class_are_used_with_their_captions() -> None:
    class_images("dreambooth", real="concept")
    assert sha256_tree(OUT / "concept/latents") == sha256_tree("data/concept/latents")
    prior = load_prior(OUT, ["concept"])
    assert [name for name in prior.images.names if not name.startswith("drawn/")] == [
        "concept/a",
        "concept/b",
        "concept/c",
    ]
    assert prior.captions.texts["concept/b"] == "flat otter"


@pytest.mark.usefixtures("project")
def test_the_copy_of_a_set_that_is_no_longer_asked_for_goes() -> None:
    ask(count=0, prompts=[], real=["concept"])
    for name, stays in (("concept", True), ("former", False), (".half", True)):
        (OUT / name / "latents").mkdir(parents=True)
        class_images("dreambooth")
        assert (OUT / name).exists() == stays


@pytest.mark.usefixtures("project")
def test_no_picture_at_all_is_an_error_where_one_is_asked_for_and_real_ones_suffice(
    tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(count=0, prompts=[])
    set_base("models/none")  # nothing is loaded, the base neither
    class_images("dreambooth")
    assert capsys.readouterr().out == "dreambooth: no class images are drawn\n"
    own, base = Batches(load_images("data/concept/latents"), None, batch_size=2, seed=0), load_base(tiny_base)
    nothing = load_prior(OUT, [])
    with pytest.raises(InputError, match="contain no pictures of the class.*`prior_weight: 0`"):
        pairs(own, nothing, base, batch_size=2, clip_skip=0, folder=Path("texts"))
    assert pairs(own, nothing, base, batch_size=0, clip_skip=0, folder=Path("texts"))(0).prior is None
    class_images("dreambooth", real="concept")
    assert len(load_prior(OUT, ["concept"]).images.names) == 3


@pytest.mark.usefixtures("project")
def test_nothing_is_drawn_where_it_would_have_no_weight(capsys: pytest.CaptureFixture[str]) -> None:
    ask(prior_weight=0.0)
    set_base("models/none")  # nothing is loaded, the base neither
    class_images("dreambooth")
    assert "no class images are drawn: `prior_weight` is 0" in capsys.readouterr().out
    assert not load_prior(OUT, []).images.names
