"""Let methods learn from the user's image set: set every value of params files that depends on the set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commands.rewriting import rewrite
from etude.arguments import refuse_unknown
from etude.core.errors import ArgumentError, ParamsError
from etude.core.files import atomic_path
from etude.core.method import load_method, method_names
from etude.core.params import MethodParams, classed, load, read_yaml
from etude.core.placeholder import NAME
from etude.training.sets import FurtherSets

SHIPPED = "data/samples/"  # the image sets of the demo: they come with prompts of their own
MINIATURE = "models/miniature"
CLASS = "[class]"
EMOJI = (NAME, f"a picture of {NAME}", f"a drawing of {NAME}", f"{NAME} on a red background")
PHOTOS = (f"a photo of {NAME}", f"a painting of {NAME}", f"{NAME} on the beach", f"{NAME} in the snow")
WITH_WORD = {"caption": "[name], [caption]", "templates": ["[name], [filewords]"]}
WITHOUT_WORD = ("[caption]", ["[filewords]"])  # the values that WITH_WORD replaces


def refuse(methods: Sequence[str], word: str, kind: str) -> None:
    """Raise an EtudeError for unknown methods, impossible words, and a missing class that a method needs."""
    for method in methods:
        refuse_unknown("--method", "method", method, method_names())
    if not methods and (word or kind):
        raise ArgumentError(
            "--name and --class", "need a method that learns them", "add --method, such as --method lora"
        )
    if word and not re.fullmatch(r"[\w-]{1,40}", word):
        raise ArgumentError(
            "--name", f"`{word}` is not one word of at most 40 characters", "use letters, digits, - and _"
        )
    if kind and not re.fullmatch(r"[\w'-]+( [\w'-]+)*", kind):
        raise ArgumentError(
            "--class",
            f"`{kind}` is not made of words with one space between them",
            "use letters, digits, `-`, `_` and `'` only, such as --class 'teddy bear'",
        )
    needing = [method for method in methods if load_method(method).Params.needs_class]
    if needing and not kind:
        fault = f"is needed by {' and '.join(needing)}: the kind of thing that the pictures show"
        raise ArgumentError("--class", fault, "add --class with it, such as --class dog")
    if kind and word == kind:
        raise ArgumentError(
            "--name", f"`{word}` is the word of --class too", "give another word, which has no meaning yet, such as rex"
        )


def add_set(draft: Path, name: str, folder: Path) -> None:
    """Write the set, and prompts for its pictures, into params.yaml; every other line stays as it is."""
    path = draft / "params.yaml"
    data = read_yaml(path)
    text = path.read_text(encoding="utf-8")
    if name not in data["sets"]:
        text = insert(text, "sets", [f"{name}: {folder.as_posix()}"])
        data["sets"][name] = folder.as_posix()
    if name not in data["prompts"]:
        prompts = _prompts(data["base"])
        text = insert(text, "prompts", [f"{name}:", *(f'  - "{prompt}"' for prompt in prompts)])
        data["prompts"][name] = list(prompts)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
        if not _reads_as(temporary, data):
            fault = "has `sets` or `prompts` in a form that this command cannot add to"
            raise ParamsError("params.yaml", fault, f"add `{name}: {folder.as_posix()}` and its prompts by hand")


def point(draft: Path, methods: Sequence[str], images: str, word: str, kind: str) -> list[str]:
    """Choose these methods, and let them learn from the set ``images``; returns a line for each changed value."""
    changes = rewrite(draft / "params.yaml", "params.yaml", {"methods": list(methods)})
    changes += fitting_prompts(draft)
    prompts = read_yaml(draft / "params.yaml")["prompts"][images]
    for method in methods:
        own = f"pipelines/{method}/params.yaml"
        params: MethodParams = load(draft / own, load_method(method).Params)
        values = read_yaml(draft / own)
        wanted = params.pointed(images, word or images, kind) | _without_others(params, images)
        if word and "caption" in values and not params.trigger:
            wanted["trigger"] = True  # a method that trains with captions can learn a word in them
        trigger = wanted.get("trigger", params.trigger)
        wanted |= {key: text for key, text in WITH_WORD.items() if trigger and values.get(key) in WITHOUT_WORD}
        if "preview" in values and not set(values["preview"]["prompts"]) <= set(prompts):
            wanted["preview.prompts"] = [prompts[0] if trigger or not kind else _of_class(prompts[0], kind)]
        changes += rewrite(draft / own, own, wanted)
    return changes


def _without_others(params: MethodParams, images: str) -> dict[str, Any]:
    """The keys that remove the further sets, if they belong to what the method learned from another set before."""
    if images == params.set or not isinstance(params, FurtherSets) or not params.further_sets:
        return {}
    return {"repeats": 1, "further_sets": {}}


def wordless(draft: Path, methods: Sequence[str]) -> list[str]:
    """The methods among these that leave [name] out of every prompt."""
    return [method for method in methods if not read_yaml(draft / "pipelines" / method / "params.yaml")["trigger"]]


def fitting_prompts(draft: Path) -> list[str]:
    """Set prompts that suit the base for the user's image sets and previews; prompts that people wrote stay."""
    data = read_yaml(draft / "params.yaml")
    fitting = list(_prompts(data["base"]))
    own = [name for name, folder in data["sets"].items() if not folder.startswith(SHIPPED)]
    unfit = {name: texts for name in own if (texts := data["prompts"].get(name)) in (list(EMOJI), list(PHOTOS))}
    changes = rewrite(draft / "params.yaml", "params.yaml", {f"prompts.{name}": fitting for name in unfit})
    for method in method_names():
        file = f"pipelines/{method}/params.yaml"
        values = read_yaml(draft / file)
        if values["set"] in unfit and values.get("preview", {}).get("prompts") == unfit[values["set"]][:1]:
            changes += rewrite(draft / file, file, {"preview.prompts": [fitting[0]]})
    return changes


def draws_photos(base: str) -> bool:
    """Whether a base can draw photos: any base but the miniature, which knows only emoji."""
    return not Path(base).as_posix().startswith(MINIATURE)


def _prompts(base: str) -> tuple[str, ...]:
    return PHOTOS if draws_photos(base) else EMOJI


def _of_class(prompt: str, kind: str) -> str:
    """The prompt with the class in place of the word, for pictures without the word."""
    return classed(prompt.replace(f"of {NAME}", f"of a {CLASS}").replace(NAME, CLASS), CLASS, kind)


def _reads_as(path: Path, data: dict[str, Any]) -> bool:
    try:
        return read_yaml(path) == data
    except ParamsError:
        return False


def insert(text: str, block: str, lines: list[str]) -> str:
    """``text`` (YAML) with ``lines`` as the last entry of the top-level mapping ``block``, indented like the others."""
    rows = [f"{row}\n" for row in text.splitlines()]
    start = next((number for number, row in enumerate(rows) if row.startswith(f"{block}:")), None)
    if start is None:
        return text
    inside = [start]
    for number, row in enumerate(rows[start + 1 :], start + 1):
        if row.strip() and not row.startswith((" ", "#")):
            break
        if row.startswith(" ") and row.strip():
            inside.append(number)
    indent = re.match(" *", rows[inside[1]])[0] if len(inside) > 1 else "  "  # type: ignore[index]  # it matches any row
    end = inside[-1] + 1
    return "".join([*rows[:end], *(f"{indent}{line}\n" for line in lines), *rows[end:]])
