"""The layers of a LoRA file of any program: their factors, checked and in the common form.

`etude.diffusion.factors` says how factors change a weight. The reader of a format gives the place of each key, its
layer and factor; `read_layers` does the rest.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.factors import rank_of, refuse_overflow
from etude.core.weights import refuse_infinite
from etude.formats.pairs import ranks_and_alphas, scaled, unknown

WRITTEN = {  # factor in the common form → in files of kohya and LyCORIS
    "lora_A.weight": "lora_down.weight",
    "lora_B.weight": "lora_up.weight",
    "lora_mid.weight": "lora_mid.weight",
    **{f"hada_{name}": f"hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f"lokr_{name}": f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
    **{f"glora_{name}": f"{name}.weight" for name in ("a1", "a2", "b1", "b2")},
    "oft_blocks": "oft_blocks",
    "oft_rescale": "rescale",
    "dora_scale": "dora_scale",
    "diff": "diff",
    "diff_b": "diff_b",
}
NORMS = {"diff": "w_norm", "diff_b": "b_norm"}  # LyCORIS' names of whole differences of norms
READ = {other: own for own, other in [*WRITTEN.items(), *NORMS.items()]} | {name: name for name in WRITTEN}
READ |= {"weight": "ia3", "on_input": "ia3_on_input"}
FACTORS = (*WRITTEN, "ia3_in", "ia3_out")  # of the common form
# What belongs to a layer besides its factors; "magnitude" and "bias" are PEFT's.
BESIDE = ("alpha", "scalar", "magnitude", "bias", "ia3", "ia3_on_input")
# The factors that LyCORIS multiplies by its scalar when it saves
SCALED = ("lora_B.weight", "hada_w1_a", "lokr_w1", "lokr_w1_a", "glora_a2", "glora_b2", "diff")
DECOMPOSED = ("lora_", "hada_", "lokr_", "diff")  # kinds that may come with DoRA's lengths
# The factors that a layer may have, each with its axes: a letter is one size wherever it occurs in a layer.
_LOKR = [
    {**one, **other}
    for one in ({"lokr_w1": "ac"}, {"lokr_w1_a": "ar", "lokr_w1_b": "rc"})
    for other in (
        {"lokr_w2": "bd"},
        {"lokr_w2_a": "bs", "lokr_w2_b": "sd"},
        {"lokr_w2_a": "sb", "lokr_w2_b": "sd", "lokr_t2": "ss"},
    )
]
FORMS: tuple[dict[str, str], ...] = (
    {"lora_A.weight": "ri", "lora_B.weight": "or"},
    {"lora_A.weight": "ri", "lora_B.weight": "or", "lora_mid.weight": "rr"},
    {"hada_w1_a": "or", "hada_w1_b": "ri", "hada_w2_a": "os", "hada_w2_b": "si"},
    {"hada_w1_a": "ro", "hada_w1_b": "ri", "hada_w2_a": "so", "hada_w2_b": "si", "hada_t1": "rr", "hada_t2": "ss"},
    *_LOKR,
    {"diff": "o"},
    {"diff_b": "o"},
    {"glora_a1": "ir", "glora_a2": "ri", "glora_b1": "or", "glora_b2": "ri"},
    {"oft_blocks": ""},
    {"oft_blocks": "", "oft_rescale": "o"},
    {"ia3_in": ""},
    {"ia3_out": ""},
)
_GLORA = ("glora_a1", "glora_a2", "glora_b1", "glora_b2")
BUNDLE = "bundle_emb."  # A1111's embeddings in the file of a LoRA: bundle_emb.<word>.<name>
_ENCODERS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
_BUNDLED = re.compile(r"bundle_emb\.(.+)\.(?:(emb_params|clip_[lg])|string_to_param\..+)", re.DOTALL)
_ROWS = {"emb_params": "text_encoder"} | {name: part for part, name in _ENCODERS.items()}

Place = tuple[str, str]  # layer and factor
Layers = dict[str, dict[str, Tensor]]


def read_layers(
    path: Path | str,
    tensors: Mapping[str, Tensor],
    place: Callable[[str], Place | None],
    alpha_of: Callable[[str, int], float] = lambda layer, rank: float(rank),
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The common form, and facts: rank, alpha, alphas, and the words of embeddings that come with the layers.

    ``alpha_of(layer, rank)`` is the alpha of a layer that has none in the file. Raises FormatError.
    """
    common, words = _bundled(path, {key: tensor for key, tensor in tensors.items() if key.startswith(BUNDLE)})
    layers = _placed(path, {key: tensor for key, tensor in tensors.items() if not key.startswith(BUNDLE)}, place)
    known = {}
    for layer, factors in sorted(layers.items()):
        rank, alpha = _finish(path, layer, factors, alpha_of)
        if factors:
            known[layer] = rank, alpha
        for factor, tensor in sorted(factors.items()):
            common[f"{layer}.{factor}"] = tensor
    if not known:
        raise FormatError(path, "holds no LoRA", "give the file of a LoRA")
    facts = ranks_and_alphas(known)
    refuse_overflow(path, common, facts)
    return common, facts | ({"words": words} if words else {})


def recognises(keys: Collection[str], place: Callable[[str], Place | None]) -> bool:
    """Whether every key has a place or belongs to a bundled embedding, and at least one is a factor."""
    places = [place(key) for key in keys if not key.startswith(BUNDLE)]
    return all(places) and any(found and found[1] not in ("alpha", "scalar") for found in places)


def _placed(path: Path | str, tensors: Mapping[str, Tensor], place: Callable[[str], Place | None]) -> Layers:
    """The tensors by layer and factor; raises FormatError for a key without a place, and for two with the same."""
    layers: Layers = defaultdict(dict)
    origins: dict[Place, str] = {}
    places = {key: place(key) for key in tensors}
    if strange := [key for key, found in places.items() if found is None]:
        raise unknown(path, strange)
    for key, found in places.items():
        if found is None:
            continue
        if found in origins:
            fault = f"has one tensor under two names: `{origins[found]}` and `{key}`"
            raise FormatError(path, fault, "remove one of the two")
        if not tensors[key].numel():
            raise FormatError(path, f"`{key}` is empty: {list(tensors[key].shape)}", "fetch or make it again")
        origins[found] = key
        layers[found[0]][found[1]] = tensors[key]
    return layers


def _finish(
    path: Path | str, layer: str, factors: dict[str, Tensor], alpha_of: Callable[[str, int], float]
) -> tuple[int, float]:
    """Reduce ``factors`` in place to those of the common form; return rank and alpha. Raises FormatError."""
    beside = {name: factors.pop(name) for name in BESIDE if name in factors}
    numbers = {}
    for name in ("alpha", "scalar"):
        if name in beside:
            numbers[name] = _number(path, f"{layer}.{name}", beside.pop(name))
    if not factors and not beside:
        return 0, 0.0  # an alpha alone changes nothing
    _from_ia3(path, layer, factors, beside)
    turned = _turn_old_glora(factors)
    sizes = _checked(path, layer, factors)
    if "magnitude" in beside:
        factors["dora_scale"] = _rows_of_peft(path, layer, beside["magnitude"])
    if "dora_scale" in factors:
        factors["dora_scale"] = _lengths(path, layer, factors, sizes)
    rank = rank_of(factors) or 0
    if "alpha" in numbers:
        alpha = numbers["alpha"]
    else:
        alpha = alpha_of(layer, rank) if rank else float("oft_blocks" not in factors)  # OFT's is a bound; 0: no bound
    rank = rank or 1
    if turned and alpha != rank:
        fault = f"has in `{layer}` a GLoRA of LyCORIS before 3.0 with alpha {alpha:g} and rank {rank}"
        fault += ": programs scale it differently"
        raise FormatError(path, fault, "merge it into its base with the program that made it")
    if "scalar" in numbers:
        names = [name for name in SCALED if name in factors]
        if not names:
            raise unknown(path, [f"{layer}.scalar"])
        factors |= {name: scaled_finite(path, f"{layer}.{name}", factors[name], numbers["scalar"]) for name in names}
    if "bias" in beside:
        factors["diff_b"] = scaled_finite(path, f"{layer}.bias", beside["bias"], alpha / rank)
    return rank, alpha


def scaled_finite(path: Path | str, name: str, tensor: Tensor, number: float) -> Tensor:
    """``number`` times a tensor of a file; raises FormatError naming it if the result is not finite."""
    return refuse_infinite(path, f"`{name}`, scaled by {number:g},", scaled(tensor, number))


def _rows_of_peft(path: Path | str, layer: str, lengths: Tensor) -> Tensor:
    """PEFT's lengths of rows as a vector: they are [out], or [1, out, 1, 1] of a convolution."""
    if lengths.ndim != 1 and (lengths.ndim != 4 or lengths.numel() != lengths.shape[1]):
        fault = f"`{layer}.lora_magnitude_vector` is {list(lengths.shape)}: neither [out] nor [1, out, 1, 1]"
        raise FormatError(path, fault, "fetch or make it again")
    return lengths.flatten()


def _number(path: Path | str, name: str, tensor: Tensor) -> float:
    """The one number in a tensor."""
    if tensor.numel() != 1:
        raise FormatError(path, f"`{name}` has {tensor.numel()} values instead of one", "fetch or make it again")
    if tensor.is_complex() or not math.isfinite(value := float(tensor)):
        raise FormatError(path, f"`{name}` is {tensor.item()}, which is no finite number", "fetch or make it again")
    return value


def _from_ia3(path: Path | str, layer: str, factors: dict[str, Tensor], beside: Mapping[str, Tensor]) -> None:
    """LyCORIS' ``weight`` and ``on_input`` of (IA)³ as one factor, by input or output channels."""
    if "ia3" not in beside and "ia3_on_input" not in beside:
        return
    if "ia3" not in beside or "ia3_on_input" not in beside:
        missing = "on_input" if "ia3" in beside else "weight"
        raise FormatError(path, f"`{layer}` has no {missing}", "fetch the file again")
    on_input = _number(path, f"{layer}.on_input", beside["ia3_on_input"])
    factors["ia3_in" if on_input else "ia3_out"] = beside["ia3"]


def _turn_old_glora(factors: dict[str, Tensor]) -> bool:
    """Give factors of GLoRA before LyCORIS 3.0 (a1 and b1 [r, in], b2 [out, r]) today's names; whether it did."""
    shapes = [tuple(factors[name].shape[:2]) for name in _GLORA if name in factors and factors[name].ndim >= 2]
    if len(shapes) < len(_GLORA):
        return False
    a1, a2, b1, b2 = shapes
    as_today = a1 == a2[::-1] and a1[1] == b1[1] == b2[0]
    as_before = a1 == a2[::-1] and a1[0] == b1[0] == b2[1]
    if not as_before or (as_today and a1[0] >= a1[1]):  # on square layers both fit: the rank is the smaller size
        return False
    values = [factors[name] for name in _GLORA]
    factors |= dict(zip(("glora_a2", "glora_a1", "glora_b2", "glora_b1"), values, strict=True))
    return True


def _checked(path: Path | str, layer: str, factors: Mapping[str, Tensor]) -> dict[str, int]:
    """The sizes of a layer's axes; raises FormatError when its factors are not of one form, or do not fit."""
    extras = {"diff_b"} | ({"dora_scale"} if any(name.startswith(DECOMPOSED) for name in factors) else set())
    own = factors.keys() - extras or factors.keys()
    form = next((form for form in FORMS if form.keys() == own), None)
    if form is None:
        begun = max(FORMS, key=lambda form: (len(own & form.keys()), -len(form)))
        if missing := [WRITTEN[factor] for factor in begun if factor not in own]:
            raise FormatError(path, f"`{layer}` has no {', '.join(missing)}", "fetch the file again")
        names = ", ".join(sorted(own))
        raise FormatError(path, f"`{layer}` has factors of several kinds: {names}", "fetch the file again")
    sizes: dict[str, int] = {}
    fits = True
    for name, axes in form.items():
        shape = factors[name].shape
        fits = fits and len(shape) >= len(axes) and 1 <= len(shape) <= 4
        for axis, size in zip(axes, shape, strict=False):
            fits = fits and sizes.setdefault(axis, size) == size
    blocks = factors.get("oft_blocks")
    if not fits or (blocks is not None and (blocks.ndim < 3 or blocks.shape[-1] != blocks.shape[-2])):
        shapes = ", ".join(f"{WRITTEN.get(name, name)} {list(factors[name].shape)}" for name in form)
        raise FormatError(path, f"`{layer}` has factors that do not fit: {shapes}", "fetch the file again")
    return sizes


def _lengths(path: Path | str, layer: str, factors: Mapping[str, Tensor], sizes: Mapping[str, int]) -> Tensor:
    """DoRA's lengths of rows as [out, 1, …], or of columns as [1, in, …]; a vector has those of rows, as in PEFT.

    Raises FormatError for a shape that is neither.
    """
    lengths, ones = factors["dora_scale"], [1] * (max(factor.ndim for factor in factors.values()) - 2)
    rows, columns = sizes.get("o"), sizes.get("i")
    if "a" in sizes:  # LoKr: products of two sizes
        rows, columns = sizes["a"] * sizes["b"], sizes["c"] * sizes["d"]
    count = lengths.numel()
    if lengths.shape[:1] == (count,) and rows in (count, None):
        return lengths.reshape(count, 1, *ones)
    if columns and "lora_A.weight" not in factors:  # other kinds join input and kernel of a convolution
        columns = count if columns % count == 0 else columns
    if lengths.shape[:2] == (1, count) and columns in (count, None):
        return lengths.reshape(1, count, *ones)
    fault = f"`{layer}.dora_scale` is {list(lengths.shape)}: neither [{rows}, 1] nor [1, {columns}]"
    raise FormatError(path, fault, "fetch or make it again")


def named(factor: str, tensor: Tensor, norm: bool) -> dict[str, Tensor]:
    """A factor of the common form under its name in LyCORIS' files; ``norm``: whether the layer is a norm."""
    if factor.startswith("ia3_"):
        return {"weight": tensor, "on_input": torch.tensor(int(factor == "ia3_in"))}
    return {(NORMS if norm else WRITTEN)[factor]: tensor}


def bundled(artifact: Artifact) -> dict[str, Tensor]:
    """The embeddings that an artifact has besides its layers, by the names that A1111 gives them in a LoRA's file."""
    tensors = {}
    for i, word in enumerate(artifact.facts.get("words", [])):
        names = {part: f"words.{i}.{part}" for part in _ENCODERS}
        rows = {part: artifact.tensors[name] for part, name in names.items() if name in artifact.tensors}
        single = len(rows) == 1 and "text_encoder" in rows
        for part, row in rows.items():
            tensors[f"{BUNDLE}{word}.{'string_to_param.*' if single else _ENCODERS[part]}"] = row.contiguous()
    return tensors


def _bundled(path: Path | str, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """``words.<i>.<text encoder>`` [n, d] and the words, of the embeddings in a LoRA's file."""
    rows: dict[str, Tensor] = {}
    words: list[str] = []
    for key, tensor in sorted(tensors.items()):
        match = _BUNDLED.fullmatch(key)
        if match is None or tensor.ndim not in (1, 2) or not tensor.numel():
            fault = f"has an embedding in it that cannot be used: `{key}` {list(tensor.shape)}"
            raise FormatError(path, fault, "remove it from the file, or fetch the file again")
        word, part = match[1], _ROWS[match[2] or "emb_params"]
        words += [] if word in words else [word]
        row = f"words.{words.index(word)}.{part}"
        if row in rows:
            raise FormatError(path, f"has the embedding of `{word}` twice: `{key}`", "remove one of the two")
        rows[row] = tensor if tensor.ndim == 2 else tensor[None]
    return rows, words
