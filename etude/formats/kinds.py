"""What a file is: its method and its family of base, recognised only by its keys and shapes."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from etude.core import artifact as artifacts
from etude.core.artifact import Artifact
from etude.core.errors import EtudeWarning, FormatError, InputError
from etude.core.families import by_names, listed
from etude.core.files import file_name
from etude.core.method import load_method, method_names
from etude.formats import FORMATS, WHOLE, Read, identify, method_of, read
from etude.formats.embedding_pair import embedding_pair
from etude.formats.pairs import is_plain
from etude.formats.words import LONGEST, choose_word, choose_words

OWN = "artifact"  # Étude's own form, which every method has
FIRST = (WHOLE, "delta")  # in a stack, these kinds come before those that are added to weights
# Tensors whose last size is the width of the text conditioning.
CONTEXT = re.compile(r"attn2\.to_[kv]\.(lora_A\.weight|hada_w1_b|glora_a2|diff)$")


def open_any(path: Path, *, name: str = "", pairs: bool = False, whole: Read | None = None) -> tuple[str, Artifact]:
    """The format's name and the content of a file or folder of any program; raises FormatError or InputError.

    The facts of another program's file have a name (``name``, or the name in the file, or the file's own), and the
    family if it is recognised. With ``pairs``, an embedding is read together with the negative one beside it
    (``<name>-neg``), as DreamArtist does. ``whole`` reads whole models, as in `etude.formats.read`.
    """
    path = artifacts.built(path)
    if not path.exists():
        raise InputError(path, "is missing", "check the path")
    if artifacts.is_artifact(path):
        return OWN, artifacts.load(path)
    form = identify(path)
    if pairs and FORMATS[form] == "embedding" and embedding_pair.partner(path):
        form = "embedding_pair"
    tensors, facts = read(form, path, whole)
    known = {key: value for key, value in facts.items() if value is not None}
    if "words" in known:
        known["words"] = choose_words(path, known["words"])
    known["name"] = name or _name_of(form, path, known)
    family = known.get("family") or family_of(tensors)
    return form, Artifact(method_of(form), tensors, known | ({"family": family} if family else {}))


def _name_of(form: str, path: Path, facts: Mapping[str, Any]) -> str:
    """The name in a file, or else the file's own; warns if programs that use file names know another word.

    Raises FormatError for a name that cannot be typed.
    """
    stem = Path(os.path.abspath(path)).stem  # also for `.`; a link has its own name, not its target's
    inside = facts.get("name")
    if facts.get("words") and "rank" not in facts:  # a LoRA is named after its file, even with embeddings in it
        joined = " ".join(facts["words"])
        inside = inside or (joined if len(joined.encode()) <= LONGEST else None)
    named = isinstance(inside, str) and file_name(inside) == stem
    if form == "embedding_pt" and not named:
        return choose_word(path, stem, inside)  # as A1111, which ignores the name inside
    word = choose_word(path, inside, stem)
    if form in ("embedding_safetensors", "embedding_image") and file_name(word) != file_name(stem):
        text = f"{path}: its word is `{word}` by its content; programs that use the file's name take `{stem}`"
        warnings.warn(text, EtudeWarning, stacklevel=3)
    return word


def kind_of(artifact: Artifact) -> str:
    """The kind of the files that an artifact is written as: a folder of `etude.formats`.

    "" if the artifact's method does not exist in this project.
    """
    if artifact.method not in method_names():
        return ""
    kind = FORMATS[load_method(artifact.method).formats[0]]
    return "lora" if kind == WHOLE and "rank" in artifact.facts else kind  # a merge of LoRAs


def same_kind(artifact: Artifact) -> tuple[str, ...]:
    """The formats in which an artifact can be written."""
    kind = kind_of(artifact)
    if kind == "delta" and "base" not in artifact.facts:
        return ()  # to convert whole weights to differences, or back, needs the base, which files do not name
    if kind == "lora" and not is_plain(artifact.tensors):
        dora = is_plain(name for name in artifact.tensors if not name.endswith(".dora_scale"))
        return ("kohya_lora", "diffusers_lora") if dora else ("kohya_lora",)
    return tuple(name for name in FORMATS if FORMATS[name] == kind)


def family_of(tensors: Mapping[str, Tensor]) -> str | None:
    """The family by the names of an embedding's or a LoRA's tensors, else by their widths; None if neither decides."""
    families = by_names(tensors)
    if len(families) == 1:
        return families[0].name
    context = next((tensor for name, tensor in tensors.items() if CONTEXT.search(name)), None)
    if context is None:
        context = tensors.get("text_encoder", tensors.get("positive.text_encoder"))
    if context is None:
        context = next((t for n, t in tensors.items() if n.endswith("self_attn.q_proj.lora_A.weight")), None)
    width = None if context is None else context.shape[-1]
    return next((family.name for family in families if family.width == width), None)


def described(facts: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """``facts`` with those that writing any format needs; raises FormatError if the family is not known."""
    if "family" not in facts:
        fault = "does not say for which family of base it was made, and its names and widths do not show it"
        raise FormatError(path, fault, f"add --family, with {listed()}")
    return {"prediction": "epsilon", **facts}
