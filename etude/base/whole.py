"""Whole models, tensor by tensor: the one reader that base, convert, merge, export and sample share.

A model is whole if it has every tensor that its configuration asks for, by name and shape. Other tensors are left out:
silently if programs are known to write them, otherwise with an EtudeWarning.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor

from etude.base.bounds import check_config
from etude.base.damage import DAMAGED, reason
from etude.base.family import is_variation, recognise
from etude.base.libraries import (
    AutoencoderKL,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    UNet2DConditionModel,
    no_init_weights,
)
from etude.base.single import config_folder
from etude.core.errors import BaseError, EtudeError, EtudeWarning
from etude.core.families import FAMILIES, PLAIN, PROJECTED, Family, text_parts
from etude.core.model_files import common, names_beside, read_folder, read_single
from etude.core.model_folders import read_config
from etude.core.weights import is_finite

Shapes = Mapping[str, Sequence[int]]
SHOWN = 3  # names in an error
_MODELS = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
_TEXT_MODELS = {PLAIN: CLIPTextModel, PROJECTED: CLIPTextModelWithProjection}
_ACTION = "fetch the model again, or correct the configuration beside it"
# What programs write into whole models besides the model: averages, losses of training, CLIP's own projection and SD
# 2.x's last text layer; the schedule of noise, which the configuration gives, and marks of the prediction.
_USUAL = re.compile(
    r".*(?:^|\.)(?:model_ema|loss)\..*|.*\.(?:position_ids|logit_scale|text_projection(?:\.weight)?)|"
    r".*transformer\.resblocks\.23\..*|"
    r"(?:betas|alphas_cumprod|alphas_cumprod_prev|logvar|(?:sqrt|log|posterior)_\w+|denoiser\.(?:log_)?sigmas)|"
    r"(?:v_pred|ztsnr|global_step|scale_factor)"
)


def read_model(
    path: Path | str, parts: Collection[str] | None = None, *, expected: Shapes | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of ``parts`` (None: all) in the common form, each checked, and the facts that the files contain.

    ``expected``: name → shape of every tensor; None: as in its configuration. Raises BaseError.
    """
    path = Path(path)
    family = FAMILIES[recognise(path, without_vae=parts is not None and "vae" not in parts)]
    wanted = [part for part in parts_of(path, family) if parts is None or part in parts]
    if expected is None:
        configs = config_folder(path, family.name) if path.is_file() else path
        expected = expected_shapes({part: empty_model(path, configs / part, family, part) for part in wanted})
    with as_base_errors(path):
        tensors, facts = (read_single if path.is_file() else read_folder)(path, wanted, family)
        beside = names_beside(path, family) if path.is_file() else []
    own = {name: shape for name, shape in expected.items() if name.partition(".")[0] in wanted}
    return whole(path, tensors, own, beside), facts


def parts_of(path: Path, family: Family) -> list[str]:
    """The parts of a base that have weights; one of image variations has no text encoder."""
    return [part for part in family.parts if part not in text_parts() or not is_variation(path)]


def whole(path: Path, tensors: Mapping[str, Tensor], expected: Shapes, beside: Sequence[str] = ()) -> dict[str, Tensor]:
    """The ``expected`` tensors; raises BaseError if some are missing or have another shape.

    Other ``tensors``, and the file's other names ``beside``, are listed in an EtudeWarning unless they are usual.
    """
    missing = [name for name in expected if name not in tensors]
    if missing:
        raise BaseError(path, f"lacks {len(missing)} tensors: {_some(missing)}", _ACTION)
    other = [name for name, shape in expected.items() if tensors[name].shape != tuple(shape)]
    if other:
        first = other[0]
        fault = f"`{first}` is {list(tensors[first].shape)}, but its configuration asks for {list(expected[first])}"
        more = f"; {len(other) - 1} more tensors do not fit either" if len(other) > 1 else ""
        raise BaseError(path, fault + more, _ACTION)
    strange = [name for name in [*tensors, *beside] if name not in expected and not _USUAL.fullmatch(name)]
    if strange:
        text = f"{path}: {len(strange)} tensors are of no part of the model and are left out: {_some(strange)}"
        warnings.warn(text, EtudeWarning, stacklevel=2)
    return {name: tensors[name] for name in expected}


def expected_shapes(models: Mapping[str, Any]) -> dict[str, Sequence[int]]:
    """Common name → shape of every tensor of these `empty_model`s, by part."""
    found: dict[str, Sequence[int]] = {}
    for part, model in models.items():
        found |= {name: tuple(tensor.shape) for name, tensor in common(part, model.state_dict()).items()}
    return found


def empty_model(path: Path, folder: Path, family: Family, part: str) -> Any:
    """A part as the configuration in ``folder`` describes it, without numbers (meta device); raises BaseError."""
    if not (file := folder / "config.json").exists():
        raise BaseError(file, "is missing", _ACTION)
    check_config(file, read_config(file), _MODELS.get(part, CLIPTextConfig))
    fault = f"the configuration of its {part} cannot be used"
    # Without random initial weights, which take a second and would be replaced.
    with as_base_errors(path, fault), init_empty_weights(), no_init_weights():
        if part in _MODELS:
            kind = _MODELS[part]
            return kind.from_config(kind.load_config(str(folder), local_files_only=True))
        encoder = next(encoder for encoder in family.text_encoders if encoder.part == part)
        config = CLIPTextConfig.from_pretrained(str(folder), local_files_only=True)
        return _TEXT_MODELS[encoder.model](config)


def filled(
    path: Path, model: Any, part: str, tensors: Mapping[str, Tensor], precision: Callable[[str], torch.dtype]
) -> Any:
    """An `empty_model` filled with ``tensors`` of the common form, each in the ``precision`` for its common name.

    Raises BaseError if a number is too large for that precision.
    """
    state = {}
    for name in model.state_dict():
        (place,) = common(part, {name: torch.empty(0)})
        dtype = precision(place)
        state[name] = tensors[place].to(dtype).contiguous()
        if dtype == torch.float16 and tensors[place].dtype != dtype and not is_finite(state[name]):
            raise BaseError(path, f"`{place}` has numbers beyond what fp16 holds", "choose `precision: bf16` or fp32")
    model.load_state_dict(state, assign=True)
    return model


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (" …" if len(names) > SHOWN else "")


@contextmanager
def as_base_errors(path: Path, fault: str = "is damaged, or no model of this form") -> Iterator[None]:
    """Inside, errors of libraries about a file become a BaseError."""
    try:
        yield
    except BaseError:
        raise
    except EtudeError as error:
        raise BaseError(error.place, error.fault, error.action) from error
    except DAMAGED as error:
        raise BaseError(path, f"{fault} ({reason(error)})", _ACTION) from error
