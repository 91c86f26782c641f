"""What a configuration of PEFT says of the weights beside it (LoraConfig, LoHaConfig, LoKrConfig; PEFT 0.21).

Three kinds of fields: those that are used here; harmless ones (the tensors show the same, or they mattered only in
training); and all others, which change what the weights mean: they are refused unless they are empty.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from etude.core.errors import FormatError
from etude.formats import peft_targets
from etude.formats.peft_patterns import LITERAL, PATTERNS, Patterns, is_usable
from etude.formats.peft_targets import EVERY, Targets, parse_targets

KINDS = {"LORA": "lora_alpha", "LOHA": "alpha", "LOKR": "alpha"}  # type → name of its alpha
FACTORS = {"LORA": ("lora_", "magnitude", "bias"), "LOHA": ("hada_",), "LOKR": ("lokr_",)}  # how their names begin
OF_LORA = ("use_rslora", "use_dora")
USED = {"peft_type", "r", "lora_alpha", "alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora"}
USED |= {*peft_targets.FIELDS}
HARMLESS = {
    *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
    # how it was trained
    *("lora_dropout", "rank_dropout", "module_dropout", "rank_dropout_scale", "init_weights"),
    # shapes of factors, which the tensors show
    *("use_effective_conv2d", "decompose_both", "decompose_factor", "lora_bias"),
    # settings for values of `init_lora_weights`, or for variants, that are themselves refused
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "megatron_core", "qalora_group_size"),
    "runtime_config",
}
# Initialisations that do not change the base; pissa, olora, corda, loftq and lora_ga remove a part of each weight.
STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
ADAPTER = "lora_adapter_metadata"  # JSON in the header of a file: "<part>.<field of peft's LoraConfig>"
_PLAIN = "write names of layers in place of the expressions"
DEFAULT = 8  # PEFT's rank and alpha if a configuration names none


@dataclass(frozen=True)
class Adapter:
    """What was configured: alpha and rank, the exceptions by pattern, and how the scale follows from them."""

    path: Path | str
    alpha: float = DEFAULT
    rank: int = DEFAULT
    alphas: Patterns = field(default_factory=lambda: Patterns({}))
    ranks: Patterns = field(default_factory=lambda: Patterns({}))
    stabilised: bool = False  # rsLoRA (Kalajdzievski, 2023, arXiv:2312.03732): the scale is alpha / √r
    decomposed: bool = False
    is_text: bool = False  # of a text encoder
    targets: Targets = EVERY
    kind: str = "LORA"

    def refuse_others(self, places: Sequence[tuple[str, str]]) -> None:
        """Raise FormatError for tensors that PEFT leaves out: of another kind, or of a module that is not named.

        ``places``: module and factor of each tensor.
        """
        for module, factor in places:
            if not factor.startswith((*FACTORS[self.kind], "alpha")):
                fault = f"is of the type {self.kind}, but `{module[:80]}` has `{factor}`, which is of another type"
                raise FormatError(self.path, fault, "fetch the file again, with the configuration that belongs to it")
            if not any(self.targets.has(name) for name in self._names(module)):
                fault = (
                    f"leaves out `{module[:80]}` ({', '.join(peft_targets.FIELDS[:3])}), but the file has tensors of it"
                )
                raise FormatError(self.path, fault, "fetch the file again, with the configuration that belongs to it")

    def rank_of(self, module: str) -> int:
        """The rank that PEFT gives a module."""
        return int(self.ranks.number(self._names(module), self.rank))

    def _names(self, module: str) -> tuple[str, ...]:
        """The names of a module: older versions of transformers add ``text_model.`` in a text encoder."""
        return (module, f"text_model.{module}") if self.is_text else (module,)

    def alpha_of(self, module: str, rank: int) -> float:
        """The alpha for which alpha / r is the module's scale; raises FormatError if it has another rank in PEFT."""
        if rank != self.rank_of(module):
            fault = f"says that `{module}` has rank {self.rank_of(module)}, but its tensors have rank {rank}"
            raise FormatError(self.path, fault, "fetch the file again, with the configuration that belongs to it")
        alpha = self.alphas.number(self._names(module), self.alpha)
        return alpha * math.sqrt(rank) if self.stabilised else alpha


def parse(path: Path | str, fields: Mapping[str, Any], *, is_text: bool = False) -> Adapter:
    """What the fields of a configuration say; raises FormatError naming one that cannot be used."""
    kind = fields.get("peft_type")
    kind = "LORA" if kind is None else str(kind)
    if kind not in KINDS:
        action = "save it as LoRA, LoHa or LoKr, or merge it into the base with PEFT (merge_and_unload)"
        raise FormatError(path, f"is an adapter of the type {kind[:40]}, which is not supported", action)
    for name, value in sorted(fields.items()):
        _refuse_meaning(path, name, value)
    if other := [name for name in OF_LORA if kind != "LORA" and fields.get(name)]:
        raise FormatError(
            path, f"has `{other[0]}`, but the type is {kind}", f"remove `{other[0]}`, or correct `peft_type`"
        )
    alpha, rank = KINDS[kind], "r"
    return Adapter(
        path,
        alpha=_number(path, alpha, fields.get(alpha, DEFAULT)),
        rank=int(_number(path, rank, fields.get(rank, DEFAULT))),
        alphas=Patterns(_patterns(path, "alpha_pattern", fields)),
        ranks=Patterns(_patterns(path, "rank_pattern", fields)),
        stabilised=_switch(path, "use_rslora", fields),
        decomposed=_switch(path, "use_dora", fields),
        is_text=is_text,
        targets=parse_targets(path, fields),
        kind=kind,
    )


def read_object(path: Path | str, name: str, text: str) -> dict[str, Any]:
    """The JSON object in ``text``; null is an empty one. Raises FormatError for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise FormatError(path, f"`{name}` is not JSON", "fetch or make it again") from None
    if value is not None and not isinstance(value, dict):
        raise FormatError(
            path, f"has a {type(value).__name__} in `{name}`, not a JSON object", "fetch or make it again"
        )
    return value or {}


def _refuse_meaning(path: Path | str, name: str, value: Any) -> None:
    """Raise FormatError for a field that changes what the weights mean and is not used here."""
    if name in USED | HARMLESS or not value or (name, value) == ("bias", "none"):
        return
    if name == "init_lora_weights":
        if value in STARTS:
            return
        action = "convert it with PEFT (save_pretrained with path_initial_model_for_weight_conversion)"
        raise FormatError(path, f"has `init_lora_weights: {str(value)[:40]}`, which changes the base", action)
    fault = f"has `{name}: {json.dumps(value, default=str)[:60]}`, which Étude does not support"
    raise FormatError(path, fault, "merge it into the base with PEFT (merge_and_unload), and use that model")


def _number(path: Path | str, name: str, value: Any) -> float:
    """A finite number."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if not known or not abs(value) < 1e30:  # also false for NaN
        raise FormatError(
            path, f"has `{name}: {str(value)[:40]}`, which must be a number between -1e30 and 1e30", "correct it"
        )
    return float(value)


def _switch(path: Path | str, name: str, fields: Mapping[str, Any]) -> bool:
    value = fields.get(name) or False
    if not isinstance(value, bool):
        raise FormatError(path, f"has `{name}: {str(value)[:40]}`, which is neither true nor false", "correct it")
    return value


def _patterns(path: Path | str, name: str, fields: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a field by regular expression; raises FormatError for an expression that cannot be matched."""
    patterns = {} if fields.get(name) is None else fields[name]
    if not isinstance(patterns, dict):
        raise FormatError(path, f"has a {type(patterns).__name__} in `{name}`, not names with numbers", "correct it")
    expressions = [key for key in patterns if not LITERAL.fullmatch(key)]
    if len(expressions) > PATTERNS:
        raise FormatError(
            path, f"has {len(expressions)} regular expressions in `{name}`, of at most {PATTERNS}", _PLAIN
        )
    for key in patterns:
        if not is_usable(key):
            fault = f"has the regular expression {key[:60]!r} in `{name}`, which is damaged or too long to match"
            raise FormatError(path, fault, _PLAIN)
    return {key: _number(path, name, value) for key, value in patterns.items()}
