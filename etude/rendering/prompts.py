"""The prompts to draw."""

from __future__ import annotations

from etude.core.errors import ParamsError


def prompts_of(prompts: dict[str, list[str]], chosen: str) -> list[str]:
    """The prompts of one image set; raises ParamsError if there are none."""
    if not prompts.get(chosen):
        raise ParamsError("params.yaml", f"`prompts` has no prompts for the set `{chosen}`", f"add `prompts.{chosen}`")
    return prompts[chosen]
