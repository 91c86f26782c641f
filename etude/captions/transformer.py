"""Sentences by an image-to-text model of transformers in a folder: BLIP, BLIP-2, GIT, Florence-2, LLaVA, Qwen-VL …

Nothing is downloaded, and no code of a model's repository runs: transformers itself must know the model. The same
weights and pictures give the same sentences, because words are searched for, not drawn at random.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from etude.captions.sentence import Sentence
from etude.core.errors import BaseError, InputError
from etude.core.model_folders import read_config, refuse_pointer, weight_files, weight_paths

FETCH = "fetch the whole repository of the model again with `etude base`"
SAFELY = {"local_files_only": True, "trust_remote_code": False}
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "tekken.json")
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
TASKS = "<CAPTION>, <DETAILED_CAPTION> or <MORE_DETAILED_CAPTION>"  # the tasks of Florence-2 that return a sentence


def refuse_missing(model: Path) -> None:
    """Raise EtudeError if a file of the model is missing, or transformers would need code from its repository."""
    if not (model / "config.json").is_file():
        raise InputError(model, "lacks config.json, which an image-to-text model has", FETCH)
    config = read_config(model / "config.json")
    if "auto_map" in config and str(config.get("model_type")).startswith("florence"):
        fault = "is Florence-2 in the form that needs Python code from its repository, and Étude never runs such code"
        raise InputError(model, fault, "fetch florence-community/Florence-2-base or -large, which need no such code")
    if not weight_files(model):
        raise InputError(model, "lacks the weights (model.safetensors)", FETCH)
    for names in (PROCESSORS, TOKENIZERS):
        if not any((model / name).is_file() for name in names):
            raise InputError(model, f"lacks {' or '.join(names[:2])}", FETCH)


def recognises(model: Path) -> bool:
    """Whether it is a model folder of transformers, and no CLIP; a base has no config.json beside its parts."""
    config = model / "config.json"
    return config.is_file() and read_config(config).get("model_type", "clip") != "clip"


def check_model(model: Path) -> None:
    """Raise EtudeError if transformers does not know the model, or its files are no weights; few bytes are read."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    refuse_missing(model)
    for file in weight_paths(model):
        refuse_pointer(file)
    with _opening(model):
        config = AutoConfig.from_pretrained(model, **SAFELY)
        _open_processor(model)
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        fault = f"is a {config.model_type}, which is no image-to-text model"
        raise BaseError(model, fault, "choose another model, such as BLIP or Florence-2")


@contextmanager
def _opening(folder: Path) -> Iterator[None]:
    """Raise BaseError if something within the block cannot be opened, or transformers lacks a package for it."""
    from etude.base.damage import DAMAGED, reason

    faults: tuple[type[Exception], ...] = (*DAMAGED, ImportError)
    try:
        yield
    except faults as error:
        fault = f"cannot be opened as an image-to-text model ({reason(error)})"
        raise BaseError(folder, fault, f"install the package if one is missing; otherwise {FETCH}") from error


def _open_processor(folder: Path) -> Any:
    """The processor, always with Pillow: an installed torchvision would give other pixels."""
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(folder, backend="pil", **SAFELY)


def describe_pictures(pictures: Iterable[Path], model: Path, settings: Sentence, device: str) -> Iterator[str]:
    """A sentence for each picture file, by the model in the folder ``model``. Raises EtudeError."""
    from etude.captions.batches import describe_batches

    refuse_missing(model)
    writer = _Writer(model, settings, device)
    yield from describe_batches(pictures, settings.batch, writer.write)


class _Writer:
    """A model with its processor, which converts pictures and prompt to tensors, and tokens to text."""

    def __init__(self, folder: Path, settings: Sentence, device: str) -> None:
        import torch
        from transformers import AutoModelForImageTextToText

        from etude.base.quiet import quietly

        numbers = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
        self._dtype = numbers[settings.precision] if device.startswith("cuda") else torch.float32
        with _opening(folder):
            self._processor = _open_processor(folder)
            load = AutoModelForImageTextToText.from_pretrained
            model, info = quietly(load, folder, dtype=self._dtype, output_loading_info=True, **SAFELY)
        if missing := info["missing_keys"]:
            raise BaseError(folder, f"lacks {len(missing)} tensors, such as {min(missing)}", FETCH)
        self._folder, self._settings = folder, settings
        self._model = model.requires_grad_(False).eval().to(device)
        tokenizer = self._processor.tokenizer
        tokenizer.padding_side = "left"  # because the sentence begins at the end of the prompt
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token

    def write(self, images: list[Any]) -> list[str]:
        """A sentence for each of the images. Raises EtudeError."""
        from etude.base.damage import reason
        from etude.base.quiet import quietly

        try:
            tokens, prompts = quietly(self._generate, images)
        except (ValueError, TypeError, LookupError) as error:
            fault = f"could not describe a picture with `prompt: {self._settings.prompt!r}` ({reason(error)})"
            raise BaseError(self._folder, fault, "set `caption.sentence.prompt` as the model's page shows") from error
        if self._is_task():
            texts = self._processor.batch_decode(tokens, skip_special_tokens=False)
            return [self._answer(text, image) for text, image in zip(texts, images, strict=True)]
        texts = self._processor.batch_decode(tokens, skip_special_tokens=True)
        return [_sentence(text, prompt) for text, prompt in zip(texts, prompts, strict=True)]

    def _generate(self, images: list[Any]) -> tuple[Any, list[str]]:
        """The tokens that the model returns for each image, and each image's prompt as text."""
        import torch

        inputs, prompts = self._inputs(images), [""] * len(images)
        if "input_ids" in inputs:
            prompts = self._processor.batch_decode(inputs["input_ids"], skip_special_tokens=True)
        with torch.no_grad():
            tokens = self._model.generate(
                **inputs.to(self._model.device, self._dtype),
                do_sample=False,
                num_beams=self._settings.beams,
                min_new_tokens=self._settings.min_length,
                max_new_tokens=self._settings.max_length,
            )
        return tokens, prompts

    def _inputs(self, images: list[Any]) -> Any:
        """The model's inputs: the images, and the prompt for each; in the form of a chat if the model has one."""
        prompt, kind, pictures = self._settings.prompt, self._model.config.model_type, images
        if not prompt:
            return self._processor(images=images, return_tensors="pt")
        if self._processor.chat_template:
            asked = [{"type": "image"}, {"type": "text", "text": prompt}]
            prompt = self._processor.apply_chat_template(
                [{"role": "user", "content": asked}], add_generation_prompt=True
            )
            pictures = [[image] for image in images]  # one list a chat: some models read a plain list as one chat
        inputs = self._processor(images=pictures, text=[prompt] * len(images), padding=True, return_tensors="pt")
        if kind == "git":  # its sentence continues the prompt, which must not have an end token
            for name in ("input_ids", "attention_mask"):
                inputs[name] = inputs[name][:, :-1]
            inputs.pop("token_type_ids", None)
        return inputs

    def _is_task(self) -> bool:
        return self._model.config.model_type == "florence2" and self._settings.prompt.startswith("<")

    def _answer(self, text: str, image: Any) -> str:
        """Florence-2's answer to one of its tasks."""
        task = self._settings.prompt
        answer = self._processor.post_process_generation(text=text, task=task, image_size=image.size)[task]
        if not isinstance(answer, str):
            fault = f"Florence-2's task {task} returns places in the picture, not a sentence"
            raise InputError("params.yaml", fault, f"set `caption.sentence.prompt` to {TASKS}")
        return _sentence(answer.replace("<pad>", ""), "")


def _sentence(text: str, prompt: str) -> str:
    """The text in one line, without the prompt, which some models repeat."""
    return " ".join(text.removeprefix(prompt).split())
