"""Recognising the family of a base by its architecture, never by its width or its name.

The marks of each family are in `etude.core.families`. An unCLIP base belongs to the family of its architecture; its
conditioning on pictures is a separate property (`unclip`). The same is true for a base of image variations
(`is_variation`), which has an image encoder instead of the text encoder.

Only JSON files and headers are read. The family does not say whether ε or v is predicted: the scheduler does.
"""

from __future__ import annotations

from pathlib import Path

from etude.base.checkpoint import SUFFIXES, Shapes, read_shapes
from etude.core.errors import BaseError
from etude.core.families import UNET, VAE, by_config, by_tensors, lacking_prefixes
from etude.core.model_folders import read_config, refuse_pointer, weight_files

_CHOOSE = "choose a Stable Diffusion 1.x, 2.x or XL base model"
_CHANNELS = {5: "a depth model", 7: "an upscaler", 8: "an image editor (InstructPix2Pix)", 9: "an inpainting model"}
_UNUSED = {  # fields of a UNet that is conditioned on more than noise, time, text and sizes
    "time_cond_proj_dim": "the strength of guidance as an input (LCM)",
    "num_class_embeds": "a class",
    "encoder_hid_dim": "another kind of text",
    "encoder_hid_dim_type": "another kind of text",
}
_TRANSFORMERS = ("joint_blocks.", "double_blocks.", "double_layers.", "layers.", "transformer_blocks.")


def recognise(path: Path | str, *, without_vae: bool = False) -> str:
    """The name of the family of a diffusers folder or a single ``.safetensors``/``.ckpt`` file.

    ``without_vae``: a VAE may be missing.

    Raises BaseError for anything that no method supports: another architecture (SD 3, Flux), other input channels
    (inpainting), an SDXL refiner, an add-on such as a LoRA, a missing part, a Git LFS pointer; also for an unCLIP base
    as a single file.
    """
    path = Path(path)
    _refuse_unreadable(path)
    if path.is_dir():
        return _recognise_folder(path, without_vae)
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return _recognise_shapes(path, read_shapes(path), without_vae)
    if path.is_file():
        raise BaseError(path, f"is neither a diffusers folder nor a {' or '.join(SUFFIXES)} file", _CHOOSE)
    if path.with_name(path.name + ".dvc").exists():
        raise BaseError(path, "is tracked, but its content is not here", f"run `dvc pull {path}`")
    raise BaseError(path, "is missing", f"fetch a base with `etude base --from … --to {path}`")


def _refuse_unreadable(path: Path) -> None:
    """Raise BaseError for a name that no file can have, or a path without permission to read it."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return  # it is missing
    except (OSError, ValueError) as error:
        raise BaseError(
            path, f"cannot be read ({getattr(error, 'strerror', error)})", "check its name and its permissions"
        ) from error


UNCLIP_PARTS = ("image_encoder", "feature_extractor", "image_normalizer", "image_noising_scheduler")


VARIATION_PARTS = ("image_encoder", "feature_extractor")


def is_variation(path: Path) -> bool:
    """Whether a folder is a base of image variations, which is conditioned on pictures only, not on texts."""
    return (path / "image_encoder").is_dir() and not (path / "text_encoder").exists()


def _recognise_folder(path: Path, without_vae: bool) -> str:
    if not (path / "unet" / "config.json").exists():
        raise BaseError(path, _what_else(path), _CHOOSE)
    config = read_config(path / "unet" / "config.json")
    kind, added = config.get("_class_name", "UNet2DConditionModel"), config.get("addition_embed_type")
    family = by_config(config)
    if kind != "UNet2DConditionModel" or family is None:
        raise BaseError(
            path,
            f"its unet is a {kind}{f' with `addition_embed_type: {added}`' if added else ''}, of no supported family",
            _CHOOSE,
        )
    _check_channels(path, config.get("in_channels", 4))
    if (channels := config.get("out_channels", 4)) != 4:
        raise BaseError(path, f"its unet has {channels} output channels instead of 4", _CHOOSE)
    if unused := [name for name in _UNUSED if config.get(name)]:
        raise BaseError(path, f"its unet needs {_UNUSED[unused[0]]} (`{unused[0]}`), which is not supported", _CHOOSE)
    if config.get("class_embed_type") not in (None, "projection"):
        raise BaseError(
            path,
            f"its unet has `class_embed_type: {config['class_embed_type']}`: only projection is supported",
            _CHOOSE,
        )
    if config.get("class_embed_type"):
        _check_unclip(path)
    if family.size_ids and not (path / "text_encoder").is_dir():
        raise BaseError(path, "is an SDXL refiner", "choose the SDXL base instead")
    _check_parts(path, tuple(part for part in family.folders if part != "vae" or not without_vae))
    return family.name


def _what_else(path: Path) -> str:
    """The fault of a folder without a UNet: what it is instead."""
    index = path / "model_index.json"
    name = read_config(index).get("_class_name") if index.exists() else None
    if (path / "transformer").is_dir() or (path / "prior").is_dir():
        return f"is a {name or 'model without a UNet'}, an architecture that no method supports"
    return f"is a {name} without its unet" if name else "is no diffusers folder (it has no unet/config.json)"


def _check_channels(path: Path, channels: object) -> None:
    if channels != 4:
        kind = _CHANNELS.get(channels, "another model") if isinstance(channels, int) else "another model"
        raise BaseError(path, f"its unet has {channels} input channels instead of 4: it is {kind}", _CHOOSE)


def _check_parts(path: Path, parts: tuple[str, ...]) -> None:
    """Raise BaseError unless every part has its configuration and its weights, and none is a Git LFS pointer."""
    if is_variation(path):
        parts = (*(part for part in parts if not part.startswith(("text", "token"))), *VARIATION_PARTS)
    missing = [part for part in parts if not _has_part(path / part)]
    if missing:
        action = _put_vae(path) if missing == ["vae"] else "fetch the whole base again"
        raise BaseError(path, f"lacks {', '.join(missing)}, or a file of it", action)
    for part in parts:
        for file in sorted(p for p in (path / part).iterdir() if p.is_file()):
            refuse_pointer(file)
        if part.startswith("text_encoder"):
            kind = read_config(path / part / "config.json").get("model_type", "clip_text_model")
            if kind != "clip_text_model":
                raise BaseError(path / part, f"is a {kind}, not CLIP's text encoder", _CHOOSE)


def _check_unclip(path: Path) -> None:
    """Raise BaseError unless an unCLIP base has all parts by which its UNet is conditioned on a picture."""
    missing = [part for part in UNCLIP_PARTS if not _has_part(path / part)]
    if missing:
        raise BaseError(path, f"is an unCLIP model without {', '.join(missing)}", "fetch the whole base again")


def _has_part(folder: Path) -> bool:
    if folder.name.startswith("tokenizer"):
        pair = (folder / "vocab.json").exists() and (folder / "merges.txt").exists()
        return pair or (folder / "tokenizer.json").exists()
    if folder.name.endswith("scheduler"):
        return (folder / "scheduler_config.json").exists()
    if folder.name == "feature_extractor":
        return (folder / "preprocessor_config.json").exists()
    files = weight_files(folder)
    return (folder / "config.json").exists() and bool(files) and all(file.exists() for file in files)


def _recognise_shapes(path: Path, shapes: Shapes, without_vae: bool) -> str:
    """The family of a single file, recognised by the names and shapes of its tensors in the LDM layout."""
    _refuse_other_kinds(path, shapes)
    _check_channels(path, (*shapes[UNET + "input_blocks.0.0.weight"], 0, 0)[1])
    family = by_tensors({name: len(shape) for name, shape in shapes.items()})
    if not family.size_ids and UNET + "label_emb.0.0.weight" in shapes:
        raise BaseError(path, "is an unCLIP model, or SDXL's UNet without its text encoders", _CHOOSE)
    texts = [family.texts + encoder.single for encoder in family.text_encoders]
    missing = lacking_prefixes(shapes, texts if without_vae else [VAE, *texts])
    if missing:
        action = "choose a file that also contains the VAE and the text encoder"
        if missing == [VAE]:
            action = _put_vae(path)
        raise BaseError(path, f"lacks {', '.join(f'{prefix}*' for prefix in missing)}", action)
    return family.name


def _put_vae(path: Path) -> str:
    return f"put a VAE into it: `etude convert {path} --to diffusers_checkpoint --vae FILE`"


def _refuse_other_kinds(path: Path, shapes: Shapes) -> None:
    """Raise BaseError if the file contains no UNet of Stable Diffusion; the error says what the file is."""

    def has(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in shapes)

    if has(*_TRANSFORMERS, *(UNET + name for name in _TRANSFORMERS)):
        raise BaseError(path, "is a diffusion transformer (SD 3, Flux, …), which no method supports", _CHOOSE)
    if has("conditioner.embedders.0.model."):
        raise BaseError(path, "is an SDXL refiner", "choose the SDXL base instead")
    if UNET + "input_blocks.0.0.weight" in shapes:
        return
    if has("lora_", "unet.", "base_model.", "text_encoder."):
        raise BaseError(path, "is an add-on such as a LoRA, not a base model", _CHOOSE)
    if has("down_blocks.", "encoder.", "text_model.", "embeddings."):
        raise BaseError(path, "is one part of a diffusers folder", "give the whole folder instead")
    raise BaseError(path, "holds no UNet of Stable Diffusion", _CHOOSE)
