"""The inputs that a method's `build` can get, by the name of its argument: one registry. A new input is added here.

torch is imported only when an input is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from etude.base.settings import KeepsClass
from etude.core.errors import ParamsError, StaleError
from etude.core.files import read_json
from etude.core.method import Input, Method, needs
from etude.core.mixins import Concepts, Models, ReadsCaptions
from etude.core.params import MethodParams, Schema, nearest
from etude.training.masks import refuse_no_masks
from etude.training.sets import FurtherSets, further_places
from etude.training.sizes import TellsSizes

M = TypeVar("M", bound=Schema)


@dataclass(frozen=True)
class Request:
    """The method whose inputs are loaded, its params, and digests."""

    method: str
    params: MethodParams
    digests: Mapping[str, str]  # of all dependencies of the stage, by path

    def declared(self, mixin: type[M]) -> M:
        """The params, typed as ``mixin``; raises ParamsError if the method's `Params` do not derive from it."""
        if isinstance(self.params, mixin):
            return self.params
        fault = f"an argument of `build` needs {mixin.__name__}, and the method's `Params` do not derive from it"
        raise ParamsError(f"pipelines/{self.method}/method", fault, f"derive `Params` from {mixin.__name__}")

    @property
    def data(self) -> Path:
        """The folder of the method's image set."""
        return Path("data", self.params.set)

    @property
    def own(self) -> Path:
        """The folder of the method's artifacts."""
        return Path("artifacts", self.method)


class Need(NamedTuple):
    """One input: the folder that it is read from, and the function that loads it."""

    dep: str  # the dependency that the build stage in dvc.yaml needs for it
    load: Callable[[Request], Any]


def load_inputs(method: Method, request: Request) -> dict[str, Any]:
    """The inputs of ``method.build``, by argument; raises EtudeError if one does not exist."""
    names = needs(method)
    for name in names:
        if name not in INPUTS:
            fault = f"`build` has the argument `{name}`, which is not a known input{nearest(name, INPUTS)}"
            raise ParamsError(f"pipelines/{request.method}/method", fault, "name another argument")
    return {name: INPUTS[name].load(request) for name in names}


def _images(request: Request) -> Any:
    from etude.training.batches import load_images

    params = request.params
    repeats = params.repeats if isinstance(params, FurtherSets) else 1
    told = isinstance(params, TellsSizes) and params.original_sizes
    images = load_images(request.data / "latents", *further_places(params, "latents"), repeats=repeats, sizes=told)
    refuse_no_masks(params, images.attention, request.data.as_posix())
    return images


def _captions(request: Request) -> Any:
    from etude.training.batches import load_captions

    wanted = not isinstance(request.params, ReadsCaptions) or request.params.reads_captions
    return load_captions(request.data / "texts", *further_places(request.params, "texts")) if wanted else None


def _pictures(request: Request) -> Any:
    from etude.training.batches import load_pictures

    return load_pictures(request.data / "prepared")


def _views(request: Request) -> Any:
    from etude.training.views import load_views

    sets = list(request.declared(Concepts).concepts)
    views = load_views(request.own / "views", sets)
    refuse_no_masks(request.params, views.images.attention, ", ".join(f"data/{name}" for name in sets))
    return views


def _class_images(request: Request) -> Any:
    from etude.training.prior import load_prior

    params = request.declared(KeepsClass)
    return load_prior(request.own / "class_images", params.class_images.real) if params.prior_weight else None


def _models(request: Request) -> dict[str, Input]:
    """All models, by name; raises StaleError if one has changed since its stage *input* read it."""
    inputs = {}
    for name, path in request.declared(Models).models.items():
        digest = request.digests[path]
        if read_json(request.own / "inputs" / f"{name}.json")["sha256"] != digest:
            fault = f"has changed since the stage input@{name} of {request.method} read it"
            raise StaleError(path, fault, "run `dvc repro`")
        inputs[name] = Input(Path(path), digest)
    return inputs


INPUTS: Mapping[str, Need] = {
    "images": Need("data/${set}/latents", _images),
    "captions": Need("data/${set}/texts", _captions),  # methods with ReadsCaptions: ${reads} instead of texts
    "pictures": Need("data/${set}/prepared", _pictures),
    "views": Need("artifacts/${method}/views", _views),
    "class_images": Need("artifacts/${method}/class_images", _class_images),
    "models": Need("artifacts/${method}/inputs", _models),
}
