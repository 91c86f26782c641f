"""The headers of kohya, LyCORIS and OneTrainer: a file whose header contradicts its tensors is refused.

Most fields only say how the file was made. Fields that decide what the tensors mean are compared with the tensors: the
kind of factors, the alpha, rank-stabilised scales, DoRA's lengths, how OFT rotates. The programs themselves read only
the tensors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from etude.core.errors import FormatError
from etude.core.factors import by_layer, rank_of
from etude.formats.peft_config import read_object

ARGS = "ss_network_args"
CONFIG = "ot_config"  # OneTrainer's
ALGORITHMS = {  # LyCORIS' names → how the names of their factors begin in the common form
    **{"lora": "lora_", "locon": "lora_", "loha": "hada_", "lokr": "lokr_", "glora": "glora_"},
    **{"diag-oft": "oft_", "boft": "oft_", "ia3": "ia3_", "full": "diff"},
}
LYCORIS = ("kohya", "locon")  # modules of LyCORIS, with the kind in `algo`: lycoris.kohya, locon.kohya …
USED = {
    *("algo", "preset", "rs_lora", "use_rslora", "rank_stabilized", "dora_wd", "weight_decompose", "wd_on_output"),
    *("wd_on_out", "bypass_mode", "rescaled", "constraint", "constrain"),
}
HARMLESS = {
    # the layers, their ranks and alphas: the tensors show them
    *("conv_dim", "conv_alpha", "block_dims", "block_alphas", "conv_block_dims", "conv_block_alphas", "block_size"),
    *("linear_dim", "linear_alpha", "network_dim", "network_alpha", "network_reg_dims", "network_reg_lrs", "unit"),
    *("use_tucker", "use_cp", "use_conv_cp", "disable_conv_cp", "decompose_both", "factor", "full_matrix"),
    *("use_scalar", "train_norm", "unbalanced_factorization", "train_on_input", "enable_all_linear", "enable_conv"),
    *("include_patterns", "exclude_patterns", "train_t5xxl", "train_llm_adapter", "train_blocks", "split_qkv"),
    # how it was trained
    *("dropout", "rank_dropout", "module_dropout", "rank_dropout_scale", "loraplus_lr_ratio", "scale_weight_norms"),
    *("loraplus_unet_lr_ratio", "loraplus_text_encoder_lr_ratio", "block_lr_zero_threshold", "down_lr_weight"),
    *("mid_lr_weight", "up_lr_weight", "ggpo_beta", "ggpo_sigma", "verbose", "no_dim_warn", "warn_on_unmatched"),
}
RANK_STABILISED = ("rs_lora", "use_rslora", "rank_stabilized")
AGAIN = "fetch or make it again"
Layers = Mapping[str, Mapping[str, Tensor]]


def alpha_told(path: Path | str, metadata: Mapping[str, str], layer: str, rank: int) -> float:
    """The alpha of a layer that has none in the file: its rank; raises FormatError if the header says another."""
    told = _number(metadata.get("ss_network_alpha"))
    if told not in (None, float(rank)) and told != _number(metadata.get("ss_network_dim")):
        fault = f"says `ss_network_alpha: {told:g}`, but `{layer}`, of rank {rank}, has no alpha"
        raise FormatError(path, fault, "fetch the file again, or remove `ss_network_alpha` from the header")
    return float(rank)


def refuse_meaning(
    path: Path | str,
    metadata: Mapping[str, str],
    keys: Collection[str],
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
) -> None:
    """Raise FormatError if the header gives the tensors a meaning that they do not have.

    ``keys``: those of the file; ``tensors`` and ``facts``: what was read from it.
    """
    args = _args(path, metadata)
    layers = by_layer(tensors)
    names = {name for factors in layers.values() for name in factors}
    kinds = {start for start in ALGORITHMS.values() for name in names if name.startswith(start)}
    for name, value in sorted(args.items()):
        if name not in USED | HARMLESS and value not in (None, False, "", "none", [], {}):
            fault = f"has `{name[:40]}: {str(value)[:40]}` in `{ARGS}`, which Étude does not know"
            raise FormatError(path, fault, f"if you know that it has no effect, remove it from `{ARGS}` in the header")
    _refuse_kind(path, metadata.get("ss_network_module", ""), args, kinds)
    if any(_is_set(args, name) for name in RANK_STABILISED):
        _refuse_scale(path, metadata, args, layers, facts)
    _refuse_lengths(path, args, layers)
    _refuse_rotations(path, args, keys, layers)


def _args(path: Path | str, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The arguments in `ss_network_args` and OneTrainer's configuration, under LyCORIS' names; "true" as a bool."""
    texts = {name: "{}" if metadata.get(name, "") in ("", "None") else metadata[name] for name in (ARGS, CONFIG)}
    args = {name: _word(value) for name, value in read_object(path, ARGS, texts[ARGS]).items()}
    config = read_object(path, CONFIG, texts[CONFIG])
    if "peft_type" in config and config.get("training_method", "LORA") == "LORA":
        kind = str(config["peft_type"]).rpartition(".")[2].lower()
        fields = ("lokr_weight_decompose", "lokr_dora_on_output")
        fields = fields if kind == "lokr" else ("lora_decompose", "lora_decompose_output_axis")
        args |= {"algo": kind, "dora_wd": config.get(fields[0], False), "wd_on_output": config.get(fields[1])}
        if not args["dora_wd"] or kind not in ("lora", "lokr"):
            args |= {"dora_wd": False, "wd_on_output": None}
    return args


def _word(value: Any) -> Any:
    """A value, with the words of a command line converted: "True" is true."""
    words = {"true": True, "false": False, "1": True, "0": False, "none": None}
    return words.get(str(value).lower(), value)


def _is_set(args: Mapping[str, Any], *names: str) -> bool:
    return any(args.get(name) not in (None, False, "") for name in names)


def _number(value: Any) -> float | None:
    """A finite number, also as text; None for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _refuse_kind(path: Path | str, module: str, args: Mapping[str, Any], kinds: Collection[str]) -> None:
    """Raise FormatError for a header that names another kind of network than that of the tensors."""
    last = "" if module == "None" else module.rpartition(".")[2].lower()
    named = str(args.get("algo") or "").lower()
    if last in LYCORIS:
        named = named or "lora"
    elif last.startswith(("lora", "dylora", "locon")):
        named = "" if named in ("", "dylora") else named
        if "lora_" not in kinds:
            raise FormatError(path, f"says `ss_network_module: {module[:60]}`, but holds no LoRA", AGAIN)
    elif last in ("loha", "lokr"):
        named = last
    elif last:
        fault = f"says `ss_network_module: {module[:60]}`, whose tensors Étude does not know"
        raise FormatError(path, fault, "if the tensors are those of a usual LoRA, remove this field from the header")
    # A preset from a file of the user may give modules other algorithms than `algo`.
    if not named or re.search(r"[./\\]", str(args.get("preset") or "")):
        return
    if named == "dylora":
        fault = "says `algo: dylora`, which trains with another scale than its files give"
        raise FormatError(path, fault, "extract a LoRA of one rank from it (kohya's extract_lora_from_dylora)")
    if ALGORITHMS.get(named, named) not in kinds:
        found = ", ".join(sorted(f"{start}…" for start in kinds))
        raise FormatError(path, f"says it is of the algorithm `{named[:40]}`, but its factors are {found}", AGAIN)


def _refuse_scale(
    path: Path | str, metadata: Mapping[str, str], args: Mapping[str, Any], layers: Layers, facts: Mapping[str, Any]
) -> None:
    """Raise FormatError for rank-stabilised scales, α/√r, unless alpha contains the √r, as LyCORIS writes it."""
    alphas = facts.get("alphas", {})
    both = (_number(metadata.get("ss_network_alpha")), _number(args.get("conv_alpha")))
    told = {number for number in both if number is not None}
    for layer, factors in layers.items():
        rank, alpha = rank_of(factors), float(alphas.get(layer, facts["alpha"]))
        # not in LyCORIS' GLoRA, nor in any kind before July 2024; for two whole factors, no rank is known
        without = "glora_a1" in factors or {"lokr_w1", "lokr_w2"} <= factors.keys()
        plain = rank and alpha in told and not any(math.isclose(alpha, t * math.sqrt(rank), rel_tol=0.01) for t in told)
        if without or plain or not metadata.get("ss_network_module", "").startswith("lycoris"):
            said = next(name for name in RANK_STABILISED if _is_set(args, name))
            fault = f"says `{said}` in `{ARGS}`, but not whether the alpha of `{layer}` is multiplied by √r"
            raise FormatError(path, fault, f"if it is not, multiply each alpha by √r; then remove `{said}`")


def _refuse_lengths(path: Path | str, args: Mapping[str, Any], layers: Layers) -> None:
    """Raise FormatError for DoRA's lengths that are missing, or along another axis than the header says."""
    on_output = args.get("wd_on_output", args.get("wd_on_out"))
    lengths = {layer: f["dora_scale"] for layer, f in layers.items() if "dora_scale" in f}
    for layer, tensor in lengths.items():
        of_outputs = tensor.shape[0] == tensor.numel()
        if isinstance(on_output, bool) and tensor.numel() > 1 and on_output != of_outputs:
            told, found = ("input", "output") if of_outputs else ("output", "input")
            fault = f"says that DoRA has a number for each {told}, but `{layer}.dora_scale` has one for each {found}"
            raise FormatError(path, fault, AGAIN)
    plain = any(name.startswith(("lora_", "hada_", "lokr_")) for factors in layers.values() for name in factors)
    if _is_set(args, "dora_wd", "weight_decompose") and plain and not lengths:
        raise FormatError(path, "says that it is a DoRA, but no layer has a dora_scale", AGAIN)


def _refuse_rotations(path: Path | str, args: Mapping[str, Any], keys: Collection[str], layers: Layers) -> None:
    """Raise FormatError if the header says of OFT or (IA)³ what the tensors do not contain."""
    oft = [factors for factors in layers.values() if "oft_blocks" in factors]
    if _is_set(args, "bypass_mode") and (oft or any("ia3_out" in factors for factors in layers.values())):
        fault = "says `bypass_mode`, in which training also changes biases, but the file does not hold them"
        raise FormatError(path, fault, "train it without `bypass_mode`")
    if _is_set(args, "rescaled") and any("oft_rescale" not in factors for factors in oft):
        raise FormatError(path, "says `rescaled`, but has layers without `rescale`", AGAIN)
    said = next((name for name in ("constraint", "constrain") if _is_set(args, name)), None)
    if said and _number(args[said]) != 0:
        stems = [key.removesuffix(".oft_blocks") for key in keys if key.endswith(".oft_blocks")]
        if missing := [stem for stem in stems if f"{stem}.alpha" not in keys]:
            fault = f"says `{said}: {str(args[said])[:40]}`, but `{missing[0][:80]}` has no alpha, where it is stored"
            raise FormatError(path, fault, AGAIN)
