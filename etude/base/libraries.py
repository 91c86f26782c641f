"""What this project uses of diffusers and of transformers' CLIP, imported here alone, because it takes seconds.

Every stage that reads a model is a process of its own and pays for that. Two things take a third of it, and are left
out here: the garbage collector, which looks again and again, now and later, at what these libraries make and never give
up; and scipy. diffusers and transformers import that for samplers and losses that nothing here uses. There is no switch
for it, so that it counts as not installed meanwhile: None in `sys.modules` is how Python itself says this. Where one of
the two is imported already, it may have looked for scipy and found it, and so nothing is hidden.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

NEEDLESS = "scipy"
LOOKING = ("diffusers", "transformers")  # each looks once for it


@contextmanager
def quick_imports() -> Iterator[None]:
    """Without the garbage collector and, unless it or one of `LOOKING` is imported already, without `NEEDLESS`.

    Afterwards the collector is as it was, and looks no more at the objects that are there now.
    Code that imports scipy later gets it; diffusers and transformers looked for it here, once.
    """
    hidden, collects = not {NEEDLESS, *LOOKING} & sys.modules.keys(), gc.isenabled()
    if hidden:
        sys.modules[NEEDLESS] = None  # type: ignore[assignment]
    gc.disable()
    try:
        yield
    finally:
        if hidden:
            del sys.modules[NEEDLESS]
        if collects:
            gc.freeze()
            gc.enable()


with quick_imports():
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        DDPMScheduler,
        DPMSolverMultistepScheduler,
        EulerAncestralDiscreteScheduler,
        EulerDiscreteScheduler,
        ModelMixin,
        UNet2DConditionModel,
    )
    from diffusers.models.embeddings import get_timestep_embedding
    from transformers import (
        CLIPImageProcessorPil,
        CLIPModel,
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )
    from transformers.initialization import no_init_weights

__all__ = [
    "AutoencoderKL",
    "CLIPImageProcessorPil",
    "CLIPModel",
    "CLIPTextConfig",
    "CLIPTextModel",
    "CLIPTextModelWithProjection",
    "CLIPTokenizer",
    "CLIPVisionConfig",
    "CLIPVisionModelWithProjection",
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "ModelMixin",
    "UNet2DConditionModel",
    "get_timestep_embedding",
    "no_init_weights",
]
