"""All facts that an artifact may contain: the meaning of each, and the packages that write and read it.

No other key may be used: `tests/test_declared.py` compares this table with the code. Facts from files of other
programs, which `etude.formats` reads, have the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Fact(NamedTuple):
    """One key of `Artifact.facts`."""

    name: str
    meaning: str
    written_by: tuple[str, ...]  # packages
    read_by: tuple[str, ...]  # packages; empty: the fact is for people, and for comparing two artifacts


def _fact(name: str, meaning: str, written_by: str, read_by: str = "") -> Fact:
    return Fact(name, meaning, tuple(written_by.split()), tuple(read_by.split()))


_TABLE = (
    _fact(
        "name",
        "what is learned, as prompts and files call it",
        "pipelines etude.formats commands",
        "pipelines etude.formats etude.pages commands",
    ),
    _fact(
        "step",
        "steps of learning behind this checkpoint",
        "tasks etude.training etude.formats",
        "etude.rendering etude.formats etude.pages tasks",
    ),
    _fact("params", "the method's params, without what changes no build", "tasks", "etude.formats etude.pages"),
    _fact(
        "base",
        "path of the base model it was learned on",
        "tasks etude.formats",
        "etude.formats etude.pages tasks commands",
    ),
    _fact(
        "family",
        "a name in etude/core/families.py",
        "tasks etude.formats commands",
        "etude.formats etude.pages pipelines commands",
    ),
    _fact(
        "prediction", "what the base predicts: epsilon or v_prediction", "tasks etude.formats commands", "etude.formats"
    ),
    _fact("resolution", "side of the base's pictures, in pixels", "tasks commands", "etude.formats etude.pages"),
    _fact(
        "inputs", "SHA-256 of the base, the data and the models, by path", "tasks", "etude.formats etude.pages commands"
    ),
    _fact("seed", "the project's seed", "tasks", "etude.formats"),
    _fact("threads", "CPU threads", "tasks", "flows"),
    _fact("processes", "processes that learned together", "tasks"),
    _fact("precision", "what was computed in: fp32, fp16 or bf16", "tasks"),
    _fact("device", "cpu, or the GPU's name", "tasks", "flows"),
    _fact("cpu", "the machine, and the instructions that torch uses", "tasks", "flows"),
    _fact("versions", "versions of the libraries that compute, by name", "tasks", "etude.pages flows"),
    _fact("formats", "the formats that suit this artifact, of those of its method", "pipelines", "tasks"),
    _fact("measures", "numbers of the method's own, for the evaluation's tables", "pipelines", "etude.evaluation"),
    _fact("mark", "what tells this checkpoint's files from others of the same name", "etude.formats", "etude.formats"),
    _fact("images", "count of the pictures it was learned from", "pipelines", "etude.formats"),
    _fact("class_images", "count of the pictures of its class", "pipelines"),
    _fact("tags", "how many pictures have each caption", "pipelines", "etude.formats"),
    _fact(
        "rank",
        "rank of a low-rank change, where a layer has no other",
        "pipelines etude.formats",
        "pipelines etude.formats",
    ),
    _fact(
        "alpha",
        "alpha of a low-rank change, where a layer has no other",
        "pipelines etude.formats",
        "pipelines etude.formats etude.diffusion",
    ),
    _fact(
        "alphas",
        "alphas of the layers that have another, by layer",
        "pipelines etude.formats",
        "pipelines etude.formats etude.diffusion",
    ),
    _fact(
        "words",
        "the learned words that have rows of their own",
        "pipelines etude.formats",
        "pipelines etude.formats etude.pages commands",
    ),
    _fact("prompts", "the text of each concept", "pipelines", "pipelines"),
    _fact("compress", "share of a difference's energy that may be left out of files", "pipelines", "etude.formats"),
    _fact("lora_rank", "rank of the low-rank files that are written besides", "pipelines", "etude.formats"),
    _fact("vectors", "count of a word's rows", "pipelines", "pipelines"),
    _fact(
        "structure",
        "widths of a network's layers, as multiples of its input's",
        "pipelines etude.formats",
        "pipelines etude.formats",
    ),
    _fact("activation", "activation after each layer", "pipelines etude.formats", "pipelines etude.formats"),
    _fact("activate_output", "whether also after the last layer", "pipelines etude.formats", "pipelines etude.formats"),
    _fact("layer_norm", "whether a norm follows each layer", "pipelines etude.formats", "pipelines etude.formats"),
    _fact("dropout", "share set to 0 after each place of `structure`", "pipelines etude.formats", "etude.formats"),
    _fact("initial", "how the weights started", "pipelines etude.formats", "etude.formats"),
    _fact("clip", "path of the CLIP that pictures were embedded with", "pipelines commands", "pipelines"),
    _fact("text", "the text that the aim is turned away from or towards", "pipelines"),
    _fact("negative", "whether away from it", "pipelines commands", "pipelines"),
    _fact("learning_rate", "rate of the steps that turn a text", "pipelines commands", "pipelines"),
    _fact(
        "noise_level", "noise on the image embedding, 0 to 999", "pipelines etude.formats", "etude.formats etude.pages"
    ),
    _fact("pictures", "names of the inverted pictures", "pipelines etude.formats", "pipelines etude.formats"),
    _fact(
        "captions", "the text of each inverted picture, by name", "pipelines etude.formats", "pipelines etude.formats"
    ),
    _fact("steps", "steps of the inversion", "pipelines etude.formats", "pipelines etude.formats"),
    _fact("timesteps", "the timesteps of its steps", "pipelines etude.formats", "pipelines etude.formats"),
    _fact("guidance", "guidance of the inversion", "pipelines etude.formats", "pipelines etude.formats"),
    _fact(
        "clip_skip", "layers of the text encoder that it left out", "pipelines etude.formats", "pipelines etude.formats"
    ),
    _fact("psnr", "how near each inverted picture is drawn again, in dB", "pipelines"),
    _fact(
        "metadata", "entries for the header of files, such as a merge's recipe", "pipelines", "etude.formats pipelines"
    ),
    _fact("method", "the method that made it", "etude.core", "etude.core"),
)
FACTS: Mapping[str, Fact] = {fact.name: fact for fact in _TABLE}
