"""What this project uses of diffusers and of transformers' CLIP. It is imported only here, because it takes seconds.

Every stage that reads a model is a separate process and spends this time. Two things take a third of it and are avoided
here. First, the garbage collector: it would check the many objects of these libraries, which stay until the end, again
and again. Second, scipy: diffusers and transformers import it for samplers and losses that Étude does not use. They
have no option to leave it out, so during the import scipy counts as not installed: that is what None in `sys.modules`
means to Python. If diffusers or transformers is imported already, it may have found scipy, so scipy is not hidden.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

NEEDLESS = "scipy"
LOOKING = ("diffusers", "transformers")  # each looks for scipy once, when it is imported


@contextmanager
def quick_imports() -> Iterator[None]:
    """Inside, the garbage collector is off; `NEEDLESS` is hidden unless it or one of `LOOKING` is imported already.

    Afterwards the collector is on again if it was, and ignores all objects that exist by then.
    Code that imports scipy later gets it; diffusers and transformers look for it only here.
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
