"""Values that mean nothing: each is refused before any work, in every file, with the key and what to do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from commands.rewriting import rewrite
from etude.core.errors import ParamsError
from etude.core.method import load_method, method_names
from etude.core.params import Schema
from etude.project import Project, check
from flows.settings import Settings
from tests.shipped import PARAMS


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(PARAMS, tmp_path / "project"))
    text = (folder / "params.yaml").read_text(encoding="utf-8")
    (folder / "params.yaml").write_text(text.replace("  - textual_inversion\n", ""), encoding="utf-8")  # one is enough
    return folder


def told(project: Path, file: str, values: dict[str, Any]) -> str:
    """What is said of other values in a file; of a method's own, when it is the chosen one."""
    if file != "params.yaml":
        rewrite(project / "params.yaml", "params.yaml", {"methods": [file]})
        file = f"pipelines/{file}/params.yaml"
    rewrite(project / file, file, values)
    with pytest.raises(ParamsError) as caught:
        check(project)
    said = str(caught.value)
    assert "Next: " in said
    assert "?." not in said
    return said


ROOT = [
    ({"methods": ["lora", "lora"]}, "`methods` holds 'lora' twice"),
    (
        {"methods": ["lroa"]},
        "`methods` has `lroa`, which is no method, did you mean `lora`? Next: choose among aesthetic",
    ),
    ({"sets": {"../x": "data/samples/concept"}}, "small letters, digits and _"),
    (
        {"sets": {"raw": "data/samples/concept"}},
        "`sets` has `raw`: choose another name, because data/raw has another use",
    ),
    ({"sets.concept": ""}, "`sets.concept`"),
    ({"sets.concept": "data/.."}, "sets.concept: 'data/..' is the project's folder or a parent of it"),
    ({"sets.concept": "/"}, "sets.concept: '/' is the project's folder"),
    ({"sets.concept": "../.."}, "or a parent of it"),
    ({"sets.concept": "~/photos"}, "does not begin with a space, - or ~"),
    ({"base": "--help"}, "`base`"),
    ({"seed": -1}, "`seed`"),
    ({"seed": 2**63}, "`seed`"),
    ({"threads": 10**6}, "`threads`"),
    ({"processes": 10**6}, "`processes`"),
    ({"device": "cpu", "precision": "fp16"}, "`precision: fp16` needs a GPU"),
    ({"prompts.concept": []}, "`prompts.concept` needs 1 or more"),
    ({"prompts.concept": ["a", "a"]}, "`prompts.concept` holds 'a' twice"),
    ({"prepare.resolution": 100}, "`prepare.resolution`"),
    ({"prepare.buckets": 100}, "`prepare.buckets`"),
    ({"caption.captioners": {"clip": ""}}, "`caption.captioners.clip`"),
    ({"caption.words.templates": ["a"]}, "`caption.words.templates.0`"),
    ({"caption.words.styles": ["flat", "flat"]}, "`styles` holds 'flat' twice"),
    ({"sampling.steps": 0}, "`sampling.steps`"),
    ({"sampling.steps": 1000}, "`sampling.steps`"),
    ({"sampling.guidance": 1e9}, "`sampling.guidance`"),
    ({"evaluate.seeds": [0, 0]}, "`seeds` holds 0 twice"),
    ({"evaluate.seeds": [-1]}, "`evaluate.seeds.0`"),
    (
        {"evaluate.best": {"metric": "style_accuracy", "direction": "max"}, "evaluate.classify": False},
        "needs the classifier",
    ),
    ({"evaluate.best": {"metric": "kid", "direction": "max"}}, "would choose the worst `kid`: write `min`"),
    ({"evaluate.best": {"metric": "image_similarity", "direction": "min"}}, "write `max`"),
    ({"evaluate.best.metric": "truth_similarity"}, "is called `heldout_similarity` now. Next: run `etude migrate`"),
    (
        {"evaluate.best.metric": "heldout_similarity", "evaluate.heldout": "nowhere"},
        "no nowhere/concept-heldout",
    ),
    ({"evaluate.validation.timesteps": [5, 5]}, "`validation.timesteps` holds 5 twice"),
    ({"evaluate.validation.images": 0}, "`evaluate.validation.images`"),
    ({"grid.x.values": "al"}, "there is no checkpoint `al`, did you mean `all`?"),
    ({"grid.x.values": "all, 80"}, "`all` means every checkpoint: write it alone"),
    ({"grid.x.values": 0}, "there is no checkpoint at step 0"),
    ({"grid.x.values": "base, 100, final"}, "lora makes no checkpoint at step 100, but every 80 steps, and at 240"),
    ({"grid.z": {"axis": "sampler", "values": "dmp++"}}, "there is no sampler `dmp++`, did you mean `dpm++`?"),
    ({"grid.z": {"axis": "steps", "values": "0"}}, "`0` is not in the range of `steps`, 1 to 500"),
    ({"grid.z": {"axis": "size", "values": "0x0"}}, "`0x0` is not a size"),
    ({"grid.z": {"axis": "size", "values": "00x08"}}, "`00x08` is not a size"),
    ({"grid.z": {"axis": "size", "values": "128x129"}}, "`128x129` is not a size"),
    ({"grid.z": {"axis": "guidance", "values": "-1"}}, "`-1.0` is not in the range of `guidance`, 0 to 100"),
    ({"grid.z": {"axis": "seed", "values": "-1"}}, "not in the range of `seed`"),
    ({"grid.z": {"axis": "seed", "values": "1e999999999"}}, "is too large"),
    ({"grid.z": {"axis": "strength", "values": "1e17"}}, "not in the range of `strength`"),
    ({"grid.z": {"axis": "strenght", "values": "1"}}, "there is no axis `strenght`, did you mean `strength`?"),
    ({"grid.z": {"axis": "replace", "values": "owl"}}, "add a text to put in its place"),
    ({"grid.cell": 0}, "`grid.cell`"),
    ({"grid.limit": 10**9}, "`grid.limit`"),
]


@pytest.mark.parametrize(("values", "said"), ROOT, ids=str)
def test_a_value_that_means_nothing_for_all_methods_is_refused(
    values: dict[str, Any], said: str, project: Path
) -> None:
    assert said in told(project, "params.yaml", values)


TRAINING = [
    ({"training.learning_rate": "1_0"}, "`1_0`, which is not `rate`"),
    ({"training.learning_rate": "٣"}, "which is not `rate`"),
    ({"training.learning_rate": "1e-3:1_0"}, "which is not `rate`"),
    ({"training.learning_rate": "1e300"}, "at most 100"),
    ({"training.learning_rate": "nan"}, "which is not `rate`"),
    ({"training.learning_rate": 0.0}, "learning_rate"),
    ({"training.steps": 10**12}, "`training.steps`"),
    ({"training.batch_size": 10**6}, "`training.batch_size`"),
    ({"training.warmup_steps": 10**6}, "`warmup_steps`"),
    ({"training.noise_offset": 5.0}, "`training.noise_offset`"),
    ({"training.checkpoint_every": 0}, "`training.checkpoint_every`"),
    ({"training.steps": 10**6, "training.checkpoint_every": 1}, "makes more than 1000 checkpoints"),
    ({"preview.seeds": [1, 1]}, "`seeds` holds 1 twice"),
    ({"preview.seeds": [2**63]}, "`preview.seeds.0`"),
    ({"preview.steps": 0}, "`preview.steps`"),
]
OWN = [
    *(("lora", values, said) for values, said in TRAINING),
    ("lora", {"set": "conzept"}, "there is no image set `conzept`, did you mean `concept`? Next: correct the name"),
    ("lora", {"name": "[name]"}, "without [ or ]"),
    ("lora", {"rank": 10**6}, "`rank`"),
    (
        "lora",
        {"blocks": {"unet.midblock": 4}},
        "`unet.midblock`, where no layer can be trained, did you mean `unet.mid_block`?",
    ),
    ("lora", {"blocks": {"unte": 4}}, "`unte`, where no layer can be trained (known: "),
    ("lora", {"blocks": {"text_encoder": 4}}, "`text_encoder_rate` 0.0 does not train text encoders"),
    ("lora", {"targets": ["attention", "attention"]}, "`targets` holds 'attention' twice"),
    ("textual_inversion", {"progressive": 240}, "`progressive` 240 is never reached in 240 steps"),
    ("textual_inversion", {"name": "a b"}, "the new word"),
    ("hypernetwork", {"structure": [1, 1e9, 1]}, "`structure.1`"),
    ("hypernetwork", {"widths": [320, 320]}, "`widths` holds 320 twice"),
    ("dreambooth", {"class_images.prompts": ["eagle", "eagle"]}, "`prompts` holds 'eagle' twice"),
    ("dreambooth", {"class_images.count": 10**9}, "`class_images.count`"),
    ("dreambooth", {"prior_weight": 1e9}, "`prior_weight`"),
    ("custom_diffusion", {"far": [""]}, "`far.0`"),
    ("custom_diffusion", {"concepts.concept.initializer": " "}, "`concepts.concept.initializer`"),
    ("custom_diffusion", {"augmentation.views": 10**9}, "`augmentation.views`"),
    ("dream_artist", {"guidance": "0"}, "a scale is above 0"),
    ("dream_artist", {"guidance": "9" * 400}, "a scale is above 0"),
    ("clip_inversion", {"base": ""}, "`base`"),
    ("clip_inversion", {"guidance": 1e9}, "`guidance`"),
    ("aesthetic_gradient", {"clip": " "}, "`clip`"),
    ("null_text_inversion", {"optimization.inner_steps": 10**9}, "`optimization.inner_steps`"),
    ("model_merge", {"models.a": "artifacts/fine_tunning/build"}, "`fine_tunning`, did you mean `fine_tuning`? Next:"),
    ("model_merge", {"parts": ["unet", "unet"]}, "`parts` holds 'unet' twice"),
    ("model_merge", {"weights": [1e9, 0.5]}, "`weights.0`"),
    ("model_merge", {"learning.seeds": [1, 1]}, "`seeds` holds 1 twice"),
]


@pytest.mark.parametrize(("method", "values", "said"), OWN, ids=str)
def test_a_value_that_means_nothing_for_a_method_is_refused(
    method: str, values: dict[str, Any], said: str, project: Path
) -> None:
    assert said in told(project, method, values)


def unbounded(node: Any, path: str = "") -> list[str]:
    """The places in a JSON Schema where a number may be as large, or as small, as one likes."""
    if isinstance(node, list):
        return [place for number, item in enumerate(node) for place in unbounded(item, f"{path}/{number}")]
    if not isinstance(node, dict):
        return []
    below = [place for key, item in node.items() for place in unbounded(item, f"{path}/{key}")]
    sides = ({"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"})
    free = node.get("type") in ("integer", "number") and not all(side & set(node) for side in sides)
    return [path, *below] if free else below


@pytest.mark.parametrize("name", ["params", "flows", *method_names()])
def test_no_number_of_any_params_file_is_without_bounds(name: str) -> None:
    schemas: dict[str, type[Schema]] = {"params": Project, "flows": Settings}
    schema = schemas[name] if name in schemas else load_method(name).Params
    assert unbounded(schema.model_json_schema()) == []
