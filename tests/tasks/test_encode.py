import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from etude.core.errors import BaseError, InputError
from etude.core.files import read_json, sha256_tree
from etude.core.shards import Shards, text_entry
from etude.core.tensors import read_tensors, write_tensors
from etude.training.batches import load_images
from tasks import encode as stage
from tasks.caption import caption
from tasks.encode import _sizes, encode
from tasks.prepare import prepare
from tests.tasks.front import change_a_pixel, counts, draw, make_project, set_param

WORDS = ("cat", "dog", "dog", "fox")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A project after its first encoding: four pictures with captions, of which two are equal. Read only."""
    folder = make_project(tmp_path_factory.mktemp("front"), Path("base"))
    shutil.copytree(tiny_base, folder / "base")
    for number in range(len(WORDS)):
        draw(folder / f"raw/{number}.png", number)
        (folder / f"raw/{number}.txt").write_text(f"a {WORDS[number]}", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        front()
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to change; the working directory."""
    shutil.copytree(finished, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def front() -> None:
    prepare("pets")
    caption("pets")
    encode("pets")


def entries_of(kind: str) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of each picture or text in the stage's outs."""
    shards = Shards(("", Path("data/pets", kind)))
    columns = {key: shards.optional(key) for key in ("mean", "logvar", "attention", "hidden")}
    entries = {}
    for position, name in enumerate(shards.names):
        found = {key: column[position] for key, column in columns.items()}
        entries[name] = {key: tensor for key, tensor in found.items() if tensor is not None}
    return entries


def outs() -> tuple[str, str]:
    return sha256_tree("data/pets/latents"), sha256_tree("data/pets/texts")


@pytest.mark.usefixtures("project")
def test_outs_hold_the_moments_of_each_picture_and_the_states_of_each_text(tiny_base: Path) -> None:
    from etude.base.latents import encode_images
    from etude.base.loading import load_base
    from etude.base.text import encode_prompts

    base = load_base(tiny_base, parts=("vae", "text"))
    images = read_json("data/pets/prepared/images.json")["images"]
    latents = entries_of("latents")
    assert set(latents) == set(images)
    for identifier in images:
        with Image.open(f"data/pets/prepared/{identifier}.png") as image:
            mean, logvar = encode_images(base, torch.from_numpy(np.array(image))[None])
        found = latents[identifier]
        torch.testing.assert_close(found, {"mean": mean[0], "logvar": logvar[0]}, rtol=0, atol=1e-5)
        assert found["mean"].dtype == torch.float32
    captions, texts = read_json("data/pets/texts/captions.json"), entries_of("texts")
    assert sorted(captions.values()) == ["a cat", "a dog", "a dog", "a fox"]
    assert set(texts) == {text_entry(text) for text in ("", *captions.values())}
    for text in ("", *captions.values()):
        expected = {"hidden": encode_prompts(base, [text]).hidden[0]}
        torch.testing.assert_close(texts[text_entry(text)], expected, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("project")
def test_nothing_is_encoded_or_even_opened_twice(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*_: object, **__: object) -> None:
        raise AssertionError("the base or a picture was opened")

    before = outs()
    monkeypatch.setattr("etude.base.loading.load_base", opened)
    monkeypatch.setattr(stage, "read_pixels", opened)
    encode("pets")
    assert counts(capsys) == (0, 4, 0, 4)
    assert outs() == before


@pytest.mark.usefixtures("project")
def test_one_changed_pixel_re_encodes_one_picture_and_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    texts = outs()[1]
    change_a_pixel(Path("raw/2.png"))
    front()
    assert counts(capsys) == (1, 3, 0, 4)
    assert len(read_json("data/pets/texts/captions.json")) == 4
    assert outs()[1] != texts  # the picture's id has changed, and captions.json names it


@pytest.mark.usefixtures("project")
def test_one_edited_caption_re_encodes_one_text_and_leaves_the_latents_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    latents = outs()[0]
    Path("raw/3.txt").write_text("a small fox", encoding="utf-8")
    front()
    assert counts(capsys) == (0, 4, 1, 3)
    assert outs()[0] == latents


@pytest.mark.usefixtures("project")
def test_another_vae_re_encodes_all_pictures_and_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    before = outs()
    swap(Path("base/vae/diffusion_pytorch_model.safetensors"), "encoder.conv_in.weight")
    encode("pets")
    assert counts(capsys) == (4, 0, 0, 4)
    assert outs()[0] != before[0]
    assert outs()[1] == before[1]


@pytest.mark.usefixtures("project")
def test_another_text_encoder_re_encodes_all_texts_and_no_picture(capsys: pytest.CaptureFixture[str]) -> None:
    before = outs()
    swap(Path("base/text_encoder/model.safetensors"), "embeddings.token_embedding.weight")
    encode("pets")
    assert counts(capsys) == (0, 4, 4, 0)
    assert outs()[0] == before[0]
    assert outs()[1] != before[1]


@pytest.mark.usefixtures("project")
def test_another_unet_re_encodes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    swap(Path("base/unet/diffusion_pytorch_model.safetensors"), "conv_in.weight")
    encode("pets")
    assert counts(capsys) == (0, 4, 0, 4)


def swap(path: Path, name: str) -> None:
    tensors, metadata = read_tensors(path)
    write_tensors(path, {**tensors, name: tensors[name] * 1.01}, metadata)


@pytest.mark.usefixtures("project")
def test_an_entry_is_the_same_whatever_else_was_missing() -> None:
    alone = outs()
    shutil.rmtree(".cache")
    encode("pets")
    assert outs() == alone
    (Path("raw") / "0.png").unlink()
    front()
    draw(Path("raw/0.png"), 0)
    shutil.rmtree(".cache/latents")
    front()
    assert outs() == alone


@pytest.mark.usefixtures("project")
def test_no_entry_is_flushed_to_disk_as_a_damaged_one_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    encode("pets")
    with_all_entries = len(flushed)
    shutil.rmtree(".cache/latents")
    shutil.rmtree(".cache/texts")
    encode("pets")
    assert len(flushed) == 2 * with_all_entries > 0


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("damage", ["short", "flipped bit", "empty", "no note", "wrong note"])
def test_a_damaged_entry_is_noticed_and_made_again(damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = outs()
    for kind in ("latents", "texts"):
        entry = sorted(Path(".cache", kind).glob("*/*.safetensors"))[0]
        data, note = bytearray(entry.read_bytes()), entry.with_suffix(".sha256")
        if damage == "no note":
            note.unlink()
        elif damage == "wrong note":
            note.write_text("0" * 64)
        else:
            data[-5] ^= 4
            entry.write_bytes({"short": bytes(data[:-9]), "flipped bit": bytes(data), "empty": b""}[damage])
    encode("pets")
    assert counts(capsys) == (1, 3, 1, 3)
    assert outs() == before


@pytest.mark.usefixtures("project")
def test_what_depends_on_other_code_libraries_or_threads_is_encoded_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_param("threads: 1", "threads: 2")
    encode("pets")
    assert counts(capsys) == (4, 0, 4, 0)
    set_param("threads: 2", "threads: 1")
    monkeypatch.setattr("tasks.encode.versions", lambda *_: {"torch": "0.0"})
    encode("pets")
    assert counts(capsys) == (4, 0, 4, 0)
    monkeypatch.setattr("tasks.encode.code_digests", lambda *_: {"etude/base": "other"})
    encode("pets")
    assert counts(capsys) == (4, 0, 4, 0)


@pytest.mark.usefixtures("project")
def test_a_caption_longer_than_the_text_encoder_reads_is_told_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    Path("raw/0.txt").write_text("cat " * 74 + "dog a red Füchschen", encoding="utf-8")
    for _ in range(2):
        front()
        assert "left out 'a red Füchschen' of 'cat cat" in capsys.readouterr().err


@pytest.mark.usefixtures("project")
def test_weights_that_give_no_numbers_are_refused_and_nothing_is_kept() -> None:
    shutil.rmtree(".cache")
    path = Path("base/vae/diffusion_pytorch_model.safetensors")
    tensors, metadata = read_tensors(path)
    before, weight = outs(), tensors["encoder.conv_in.weight"]
    faults = {
        float("nan"): r"`encoder\.conv_in\.weight` holds numbers that are not finite",
        3e38: r"prepared/.*\.png.*not finite",
    }
    for value, fault in faults.items():  # in the file, or only in what it computes
        weight[:] = value
        write_tensors(path, tensors, metadata)
        with pytest.raises(BaseError, match=fault):
            encode("pets")
        assert not list(Path(".cache").glob("latents/*/*"))
        assert outs() == before


@pytest.mark.usefixtures("project")
def test_missing_or_damaged_pictures_are_named() -> None:
    picture = next(Path("data/pets/prepared").glob("*.png"))
    picture.write_bytes(picture.read_bytes()[:99])
    with pytest.raises(InputError, match=picture.name):
        encode("pets")
    shutil.rmtree("data/pets/prepared")
    with pytest.raises(InputError, match="prepared: holds no pictures"):
        encode("pets")


@pytest.mark.slow
def test_killed_at_any_moment_it_leaves_only_whole_entries_and_the_next_run_goes_on(
    project: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(len(WORDS), 24):
        draw(Path(f"raw/{number}.png"), number)
        Path(f"raw/{number}.txt").write_text(f"cat number {number}", encoding="utf-8")
    prepare("pets")
    caption("pets")
    before = outs()
    shutil.rmtree(".cache")
    environment = {**os.environ, "PYTHONPATH": str(root)}
    code = "from tasks.encode import encode; encode('pets')"
    for kind, number in (("latents", 5), ("texts", 10)):
        process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.DEVNULL)
        wait_for(lambda: entries(kind) >= number)  # noqa: B023 - called before the loop goes on
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert Path("data/pets/texts").exists()
    kept = entries("latents"), entries("texts")
    assert outs()[1] == before[1]
    capsys.readouterr()
    encode("pets")
    latents_made, latents_kept, texts_made, texts_kept = counts(capsys)
    assert latents_made == 0
    assert latents_kept == 24
    assert kept[1] - 1 <= texts_kept <= kept[1]  # the last may lack its note
    assert texts_made + texts_kept == 24
    after = outs()
    shutil.rmtree(".cache")
    encode("pets")
    assert outs() == after


def entries(kind: str) -> int:
    return sum(not path.name.startswith(".") for path in Path(".cache", kind).glob("*/*.safetensors"))


def wait_for(reached: Callable[[], bool]) -> None:
    for _ in range(6000):
        if reached():
            return
        time.sleep(0.01)
    raise AssertionError("not reached in a minute")


@pytest.mark.usefixtures("project")
def test_one_changed_picture_counts_as_one_and_its_copy_apart(capsys: pytest.CaptureFixture[str]) -> None:
    set_param("flip: false", "flip: true")
    front()
    assert "latents: 0 encoded, 4 from cache (their copies: 4 encoded, 0 from" in capsys.readouterr().out
    change_a_pixel(Path("raw/2.png"))
    front()
    said = capsys.readouterr().out.splitlines()[-1]
    assert "latents: 1 encoded, 3 from cache (their copies: 1 encoded, 3 from cache)" in said
    assert "texts: 0 encoded" in said


@pytest.mark.parametrize(
    ("crop", "flipped", "told"),
    [
        ([0, 0, 1200, 800], False, [800, 1200, 0, 0, 512, 768]),  # the whole picture
        ([300, 0, 1100, 800], False, [800, 1200, 0, 192, 512, 512]),  # as it lies in the resized picture
        ([300, 0, 1100, 800], True, [800, 1200, 0, 64, 512, 512]),  # in the mirrored one
        ([0, 50, 600, 650], False, [800, 1200, 43, 0, 512, 512]),
    ],
)
def test_sdxl_is_told_the_original_size_and_where_the_resized_picture_was_cut(
    crop: list[int], flipped: bool, told: list[float]
) -> None:
    """As diffusers' and kohya's scripts tell it."""
    entry = {"source_size": [1200, 800], "crop": crop, "flipped": flipped, "size": [int(told[5]), int(told[4])]}
    assert _sizes(entry, told=True)["sizes"].tolist() == told
    assert _sizes(entry, told=False) == {}


@pytest.mark.usefixtures("project")
def test_pictures_count_as_often_as_the_names_of_their_folders_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert not Path("data/pets/latents/repeats.json").exists()
    Path("raw/10_sks dog").mkdir()
    Path("raw/0.png").rename("raw/10_sks dog/0.png")
    set_param("flip: false", "flip: true")
    front()
    said = capsys.readouterr().out
    assert "pets: pictures count as often as the names of their folders say: 10_sks dog" in said
    images = read_json("data/pets/prepared/images.json")["images"]
    often = {name for name, facts in images.items() if facts["sources"] == ["10_sks dog/0.png"]}
    assert len(often) == 2  # the mirrored copy, too
    pictures = load_images("data/pets/latents")
    assert dict(zip(pictures.names, pictures.repeats, strict=True)) == {
        name: 10 if name in often else 1 for name in images
    }
    Path("raw/10_sks dog").rename("raw/0_sks dog")
    front()
    assert sorted(load_images("data/pets/latents").repeats) == [0, 0, 1, 1, 1, 1, 1, 1]


@pytest.mark.usefixtures("project")
def test_a_mask_beside_a_picture_comes_with_its_latents_and_re_encodes_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = entries_of("latents")
    grey = np.zeros((64, 80), dtype=np.uint8)
    grey[:32] = 255
    Image.fromarray(grey).save("raw/1_att.png")
    prepare("pets")
    encode("pets")
    assert counts(capsys) == (0, 4, 0, 4)
    images = read_json("data/pets/prepared/images.json")["images"]
    assert len(images) == 4
    for identifier, facts in images.items():
        found = entries_of("latents")[identifier]
        assert torch.equal(found["mean"], before[identifier]["mean"])
        assert ("attention" in found) == (facts["sources"] == ["1.png"])
        if "attention" in found:
            assert found["attention"].shape == (8, 8)
            assert found["attention"][:3].min() > 0.99
            assert found["attention"][-3:].max() < 0.01


@pytest.mark.usefixtures("project")
def test_texts_are_read_as_params_say_and_pictures_stay_in_the_cache(
    tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from etude.base.loading import load_base
    from etude.base.settings import Text
    from etude.base.text import encode_prompts

    set_param("text: {chunks: 1, rule: a1111, emphasis: none}", "text: {chunks: 2, rule: kohya, emphasis: a1111}")
    encode("pets")
    assert counts(capsys) == (0, 4, 4, 0)
    base = load_base(tiny_base, parts=("text",), reading=Text(chunks=2, rule="kohya", emphasis="a1111"))
    found = entries_of("texts")[text_entry("a cat")]["hidden"]
    assert found.shape == (152, 32)
    torch.testing.assert_close(found, encode_prompts(base, ["a cat"]).hidden[0], rtol=0, atol=1e-5)
