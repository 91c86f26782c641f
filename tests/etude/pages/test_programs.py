from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from etude.base.loading import load_base
from etude.core.artifact import Artifact
from etude.core.files import Draft
from etude.core.method import load_method, method_names
from etude.formats import FORMATS, load_format, write
from etude.pages.programs import PROGRAMS, USES, Export, Row, rows
from tasks.export import read_frame
from tests.pipelines.test_lora import random_lora
from tests.tiny import build_tiny

FACTS: dict[str, Any] = {"name": "owl", "family": "sd1", "base": "models/miniature"}


def export(files: dict[str, list[str]], prompt: str = "[name] on a red background", **facts: Any) -> Export:
    return Export("lora", FACTS | facts, files, prompt, trigger=True)


def row(found: Export, program: str) -> Row:
    (only,) = [row for row in rows(found) if row.program == program]
    return only


def test_every_format_that_is_written_has_its_place_in_the_table() -> None:
    assert set(USES) == set(FORMATS)
    exported = {form for name in method_names() for form in load_method(name).formats}
    assert exported <= set(USES)


def test_every_page_says_something_of_each_of_the_four_programs() -> None:
    for forms in (["kohya_lora"], ["hypernetwork_pt"], ["null_text"]):
        assert set(PROGRAMS) <= {row.program for row in rows(export({form: [] for form in forms}))}
    assert row(export({"hypernetwork_pt": ["owl.pt"]}), "SD.Next").files == ()  # it dropped them


def test_a_lora_is_called_in_the_prompt_or_by_a_node_and_its_word_stays() -> None:
    found = export({"kohya_lora": ["owl.safetensors"]})
    assert row(found, "A1111").files == [("owl.safetensors", "models/Lora")]
    assert row(found, "A1111").prompt == "owl on a red background <lora:owl:1>"
    assert row(found, "ComfyUI").files == [("owl.safetensors", "models/loras")]
    assert row(found, "ComfyUI").prompt == "owl on a red background"
    assert row(found, "SD.Next").prompt == "owl on a red background <lora:owl:1>"


def test_an_embedding_is_called_by_the_name_of_its_file() -> None:
    files = {"embedding_pt": ["sks.pt"], "embedding_safetensors": ["sks.safetensors"]}
    found = export(files, name="<sks>")
    assert row(found, "A1111").files == [("sks.pt", "embeddings")]
    assert row(found, "A1111").prompt == "sks on a red background"
    assert row(found, "ComfyUI").prompt == "embedding:sks on a red background"
    assert row(found, "SD.Next").files == [("sks.safetensors", "models/embeddings")]


def test_a_pair_of_words_has_one_in_the_negative_prompt() -> None:
    names = ["owl.pt", "owl-neg.pt", "owl.safetensors", "owl-neg.safetensors"]
    found = row(export({"embedding_pair": names}), "ComfyUI")
    assert [file for file, _ in found.files] == ["owl.safetensors", "owl-neg.safetensors"]
    assert (found.prompt, found.negative) == ("embedding:owl on a red background", "embedding:owl-neg")


def test_new_words_of_a_lora_are_files_beside_it() -> None:
    files = {"svd_lora": ["owleagle.safetensors"], "webui_delta": ["owleagle.delta.safetensors", "owl.pt"]}
    found = row(export(files, name="<owl> eagle", words=["<owl>"]), "A1111")
    assert found.files == [("owleagle.safetensors", "models/Lora"), ("owl.pt", "embeddings")]
    assert found.prompt == "owl eagle on a red background <lora:owleagle:1>"


def test_what_needs_no_word_is_drawn_without_one() -> None:
    found = Export("hypernetwork", FACTS, {"hypernetwork_pt": ["owl.pt"]}, "[name] panda", trigger=False)
    assert row(found, "A1111").prompt == "panda <hypernet:owl:1>"


FORMS = ("diffusers_embedding", "embedding_pair", "diffusers_checkpoint", "clip_image_embedding")
OTHERS = [pytest.param(form, marks=pytest.mark.slow) for form in FORMS]


@pytest.mark.parametrize("form", ["diffusers_lora", *OTHERS])
def test_the_code_for_diffusers_draws_what_was_learned(
    form: str, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if form == "clip_image_embedding":
        tiny_base = build_tiny(tmp_path / "unclip", unclip=True)
    made = learned(form, tiny_base)
    folder = tmp_path / "artifacts/lora/export"
    folder.mkdir(parents=True)
    paths = write(form, made, Draft(folder), lambda: read_frame(tiny_base))
    listed = {form: [path.relative_to(folder).as_posix() for path in paths]}
    found = row(Export("lora", made.facts, listed, "[name]", trigger=True), "diffusers")
    drawn = []
    for code in (found.code, untouched(found.code, tiny_base)):
        exec(quick(code), {"torch": torch})
        with Image.open(f"{made.facts['name']}.png") as picture:
            drawn.append(picture.tobytes())
    assert drawn[0] != drawn[1]


def quick(code: str) -> str:
    """The same program in two steps, from one seed."""
    code = code.replace("pipe('", "pipe(prompt='")
    return code.replace("pipe(", "pipe(generator=torch.manual_seed(0), num_inference_steps=2, ")


def untouched(code: str, base: Path) -> str:
    """The same program, with nothing loaded into the base."""
    code = code.replace('"artifacts/lora/export/zyx"', repr(str(base))).replace("image_embeds=z", "image_embeds=0 * z")
    return "\n".join(line for line in code.splitlines() if ".load_" not in line and "for word" not in line)


def learned(form: str, base: Path) -> Artifact:
    facts = {"name": "zyx", "base": str(base), "family": "sd1", "prediction": "epsilon"}
    if form == "diffusers_lora":
        made = random_lora(load_base(base), targets=["attention"])
        return Artifact("lora", made.tensors, made.facts | facts)
    rows = 9 * torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    if form == "diffusers_embedding":
        return Artifact("textual_inversion", {"text_encoder": rows}, facts)
    if form == "clip_image_embedding":
        return Artifact("clip_inversion", {"clip_image_embeds": rows[:1]}, facts | {"noise_level": 0})
    if form == "embedding_pair":
        sides = {"positive.text_encoder": rows, "negative.text_encoder": -rows}
        return Artifact("dream_artist", sides, facts)
    weights = {name: tensor + 0.5 for name, tensor in load_format(form).read(base)[0].items() if "conv_out" in name}
    return Artifact("fine_tuning", weights, facts)
