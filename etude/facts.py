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
        "the name of what is learned, in prompts and file names",
        "pipelines etude.formats commands",
        "pipelines etude.formats etude.pages commands",
    ),
    _fact(
        "step",
        "training steps up to this checkpoint",
        "tasks etude.training etude.formats",
        "etude.rendering etude.formats etude.pages tasks",
    ),
    _fact("params", "the method's params that can change the build", "tasks", "etude.formats etude.pages"),
    _fact(
        "base",
        "path of the base model used in training",
        "tasks etude.formats",
        "etude.formats etude.pages tasks commands",
    ),
    _fact(
        "family",
        "a name in etude/core/families.py",
        "tasks etude.core etude.formats commands",
        "etude.formats etude.pages etude.training pipelines commands",
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
    _fact("processes", "number of training processes", "tasks"),
    _fact("precision", "precision of the computation: fp32, fp16 or bf16", "tasks"),
    _fact("compute", "which kernels compute, and how", "tasks"),
    _fact("reading", "how texts are read, if not as one chunk without weights", "tasks"),
    _fact("device", "cpu, or the GPU's name", "tasks", "flows"),
    _fact("cpu", "the machine, and the instructions that torch uses", "tasks", "flows"),
    _fact("versions", "versions of the libraries that compute, by name", "tasks", "etude.pages flows"),
    _fact("formats", "those formats of its method that suit this artifact", "pipelines", "tasks"),
    _fact(
        "measures", "measurements by the method itself, for the evaluation's tables", "pipelines", "etude.evaluation"
    ),
    _fact("mark", "suffix that distinguishes this checkpoint's files from others", "etude.formats", "etude.formats"),
    _fact("images", "number of training pictures", "pipelines", "etude.formats"),
    _fact("class_images", "number of class images", "pipelines"),
    _fact("tags", "how many pictures have each caption", "pipelines", "etude.formats"),
    _fact(
        "rank",
        "rank of a low-rank change, for layers without their own rank",
        "pipelines etude.formats",
        "pipelines etude.formats",
    ),
    _fact(
        "alpha",
        "alpha of a low-rank change, for layers without their own alpha",
        "pipelines etude.formats",
        "pipelines etude.core etude.formats etude.diffusion",
    ),
    _fact(
        "alphas",
        "alphas of layers with their own alpha, by layer",
        "pipelines etude.formats",
        "pipelines etude.core etude.formats etude.diffusion",
    ),
    _fact(
        "words",
        "the learned words that have their own rows",
        "pipelines etude.formats",
        "pipelines etude.formats etude.pages commands",
    ),
    _fact("prompts", "the text of each concept", "pipelines", "pipelines"),
    _fact(
        "compress", "share of the changes' singular values in compressed files; 0: none", "pipelines", "etude.formats"
    ),
    _fact("lora_rank", "rank of the low-rank files that are also written", "pipelines", "etude.formats"),
    _fact("vectors", "number of rows of a word", "pipelines", "pipelines"),
    _fact(
        "structure",
        "widths of a network's layers, as multiples of its input's",
        "pipelines etude.formats",
        "pipelines etude.formats",
    ),
    _fact("activation", "activation after each layer", "pipelines etude.formats", "pipelines etude.formats"),
    _fact(
        "activate_output",
        "whether the activation is also after the last layer",
        "pipelines etude.formats",
        "pipelines etude.formats",
    ),
    _fact("layer_norm", "whether a norm follows each layer", "pipelines etude.formats", "pipelines etude.formats"),
    _fact("dropout", "dropout after each place of `structure`", "pipelines etude.formats", "etude.formats"),
    _fact("initial", "initialisation of the weights", "pipelines etude.formats", "etude.formats"),
    _fact("clip", "path of the CLIP that embedded the pictures", "pipelines commands", "pipelines"),
    _fact("text", "the text towards or away from which the aim is turned", "pipelines"),
    _fact("negative", "whether the aim is turned away from that text", "pipelines commands", "pipelines"),
    _fact("learning_rate", "learning rate of the steps for each text", "pipelines commands", "pipelines"),
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
    _fact("clip_skip", "skipped layers of the text encoder", "pipelines etude.formats", "pipelines etude.formats"),
    _fact("psnr", "PSNR of each reconstructed picture, in dB", "pipelines"),
    _fact(
        "metadata", "entries for the header of files, such as a merge's recipe", "pipelines", "etude.formats pipelines"
    ),
    _fact("method", "the method that made it", "etude.core", "etude.core"),
)
FACTS: Mapping[str, Fact] = {fact.name: fact for fact in _TABLE}
