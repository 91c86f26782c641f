"""The record of a merge in the file's header, as A1111 writes and shows it.

A1111 writes two JSON texts: ``sd_merge_recipe`` (the settings) and ``sd_merge_models`` (the models, by SHA-256).
Formulas that A1111 does not have are recorded by Étude's names; ``etude_merge_recipe`` contains all numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from etude.core.artifact import KEY, built
from etude.core.tensors import read_metadata
from etude.formats.metadata import LEGACY

from .formula_names import MANY, takes

if TYPE_CHECKING:
    from etude.core.method import Input

    from ..settings import Params

_TITLES = {"none": "No interpolation", "weighted_sum": "Weighted sum", "add_difference": "Add difference"}
_PLACES = {"a": "primary", "b": "secondary", "c": "tertiary"}


def record(params: Params, models: Mapping[str, Input], base: Input) -> dict[str, str]:
    """The entries of the header."""
    named = {letter: model for letter, model in models.items() if letter != "vae"}
    if "c" not in named and takes(params.formula, 3) == "" and params.formula not in MANY:
        named["c"] = base
    recipe: dict[str, Any] = {"type": "webui" if params.formula in _TITLES else "etude"}
    recipe |= {f"{place}_model_hash": named[x].digest if x in named else None for x, place in _PLACES.items()}
    recipe |= {
        "interp_method": _TITLES.get(params.formula, params.formula),
        "multiplier": params.alpha.rest,
        "save_as_half": params.save == "fp16",
        "custom_name": params.name,
        "config_source": 0,
        "bake_in_vae": models["vae"].path.name if "vae" in models else "None",
        "discard_weights": "",
        "is_inpainting": False,
        "is_instruct_pix2pix": False,
    }
    others: dict[str, Any] = {}
    for model in [*named.values(), *models.values()]:  # in A1111's order: a model, then those it was merged from
        others[model.digest] = _description(model)
        others |= json.loads(_header(model).get("sd_merge_models", "{}"))
    own = params.recipe()
    del own["set"]  # the set on which a merge is measured does not change the merge
    return {
        "sd_merge_recipe": json.dumps(recipe),
        "sd_merge_models": json.dumps(others, sort_keys=True),
        "etude_merge_recipe": json.dumps(own, sort_keys=True),
    }


def _header(model: Input) -> dict[str, str]:
    """The header of a model's file; for an artifact, with the entries that its exported file will have."""
    path = built(model.path)
    header = dict(read_metadata(path)) if path.is_file() and path.suffix.lower() == ".safetensors" else {}
    return header | dict(json.loads(header.get(KEY, "{}")).get("metadata", {}))


def _description(model: Input) -> dict[str, Any]:
    """Name, oldest hash, and recipe (if the model is a merge itself)."""
    path, header = built(model.path), _header(model)
    if path.is_dir():
        return {"name": path.name, "legacy_hash": None, "sd_merge_recipe": None}
    with path.open("rb") as file:
        file.seek(LEGACY.start)
        legacy = hashlib.sha256(file.read(LEGACY.stop - LEGACY.start)).hexdigest()[:8]
    recipe = json.loads(header.get("sd_merge_recipe", "null"))
    name = json.loads(header.get(KEY, "{}")).get("method", path.name)
    return {"name": name, "legacy_hash": legacy, "sd_merge_recipe": recipe}
