"""Image-to-text models with true architectures, against the use that transformers documents for each."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoProcessor,
    Blip2ForConditionalGeneration,
    BlipForConditionalGeneration,
    Florence2ForConditionalGeneration,
    GitForCausalLM,
    Idefics3ForConditionalGeneration,
    LlavaForConditionalGeneration,
)

from etude.captions.sentence import Sentence
from etude.captions.transformer import describe_pictures, refuse_missing
from etude.core.errors import BaseError, EtudeError, InputError
from tests.etude.captions.sentence_models import BUILDERS, build

GREEDY = {"prompt": "", "beams": 1, "min_length": 0, "max_length": 6, "precision": "fp16", "batch": 2}
MODELS = {
    "blip": BlipForConditionalGeneration,
    "git": GitForCausalLM,
    "blip-2": Blip2ForConditionalGeneration,
    "florence2": Florence2ForConditionalGeneration,
    "llava": LlavaForConditionalGeneration,
    "idefics3": Idefics3ForConditionalGeneration,
}
TASK = "<MORE_DETAILED_CAPTION>"
CHATS = ("llava", "idefics3")
CASES = [(kind, prompt) for kind in ("blip", "git", "blip-2") for prompt in ("", "a photo of")]
CASES += [("florence2", TASK), ("florence2", "a cat"), *((kind, "a picture of what") for kind in CHATS)]


def described(*arguments: Any) -> list[str]:
    return list(describe_pictures(*arguments))


def settings(**changed: Any) -> Sentence:
    return Sentence(**{**GREEDY, **changed})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {kind: build(kind, folder / kind) for kind in BUILDERS}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(3)
    for number in range(5):
        colours = Image.fromarray(random.integers(0, 256, (2, 2, 3), dtype=np.uint8))
        colours.resize((20 + number, 24), Image.Resampling.NEAREST).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


@cache
def load(kind: str, folder: Path) -> tuple[Any, Any]:
    return AutoProcessor.from_pretrained(folder), MODELS[kind].from_pretrained(folder).eval()


def as_documented(kind: str, folder: Path, picture: Path, prompt: str, **search: int) -> str:
    """The sentence by the example in transformers' page of that model."""
    processor, model = load(kind, folder)
    image, words = Image.open(picture).convert("RGB"), prompt
    if kind in CHATS:
        words = f"USER: <image> {prompt} ASSISTANT:"
    if kind == "git" and prompt:
        inputs = dict(processor(images=image, return_tensors="pt"))
        begin = [processor.tokenizer.cls_token_id, *processor.tokenizer(prompt, add_special_tokens=False).input_ids]
        inputs["input_ids"] = torch.tensor([begin])
    else:
        inputs = dict(processor(images=image, text=words or None, return_tensors="pt"))
    given = {"blip": 1 if not prompt else 4, "git": 1 if not prompt else 4, "florence2": 0}
    start = given.get(kind, inputs["input_ids"].shape[1] if "input_ids" in inputs else 5)
    tokens = model.generate(**inputs, do_sample=False, **search)[0][start:]
    if prompt == TASK:
        text = processor.decode(tokens, skip_special_tokens=False)
        answer = processor.post_process_generation(text, task=TASK, image_size=image.size)[TASK]
        return " ".join(answer.replace("<pad>", "").split())
    return processor.decode(tokens, skip_special_tokens=True).strip()


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(("kind", "prompt"), CASES)
def test_a_sentence_is_that_of_the_models_documented_use_without_the_prompt(
    models: dict[str, Path], pictures: list[Path], kind: str, prompt: str, beams: int
) -> None:
    found = described(iter(pictures), models[kind], settings(prompt=prompt, beams=beams), "cpu")
    search = {"num_beams": beams, "min_new_tokens": 0, "max_new_tokens": 6}
    assert found == [as_documented(kind, models[kind], picture, prompt, **search) for picture in pictures]
    assert len(set(found)) > 1
    assert not any(prompt and text.startswith(prompt) for text in found)


def test_a_sentence_is_as_long_as_asked(models: dict[str, Path], pictures: list[Path]) -> None:
    found = described(pictures, models["git"], settings(min_length=9, max_length=9), "cpu")
    assert max(len(text.split()) for text in found) <= 9
    shorter = described(pictures, models["git"], settings(max_length=2), "cpu")
    assert all(long.startswith(short) for long, short in zip(found, shorter, strict=True))
    assert max(len(text.split()) for text in shorter) <= 2 < max(len(text.split()) for text in found)


def test_a_model_that_reads_its_picture_in_the_prompt_needs_one(models: dict[str, Path], pictures: list[Path]) -> None:
    with pytest.raises(
        BaseError, match=r"could not describe a picture with `prompt: ''` .*Next: set `caption.sentence.prompt`"
    ):
        described(pictures, models["llava"], settings(), "cpu")


def test_a_task_of_florence_that_gives_places_is_refused(models: dict[str, Path], pictures: list[Path]) -> None:
    with pytest.raises(InputError, match=r"task <OD> returns places.*<MORE_DETAILED_CAPTION>"):
        described(pictures, models["florence2"], settings(prompt="<OD>"), "cpu")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "processor_config.json", "tokenizer.json"])
def test_a_missing_file_is_named_before_the_model_is_opened(models: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models["blip"], folder)
    refuse_missing(folder)
    (folder / name).unlink()
    with pytest.raises(EtudeError, match=Path(name).stem):
        refuse_missing(folder)


def change_config(folder: Path, **changed: Any) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **changed}), encoding="utf-8")


def test_a_model_that_brings_its_own_code_is_refused_and_that_code_never_runs(
    models: dict[str, Path], pictures: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models["florence2"], folder)
    (folder / "modeling_own.py").write_text("raise SystemExit('ran')", encoding="utf-8")
    own = {"AutoModelForCausalLM": "modeling_own.Own", "AutoConfig": "modeling_own.OwnConfig"}
    change_config(folder, auto_map=own)
    with pytest.raises(InputError, match="Étude never runs such code. Next: fetch .*florence-community"):
        refuse_missing(folder)
    change_config(folder, model_type="own_model")
    with pytest.raises(BaseError, match="cannot be opened as an image-to-text model"):
        described(pictures, folder, settings(), "cpu")


def test_a_model_with_missing_tensors_is_refused(models: dict[str, Path], pictures: list[Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(models["git"], folder)
    tensors = load_file(folder / "model.safetensors")
    gone = next(name for name in tensors if "visual_projection" in name)
    save_file({name: value for name, value in tensors.items() if name != gone}, folder / "model.safetensors")
    with pytest.raises(BaseError, match=f"lacks 1 tensors, such as {gone}"):
        described(pictures, folder, settings(), "cpu")


def test_lengths_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="`min_length` 9 is more than `max_length` 6"):
        settings(min_length=9)
    assert settings(min_length=6).min_length == settings().max_length == 6
