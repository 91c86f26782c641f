"""Several concepts in one model without training: the closed form of Custom Diffusion (arXiv:2212.04488, 4.2).

For each key and value matrix W, the nearest W' that maps the concepts' words to the same values as their own matrices:

    minimise ‖(W' - W) Kᵀ‖  subject to  W' Tᵀ = Vᵀ   ⇒   W' = W + (Vᵀ - W Tᵀ) (d Tᵀ)⁻¹ d,  d = T C⁻¹,  C = Kᵀ K

K [N, d] are states of captions whose output should not change, T [m, d] are states of the concepts' texts, and V
[m, out] is the output of W_i for them, the matrix of the concept to which a text belongs. Written from the paper.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from etude.core.errors import InputError
from etude.core.families import text_rows
from etude.core.method import own_name

if TYPE_CHECKING:
    from torch import Tensor

    from etude.base.base import Base
    from etude.core.artifact import Artifact

FRAMES = ("a photo of {}", "painting in the style of {}")  # sentences with a concept's text: a thing, or "<word> art"
RIDGE = 1e-9  # times C's mean diagonal: for directions that no caption contains, the smallest change is chosen
BEGINNING, LEFT_OUT = "photo of a", 3  # the first three words of a caption that begins like this are ignored


def merge(base: Base, artifacts: Sequence[Artifact], captions: Sequence[str]) -> Artifact:
    """One artifact with the words of all ``artifacts``; the output for ``captions`` should not change (the paper: 200).

    Raises InputError if an artifact contains more than keys and values, if two have the same word, or without captions.
    """
    import torch

    from etude.core.artifact import Artifact
    from etude.diffusion.hooks import added_tokens

    words = _words(artifacts)
    if not captions:
        raise InputError("captions", "are empty", "give a few hundred captions with many different words")
    with added_tokens(base, words), torch.no_grad():
        caption_states = states(base, list(captions)).cpu().double()  # on the host: a Mac's GPU has no float64
        text_states = [states(base, _prompts(one)).cpu().double() for one in artifacts]
    targets, owners = _distinct(text_states)
    tensors = {}
    for name in sorted(artifacts[0].tensors):
        if name.startswith("unet."):
            weight = base.unet.get_parameter(name.removeprefix("unet.")).detach().cpu().double()
            own = [one.tensors[name].to(weight) for one in artifacts]
            values = torch.stack([own[i] @ row for i, row in zip(owners, targets, strict=True)])
            tensors[name] = solve(weight, caption_states, targets, values).to(artifacts[0].tensors[name].dtype).cpu()
    word_list = list(words)
    for number, word in enumerate(word_list):
        tensors |= {f"words.{number}.{part}": row for part, row in zip(base.text_parts, words[word], strict=True)}
    prompts = [prompt for one in artifacts for prompt in one.facts["prompts"]]
    return Artifact(own_name(__name__), tensors, {**artifacts[0].facts, "words": word_list, "prompts": prompts})


def solve(weight: Tensor, caption_states: Tensor, targets: Tensor, values: Tensor) -> Tensor:
    """W' [out, d] from W [out, d], K [N, d], T [m, d] and V [m, out]."""
    import torch

    gram = caption_states.T @ caption_states
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    d = torch.linalg.solve(gram, targets.T).T
    missing = values.T - weight @ targets.T
    change: Tensor = missing @ torch.linalg.solve(d @ targets.T, d)
    return weight + change


def framed(prompt: str) -> str:
    """A concept's text in a sentence."""
    return FRAMES["art" in prompt.split()].format(prompt)


def states(base: Base, texts: Sequence[str]) -> Tensor:
    """The text encoder's states [N, d] at the tokens of each text, from the first after the start to the end token."""
    import torch

    from etude.base.text import encode_tokens, tokenise

    tokens = tokenise(base, texts)
    hidden = encode_tokens(base, tokens).hidden
    rows = []
    for text, ids, own in zip(texts, tokens.ids[0].tolist(), hidden, strict=True):
        first = 1 + (LEFT_OUT if text.startswith(BEGINNING) else 0)
        rows.append(own[first : ids.index(base.tokenizers[0].eos_token_id) + 1])
    return torch.cat(rows)


def _layers(artifact: Artifact) -> set[str]:
    return {name for name in artifact.tensors if name.startswith("unet.")}


def _words(artifacts: Sequence[Artifact]) -> dict[str, list[Tensor]]:
    """The rows of all artifacts by word; raises InputError for artifacts that cannot be merged."""
    words: dict[str, list[Tensor]] = {}
    for one in artifacts:
        others = [n for n in one.tensors if n.startswith("unet.") and not re.search(r"attn2\.to_[kv]\.weight$", n)]
        if others or _layers(one) != _layers(artifacts[0]):
            fault = f"changes {f'`{others[0]}`' if others else 'other layers than the first model'}"
            raise InputError(one.facts["name"], fault, "merge concepts learned with `layers: crossattn_kv`")
        for number, word in enumerate(one.facts["words"]):
            if word in words:
                raise InputError(word, "is the word of two concepts", "learn one of them under another word")
            words[word] = text_rows(one.tensors, f"words.{number}.")
    return words


def _distinct(text_states: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
    """All different rows, and for each the number of the first artifact that has it."""
    import torch

    rows: list[Tensor] = []
    owners: list[int] = []
    for number, own in enumerate(text_states):
        for row in own:
            if not any(torch.equal(row, other) for other in rows):
                rows.append(row)
                owners.append(number)
    return torch.stack(rows), owners


def _prompts(artifact: Artifact) -> list[str]:
    """Every prompt of an artifact, alone and in a sentence."""
    texts = []
    for prompt in artifact.facts["prompts"]:
        texts += [prompt, framed(prompt)]
    return texts
