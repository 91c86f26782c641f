"""What `build` of a method may ask for, by the name of an argument: one registry, which a new need is added to.

Nothing here imports torch before something is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from etude.base.settings import ClassPictures
from etude.core.errors import ParamsError, StaleError
from etude.core.files import read_json
from etude.core.method import Input, Method, needs
from etude.core.mixins import Concepts, Models, ReadsCaptions
from etude.core.params import MethodParams, Schema, nearest

M = TypeVar("M", bound=Schema)


@dataclass(frozen=True)
class Request:
    """Who asks."""

    method: str
    params: MethodParams
    digests: Mapping[str, str]  # of all that the stage depends on, by path

    def declared(self, mixin: type[M]) -> M:
        """The params as what they declare; raises ParamsError for a method whose `Params` lack it."""
        if isinstance(self.params, mixin):
            return self.params
        fault = f"`build` asks for what its `Params` do not declare: {mixin.__name__}"
        raise ParamsError(f"pipelines/{self.method}/method", fault, f"derive `Params` from {mixin.__name__}")

    @property
    def data(self) -> Path:
        """The folder of the method's image set."""
        return Path("data", self.params.set)

    @property
    def own(self) -> Path:
        """The folder of what the method's own stages made."""
        return Path("artifacts", self.method)


class Need(NamedTuple):
    """How one need is met."""

    dep: str  # what the build stage in dvc.yaml depends on for it
    load: Callable[[Request], Any]


def load_inputs(method: Method, request: Request) -> dict[str, Any]:
    """All that ``method.build`` asks for, by argument; raises EtudeError for what there is not."""
    asked = needs(method)
    for name in asked:
        if name not in INPUTS:
            fault = f"`build` asks for `{name}`, which no stage makes{nearest(name, INPUTS)}"
            raise ParamsError(f"pipelines/{request.method}/method", fault, "name another argument")
    return {name: INPUTS[name].load(request) for name in asked}


def _images(request: Request) -> Any:
    from etude.training.batches import load_images

    return load_images(request.data / "latents")


def _captions(request: Request) -> Any:
    from etude.training.batches import load_captions

    wanted = not isinstance(request.params, ReadsCaptions) or request.params.reads_captions
    return load_captions(request.data / "texts") if wanted else None


def _pictures(request: Request) -> Any:
    from etude.training.batches import load_pictures

    return load_pictures(request.data / "prepared")


def _views(request: Request) -> Any:
    from etude.training.views import load_views

    return load_views(request.own / "views", list(request.declared(Concepts).concepts))


def _class_images(request: Request) -> Any:
    from etude.training.prior import load_prior

    return load_prior(request.own / "class_images", request.declared(ClassPictures).class_images.real)


def _models(request: Request) -> dict[str, Input]:
    """Each of the models, if it is still what its stage *input* saw; raises StaleError."""
    found = {}
    for name, path in request.declared(Models).models.items():
        digest = request.digests[path]
        if read_json(request.own / "inputs" / f"{name}.json")["sha256"] != digest:
            fault = f"is not what the stage input@{name} of {request.method} saw"
            raise StaleError(path, fault, "run `dvc repro`")
        found[name] = Input(Path(path), digest)
    return found


INPUTS: Mapping[str, Need] = {
    "images": Need("data/${set}/latents", _images),
    "captions": Need("data/${set}/texts", _captions),  # ${reads} in place of texts where params declare ReadsCaptions
    "pictures": Need("data/${set}/prepared", _pictures),
    "views": Need("artifacts/${method}/views", _views),
    "class_images": Need("artifacts/${method}/class_images", _class_images),
    "models": Need("artifacts/${method}/inputs", _models),
}
