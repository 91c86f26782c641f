"""Concepts learned apart become one artifact."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from commands.concepts import read_captions
from commands.merge_concepts import merge_concepts
from etude.base.loading import load_base
from etude.core import artifact as artifacts
from etude.core.artifact import Artifact
from etude.core.errors import ConflictError, InputError
from pipelines.custom_diffusion import method as custom
from pipelines.custom_diffusion.method.settings import LEARNED
from tests.tasks.learning import write_yaml
from tests.tiny import WORDS


def test_two_artifacts_become_one_that_knows_both_words_and_replaces_nothing(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_yaml(tmp_path / "params.yaml", {"base": str(tiny_base), "device": "cpu", "threads": 1})
    base = load_base(tiny_base)
    paths = []
    for word in ("<a>", "<b>"):
        layers = (n for n, _ in base.unet.named_parameters() if re.search(LEARNED["crossattn_kv"], f"unet.{n}"))
        tensors = {f"unet.{n}": base.unet.get_parameter(n) + 0.1 for n in layers}
        tensors["words.0.text_encoder"] = torch.randn(1, 32, generator=torch.Generator().manual_seed(len(paths)))
        paths.append(tmp_path / f"{len(paths)}.safetensors")
        facts = {"name": f"{word} cat", "words": [word], "prompts": [f"{word} cat"]}
        artifacts.save(Artifact("custom_diffusion", tensors, facts), paths[-1])
    captions = Path("captions.txt")
    captions.write_text("\n".join(f"a {one} and {other}" for one, other in zip(WORDS, WORDS[5:], strict=False)))
    with pytest.raises(InputError, match="fewer than two"):
        merge_concepts(captions, Path("both.safetensors"), paths[:1])
    merge_concepts(captions, Path("both.safetensors"), paths)
    assert "both.safetensors: <a>, <b>" in capsys.readouterr().out
    with custom.apply(artifacts.load("both.safetensors"), base):
        assert set(base.words) == {"<a>", "<b>"}
    with pytest.raises(ConflictError, match="exists already"):
        merge_concepts(captions, Path("both.safetensors"), paths)


def test_captions_are_lines_that_say_something_and_a_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa cat\r\n\r\n a dog \r\n")
    assert read_captions(tmp_path / "a.txt") == ["a cat", "a dog"]
    with pytest.raises(InputError, match=r"gone\.txt: cannot be read"):
        read_captions(tmp_path / "gone.txt")
