"""The classifier names the concept, style and background of a picture. It is used for measuring only, never to draw.

Its folder contains ``model.safetensors`` and ``config.json``: ``labels`` (part → its phrases, as they occur in
captions), ``size`` in pixels, and the shape of the network. The parts are ``concept``, ``style`` and ``background``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps
from pydantic import Field, PositiveInt

from etude.core.errors import InputError
from etude.core.model_folders import read_config
from etude.core.params import Schema, validate
from etude.core.spelling import find_words, has_word
from etude.core.weights import read_weights
from etude.rendering.pixels import open_picture

if TYPE_CHECKING:
    from torch import Tensor

    from etude.evaluation.network import Network

Labels = Mapping[str, str]  # part → label, for the parts that are known


class Config(Schema):
    """The classifier's ``config.json``."""

    labels: dict[str, list[str]] = Field(min_length=1, description="part → its labels, as they occur in captions")
    size: PositiveInt
    widths: list[PositiveInt] = Field(min_length=1)
    blocks: PositiveInt
    groups: PositiveInt
    grid: PositiveInt
    rank: PositiveInt
    given: dict[str, str] = Field(description="part → the other part, on whose label its head is conditioned")


class Classifier:
    """A classifier folder; the weights are read when the first picture is classified.

    Raises InputError if the folder contains no classifier, and BaseError if its configuration is damaged.
    """

    def __init__(self, folder: Path, *, device: str) -> None:
        if not (folder / "config.json").exists():
            action = "set `evaluate.classifier` in params.yaml to the folder of one, or set `evaluate.classify: false`"
            raise InputError(folder, "is no classifier: config.json is missing", action)
        self.folder, self.device = folder, device
        self.config = validate(read_config(folder / "config.json"), Config, folder / "config.json")

    def classify_files(self, paths: Sequence[Path]) -> list[Labels]:
        """The content of each picture: the most likely label of every part."""
        return [self.classify(open_picture(path)) for path in paths]

    def classify(self, picture: Image.Image) -> Labels:
        """The labels of one picture. The batch size is 1, so that the result does not depend on other pictures."""
        import torch

        with torch.inference_mode():
            logits = self._network(self.pixels(picture).to(self.device))
        return {part: self.config.labels[part][int(row[0].argmax())] for part, row in logits.items()}

    def pixels(self, picture: Image.Image) -> Tensor:
        """The middle of a picture at the classifier's size: float [1, 3, S, S] from −1 to 1."""
        import torch

        square = ImageOps.fit(picture.convert("RGB"), (self.config.size, self.config.size), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1

    def read_labels(self, text: str) -> Labels:
        """The labels that ``text`` names. Longer phrases are searched first and removed, so that the background "on an
        orange background" is not also read as the concept "orange".
        """
        phrases = [(phrase, part) for part, phrases_of_part in self.config.labels.items() for phrase in phrases_of_part]
        labels: dict[str, str] = {}
        for phrase, part in sorted(phrases, key=lambda pair: (-len(pair[0]), pair)):
            if part not in labels and has_word(phrase, text):
                labels[part] = phrase
                text = "".join(piece if number is None else "|" for piece, number in find_words([phrase], text))
        return labels

    @cached_property
    def _network(self) -> Network:
        from etude.evaluation.network import Network

        config = self.config
        parts = {part: len(phrases) for part, phrases in config.labels.items()}
        shape = config.widths, config.blocks, config.groups, config.grid, config.rank, config.given
        network = Network(*shape, parts)
        weights = read_weights(self.folder / "model.safetensors")[0]
        network.load_state_dict({name: value.float() for name, value in weights.items()})
        return network.to(self.device).eval().requires_grad_(False)
