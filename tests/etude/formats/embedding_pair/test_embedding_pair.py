from __future__ import annotations

from pathlib import Path

import pytest
import torch

from etude import formats
from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.files import Draft
from etude.core.pickles import read_pickle
from etude.core.tensors import read_tensors
from etude.formats.embedding_pair import embedding_pair
from etude.formats.kinds import kind_of, open_any, same_kind
from tests.etude.formats.embedding.test_embedding_formats import accepted


def pair(family: str = "sd1") -> Artifact:
    widths = {"text_encoder": 768} | ({"text_encoder_2": 1280} if family == "sdxl" else {})
    counts = {"positive": 3, "negative": 6}
    tensors = {f"{side}.{part}": torch.randn(n, d) for side, n in counts.items() for part, d in widths.items()}
    return Artifact("dream_artist", tensors, {"name": "otter", "family": family, "step": 9, "base": "models/x"})


def test_a_pair_is_two_embeddings_of_a1111_and_their_twins(tmp_path: Path) -> None:
    artifact = pair()
    paths = embedding_pair.write(artifact, Draft(tmp_path))
    assert [path.name for path in paths] == ["otter.pt", "otter.safetensors", "otter-neg.pt", "otter-neg.safetensors"]
    for side, stem in (("positive", "otter"), ("negative", "otter-neg")):
        rows = artifact.tensors[f"{side}.text_encoder"]
        data = read_pickle(tmp_path / f"{stem}.pt")
        assert torch.equal(data["string_to_param"]["*"], rows)
        assert data["name"] == stem
        tensors, metadata = read_tensors(tmp_path / f"{stem}.safetensors")
        assert torch.equal(tensors["emb_params"], rows)
        assert metadata["modelspec.trigger_phrase"] == stem
        assert accepted(tmp_path / f"{stem}.pt")
        assert formats.identify(tmp_path / f"{stem}.pt") == "embedding_pt"
        for suffix in (".pt", ".safetensors"):
            size = (tmp_path / stem).with_suffix(suffix).stat().st_size
            assert 4 * rows.numel() < size < 4 * rows.numel() + 4096
    assert sum(rows.numel() * 4 for rows in artifact.tensors.values()) == 27_648


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_pair_is_read_back_from_its_positive_file(family: str, suffix: str, tmp_path: Path) -> None:
    artifact = pair(family)
    embedding_pair.write(artifact, Draft(tmp_path))
    tensors, facts = embedding_pair.read(tmp_path / f"otter{suffix}")
    assert facts["name"] == "otter"
    assert sorted(tensors) == sorted(artifact.tensors)
    assert all(torch.equal(tensors[name], artifact.tensors[name]) for name in tensors)


def test_an_embedding_is_read_as_a_pair_only_where_that_is_asked_for_and_there_are_two(tmp_path: Path) -> None:
    embedding_pair.write(pair(), Draft(tmp_path))
    for suffix in (".pt", ".safetensors"):
        one, made = open_any(tmp_path / f"otter{suffix}")
        assert (one, made.method, list(made.tensors)) == (
            f"embedding_{suffix[1:]}",
            "textual_inversion",
            ["text_encoder"],
        )
        two, made = open_any(tmp_path / f"otter{suffix}", pairs=True)
        assert (two, made.method, made.facts["family"]) == ("embedding_pair", "dream_artist", "sd1")
    assert open_any(tmp_path / "otter-neg.pt", pairs=True)[0] == "embedding_pt"
    assert kind_of(made) == "embedding_pair"
    assert same_kind(made) == ("embedding_pair",)


def test_the_first_codes_name_of_a_negative_file_is_known_and_a_lonely_file_is_no_pair(tmp_path: Path) -> None:
    artifact = pair()
    embedding_pair.write(artifact, Draft(tmp_path))
    (tmp_path / "otter-neg.pt").rename(tmp_path / "otter-uc.pt")
    assert len(embedding_pair.read(tmp_path / "otter.pt")[0]["negative.text_encoder"]) == 6
    (tmp_path / "otter-uc.pt").unlink()
    with pytest.raises(FormatError, match=r"has no otter-neg\.pt or otter-uc\.pt beside it"):
        embedding_pair.read(tmp_path / "otter.pt")
