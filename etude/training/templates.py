"""Training texts from templates: [name] is the method's name, A1111's [filewords] is the picture's caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field

from etude.core.errors import InputError
from etude.core.placeholder import FILEWORDS, NAME
from etude.core.spelling import find_words, has_word
from etude.training.tags import Tags

Template = Annotated[str, Field(pattern=r"\[name\]|\[filewords\]", description="a text with [name] or [filewords]")]


def refuse_idle_reading(templates: Sequence[str], reads: str) -> None:
    """Raises ValueError unless ``reads`` (a dep of the build stage, texts or prepared) fits the templates."""
    needs_captions = any(FILEWORDS in template for template in templates)
    if needs_captions != (reads == "texts"):
        raise ValueError(f"`reads` must be `texts` if a template contains {FILEWORDS}, and otherwise `prepared`")


def refuse_silent(templates: Sequence[str], captions: Mapping[str, str], name: str, image_set: str, tags: Tags) -> None:
    """Raises InputError unless every text contains the name, in its template or in what ``tags`` keeps of captions."""
    if all(NAME in template for template in templates):
        return
    for picture, caption in sorted(captions.items()):
        action = f"begin each template with {NAME}: `{NAME} {FILEWORDS}`"
        if not has_word(name, caption):
            fault = f"the caption of {picture}, `{caption}`, lacks `{name}`"
            raise InputError(f"data/{image_set}", fault, f"write `{name}` in this caption, or {action}")
        if not has_word(name, tags.kept(caption)):
            fault = f"the caption of {picture}, `{caption}`, may lose `{name}` by `tags.dropout`"
            action = f"raise `tags.keep` so that this tag always stays, or {action}"
            raise InputError(f"data/{image_set}", fault, action)


def draw(templates: Sequence[str], captions: Sequence[str], name: str) -> list[str]:
    """A random template for each caption, filled in. [name] stays, and the name in a caption becomes [name]."""
    import torch

    chosen = torch.randint(len(templates), (len(captions),)).tolist()
    with_placeholder = (_with_placeholder(name, caption) for caption in captions)
    return [templates[i].replace(FILEWORDS, caption) for i, caption in zip(chosen, with_placeholder, strict=True)]


def _with_placeholder(name: str, caption: str) -> str:
    return "".join(piece if number is None else NAME for piece, number in find_words([name], caption))
