"""A classifier that has learned nothing: random weights in the real format, for code that opens a classifier."""

from __future__ import annotations

from pathlib import Path

import torch

from etude.core.files import write_json
from etude.core.tensors import write_tensors
from etude.evaluation.network import Network

LABELS = {
    "concept": ["cat", "orange", "otter", "sea otter"],
    "style": ["firefox", "flat", "noto"],
    "background": ["on a blue background", "on a red background", "on an orange background"],
}


def write_classifier(folder: Path, labels: dict[str, list[str]] | None = None) -> Path:
    """A classifier of 32 px with two levels; its answers are arbitrary but fixed."""
    labels = labels or LABELS
    shape = {"widths": [8, 16], "blocks": 1, "groups": 2, "grid": 2, "rank": 4, "given": {"style": "concept"}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network(
            [8, 16], 1, 2, 2, 4, {"style": "concept"}, {part: len(known) for part, known in labels.items()}
        )
    write_json(folder / "config.json", {"labels": labels, "size": 32, **shape})
    write_tensors(folder / "model.safetensors", {name: value.half() for name, value in network.state_dict().items()})
    return folder
