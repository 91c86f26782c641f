"""Prompts with ``[name]``: the place of the word for what is learned."""

from __future__ import annotations

import re

from etude.core.errors import ParamsError

NAME = "[name]"


def fill(prompt: str, name: str) -> str:
    """``prompt`` with ``name`` in the place of ``[name]``; words left alone leave no gap."""
    return re.sub(r"\s+", " ", prompt.replace(NAME, name)).strip()


def prompts_of(prompts: dict[str, list[str]], chosen: str) -> list[str]:
    """The prompts of one image set; raises ParamsError when there are none."""
    if not prompts.get(chosen):
        raise ParamsError("params.yaml", f"`prompts` has none for the set `{chosen}`", f"add `prompts.{chosen}`")
    return prompts[chosen]
