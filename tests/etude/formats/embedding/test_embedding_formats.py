from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from etude import formats
from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.files import Draft
from etude.core.pickles import read_pickle, write_pickle
from etude.core.tensors import read_metadata, read_tensors
from etude.formats.embedding import diffusers_embedding, embedding_pt, embedding_safetensors

ALL = (embedding_pt, embedding_safetensors, diffusers_embedding)
each_format = pytest.mark.parametrize("module", ALL, ids=lambda module: module.__name__)


def embedding(family: str = "sd1", vectors: int = 3, width: int = 768) -> Artifact:
    tensors = {"text_encoder": torch.randn(vectors, width)}
    if family == "sdxl":
        tensors["text_encoder_2"] = torch.randn(vectors, 1280)
    facts = {"name": "<sks>", "step": 200, "family": family, "prediction": "epsilon", "resolution": 512}
    return Artifact("textual_inversion", tensors, facts | {"base": "models/miniature"})


@each_format
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("vectors", [1, 4])
def test_what_is_written_is_read_back(module: formats.Format, family: str, vectors: int, tmp_path: Path) -> None:
    artifact = embedding(family, vectors)
    paths = module.write(artifact, Draft(tmp_path))
    tensors, _ = module.read(paths[0])
    assert sorted(tensors) == sorted(artifact.tensors)
    assert all(torch.equal(tensors[name], artifact.tensors[name]) for name in tensors)


@each_format
def test_equal_artifacts_give_equal_bytes(module: formats.Format, tmp_path: Path) -> None:
    artifact = embedding()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        module.write(artifact, Draft(tmp_path / folder))
    (first,) = (tmp_path / "a").iterdir()
    assert first.read_bytes() == (tmp_path / "b" / first.name).read_bytes()


@each_format
def test_each_format_is_identified_by_its_keys(module: formats.Format, tmp_path: Path) -> None:
    (path,) = module.write(embedding(), Draft(tmp_path))
    assert formats.identify(path) == module.__name__.rpartition(".")[2]


@each_format
def test_a_file_is_no_larger_than_its_vectors_and_a_header(module: formats.Format, tmp_path: Path) -> None:
    for vectors in (1, 8):
        (path,) = module.write(embedding(vectors=vectors), Draft(tmp_path))
        assert 4 * vectors * 768 < path.stat().st_size < 4 * vectors * 768 + 4096


def test_names_are_files_that_every_system_can_hold_and_tokens_stay_whole(tmp_path: Path) -> None:
    names = [path.name for module in ALL for path in module.write(embedding("sdxl"), Draft(tmp_path))]
    assert names == ["sks.pt", "sks.safetensors", "learned_embeds.safetensors", "learned_embeds_2.safetensors"]
    assert list(read_tensors(tmp_path / "learned_embeds.safetensors")[0]) == ["<sks>"]
    assert read_metadata(tmp_path / "sks.safetensors")["modelspec.trigger_phrase"] == "<sks>"
    assert embedding_safetensors.read(tmp_path / "sks.safetensors")[1] == {"name": "<sks>"}


def test_the_a1111_dictionary_has_its_keys(tmp_path: Path) -> None:
    artifact = embedding()
    data = read_pickle(embedding_pt.write(artifact, Draft(tmp_path))[0])
    assert data["string_to_token"] == {"*": 265}
    assert torch.equal(data["string_to_param"]["*"], artifact.tensors["text_encoder"])
    assert (data["name"], data["step"], data["sd_checkpoint"]) == ("<sks>", 200, None)
    assert data["sd_checkpoint_name"] == "models/miniature"


class SafeUnpickler(pickle.Unpickler):
    """A1111's rule, written from its description: a short white list of classes and plain values."""

    def find_class(self, module: str, name: str) -> Any:
        storages = ("Float", "Half", "Int", "Long", "Double", "Byte", "BFloat16")
        allowed = {("torch", f"{kind}Storage") for kind in storages}
        allowed |= {("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter")}
        allowed |= {("collections", "OrderedDict"), ("torch.nn.modules.container", "ParameterDict")}
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"global '{module}.{name}' is forbidden")
        return super().find_class(module, name)

    def persistent_load(self, saved_id: Any) -> Any:
        assert saved_id[0] == "storage"
        storage = torch.UntypedStorage(4 * saved_id[4])
        return torch.storage.TypedStorage(dtype=torch.float32, wrap_storage=storage, _internal=True)


NAMES = re.compile(r"^([^/]+)/((data/\d+)|version|byteorder|.data/serialization_id|(data\.pkl))$")


def accepted(path: Path) -> bool:
    """Whether A1111's check would open the file."""
    with zipfile.ZipFile(path) as file:
        if not all(NAMES.match(name) for name in file.namelist()):
            return False
        (pickled,) = [name for name in file.namelist() if name.endswith("/data.pkl")]
        with file.open(pickled) as stream:
            SafeUnpickler(stream).load()
    return True


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_the_pt_file_passes_the_safe_unpickler_of_a1111(family: str, tmp_path: Path) -> None:
    assert accepted(embedding_pt.write(embedding(family), Draft(tmp_path))[0])


def test_a_pickle_has_the_earliest_time_of_its_form(tmp_path: Path) -> None:
    with zipfile.ZipFile(embedding_pt.write(embedding(), Draft(tmp_path))[0]) as file:
        assert {entry.date_time for entry in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {entry.compress_type for entry in file.infolist()} == {zipfile.ZIP_STORED}


def test_what_torch_writes_itself_does_not_pass(tmp_path: Path) -> None:
    torch.save({"string_to_param": {"*": torch.ones(1, 4)}}, tmp_path / "plain.pt")
    assert not accepted(tmp_path / "plain.pt")


def test_a_pickle_that_would_run_code_is_not_opened(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "run",))

    torch.save({"string_to_param": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(FormatError, match="not a file that can be opened safely"):
        embedding_pt.read(tmp_path / "evil.pt")
    assert not (tmp_path / "run").exists()


def test_a_parameter_in_an_older_file_is_read(tmp_path: Path) -> None:
    vectors = torch.nn.Parameter(torch.randn(2, 8))
    for container in ({"*": vectors}, torch.nn.ParameterDict({"*": vectors})):
        torch.save({"string_to_param": container, "name": "old", "step": 9}, tmp_path / "old.pt")
        tensors, facts = embedding_pt.read(tmp_path / "old.pt")
        assert torch.equal(tensors["text_encoder"], vectors.detach())
        assert not tensors["text_encoder"].requires_grad
        assert facts == {"name": "old", "step": 9}


def test_one_vector_without_a_second_dimension_becomes_a_row(tmp_path: Path) -> None:
    save_file({"<toy>": torch.randn(768)}, tmp_path / "learned_embeds.safetensors")
    tensors, facts = diffusers_embedding.read(tmp_path / "learned_embeds.safetensors")
    assert tensors["text_encoder"].shape == (1, 768)
    assert facts == {"name": "<toy>"}


def test_a_bin_file_of_diffusers_is_read(tmp_path: Path) -> None:
    write_pickle(tmp_path / "learned_embeds.bin", {"<toy>": torch.ones(2, 8)})
    assert diffusers_embedding.read(tmp_path / "learned_embeds.bin")[0]["text_encoder"].shape == (2, 8)
    assert formats.identify(tmp_path / "learned_embeds.bin") == "diffusers_embedding"


@each_format
def test_a_file_of_another_kind_is_refused_by_its_keys(module: formats.Format, tmp_path: Path) -> None:
    path = tmp_path / ("other.pt" if module is embedding_pt else "other.safetensors")
    data = {"some.weight": torch.ones(2, 2), "some.bias": torch.ones(2)}
    write_pickle(path, data) if path.suffix == ".pt" else save_file(data, path)
    with pytest.raises(FormatError, match=r"some\.bias"):
        module.read(path)


def test_halves_of_unequal_length_are_refused(tmp_path: Path) -> None:
    save_file({"clip_l": torch.ones(2, 768), "clip_g": torch.ones(3, 1280)}, tmp_path / "xl.safetensors")
    with pytest.raises(FormatError, match=r"`text_encoder` \[2, 768\], `text_encoder_2` \[3, 1280\]"):
        embedding_safetensors.read(tmp_path / "xl.safetensors")
