"""Hypernetwork: small networks before the keys and values of every attention layer (NovelAI and A1111, 2022).

k = to_k(H_k(x)) and v = to_v(H_v(x)) with H(x) = x + strength · stack(x), a pair for each width of x; no weight of the
base changes. During training, the strength is 1. The networks are in `networks`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from etude.core.errors import FormatError, ParamsError
from etude.core.method import own_name
from etude.core.params import Part, refuse_twice
from etude.training.masks import MaskedLoss
from etude.training.preview import HasPreview
from etude.training.sets import FurtherSets
from etude.training.sizes import TellsSizes
from etude.training.start import Start, Starts, shape_faults
from etude.training.tags import LearnsCaptions

if TYPE_CHECKING:
    from torch import Tensor, nn

    from etude.base.base import Base
    from etude.core.artifact import Artifact
    from etude.training.batches import Batch, Captions, Images
    from etude.training.report import Report

    from .networks import Design, Networks

METHOD = own_name(__name__)
unsupported: dict[str, str] = {}
formats = ("hypernetwork_pt",)
axes = {"strength": 1.0}

# A1111's names, without those that need arguments (threshold, multiheadattention), that halve the width (glu) and that
# mix the pictures of a batch (softmax, softmin, softmax2d, logsoftmax).
Activation = Literal[
    "linear", "relu", "leakyrelu", "elu", "swish", "tanh", "sigmoid", "softsign", "mish",  # ComfyUI supports these too
    "celu", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "logsigmoid", "prelu", "relu6", "rrelu",
    "selu", "silu", "softplus", "softshrink", "tanhshrink",
]  # fmt: skip


class Params(LearnsCaptions, TellsSizes, MaskedLoss, Starts, HasPreview, FurtherSets):
    """The method's params.yaml."""

    widths: list[Annotated[int, Field(ge=1, le=100_000)]]
    structure: list[Annotated[float, Field(gt=0, le=100)]] = Field(min_length=2, max_length=32)
    activation: Activation
    activate_output: bool
    layer_norm: Literal["none", "a1111", "unit"]
    dropout: list[Annotated[float, Field(ge=0, lt=1)]]
    initial: Literal["Normal", "XavierUniform", "XavierNormal", "KaimingUniform", "KaimingNormal"]
    save: Literal["fp32", "fp16", "bf16"]

    @model_validator(mode="after")
    def _possible(self) -> Self:
        refuse_twice(widths=self.widths)
        if self.structure[0] != 1 or self.structure[-1] != 1:
            raise ValueError(f"`structure` {self.structure} does not begin and end with 1")
        if self.dropout and len(self.dropout) != len(self.structure):
            raise ValueError(f"`dropout` has {len(self.dropout)} values, but `structure` has {len(self.structure)}")
        if self.dropout and (self.dropout[0] or self.dropout[-1]):
            raise ValueError(f"`dropout` {self.dropout} does not begin and end with 0")
        return self

    @property
    def step_parts(self) -> tuple[Part, ...]:
        """The UNet alone: texts are encoded once."""
        return ("unet",)

    def misfits(self, start: Start, parts: Mapping[str, nn.Module]) -> Iterator[str]:
        """Compare the architecture, and the widths of the networks."""
        import torch

        from .networks import input_widths

        design, facts = _design_of(self), start.facts
        for key in ("structure", "activation", "activate_output", "layer_norm"):
            own, found = getattr(design, key), facts.get(key)
            if found != own:
                yield f"has `{key}` {found}, where the params say {own}"
        with torch.device("meta"):
            networks = _new_networks(self, input_widths(parts["unet"]))
        wanted = {name: tuple(parameter.shape) for name, parameter in networks.named_parameters()}
        yield from shape_faults(start.shapes, wanted)


def build(*, base: Base, images: Images, captions: Captions, params: Params, report: Report) -> Artifact:
    """Train the networks on the loss of the base's prediction with the networks in place."""
    from etude.core.artifact import Artifact
    from etude.training import conditioning
    from etude.training.denoising import denoising_loss
    from etude.training.fit import fit

    plan = params.training
    batches, _, read = conditioning.captioned(base, images, captions, params, report)
    facts: dict[str, Any] = {"name": params.name, "initial": params.initial, "structure": params.structure}
    facts |= {"activation": params.activation, "activate_output": params.activate_output}
    facts |= {"layer_norm": params.layer_norm != "none", "dropout": params.dropout}
    with _learning(base, params, report.seed) as weights:
        learned = Artifact(METHOD, weights, facts, params.save)

        def loss(batch: Batch) -> Tensor:
            return denoising_loss(base, batch, read(batch), plan, params.cell_weights(batch.attention))

        return fit(weights, loss, batches, plan, report, learned)


@contextmanager
def apply(artifact: Artifact, base: Base, strength: float = 1.0) -> Iterator[Base]:
    """Add the networks to the base; on exit they are removed. Nested hypernetworks form a chain: H₂(H₁(x))."""
    from .networks import before_keys_and_values, restored

    networks = restored(artifact.tensors, _design(artifact.facts), base)
    with before_keys_and_values(base, networks, strength) as changed:
        yield changed


def _design(facts: dict[str, Any], dropout: tuple[float, ...] = ()) -> Design:
    """The architecture from an artifact's facts; dropout is only for training."""
    from .networks import Design

    architecture = {name: facts[name] for name in ("structure", "activation", "activate_output", "layer_norm")}
    return Design(**architecture, dropout=dropout)


def _design_of(params: Params) -> Design:
    """The architecture that the params describe."""
    from .networks import Design

    norm = params.layer_norm != "none"
    return Design(params.structure, params.activation, params.activate_output, norm, params.dropout)


def _new_networks(params: Params, widths: Sequence[int]) -> Networks:
    """Networks as the params describe them, for ``widths`` if the params name none.

    Raises ParamsError for a structure in which a width would be 0.
    """
    from .networks import make_networks

    try:
        return make_networks(params.widths or widths, _design_of(params))
    except FormatError as error:
        action = "use larger numbers in `structure`"
        raise ParamsError(f"pipelines/{METHOD}/params.yaml", error.fault, action) from error


@contextmanager
def _learning(base: Base, params: Params, seed: int) -> Iterator[dict[str, Tensor]]:
    """Add new networks to the base, in training mode. Yields their tensors by names in the artifact, in float32."""
    import torch

    from etude.core.randomness import mix

    from .networks import before_keys_and_values, initialise, input_widths

    torch.manual_seed(mix(seed, METHOD))
    widths = input_widths(base.unet)
    if unknown := sorted(set(params.widths) - set(widths)):
        fault = f"`widths` has {unknown[0]}, but {base.path} has {', '.join(map(str, widths))}"
        raise ParamsError(f"pipelines/{METHOD}/params.yaml", fault, "write some of these, or [] for all")
    networks = _new_networks(params, widths)
    initialise(networks, params.initial, params.activation, params.layer_norm == "unit")
    base.unet.hypernetwork = networks.to(base.device).train()  # in the UNet, so that previews switch off its dropout
    try:
        with before_keys_and_values(base, networks):
            yield dict(networks.named_parameters())
    finally:
        del base.unet.hypernetwork
