"""Files of others say what they like; nothing is written anywhere but into the folder that was asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from commands.convert import convert
from etude.core import artifact as artifacts
from etude.core.artifact import Artifact
from etude.core.errors import EtudeError, InputError
from etude.core.files import LONGEST, Draft, file_name
from etude.core.pickles import write_pickle
from etude.core.tensors import read_tensors, write_tensors
from etude.formats import FORMATS, load_format, method_of
from etude.formats.kinds import same_kind
from flows import comparison

NAMES = (
    "../../../X",
    "..",
    "",
    "a/b",
    "..\\..\\X",
    "C:\\X",
    "a\nb",
    "a\0b",
    "CON",
    "nul.txt",
    "x" * 300,
    "é" * 200,
    "-rf",
    ".hidden",
    "$(touch X)",
)
HEADER = ("ss_output_name", "modelspec.title", "modelspec.trigger_phrase", "name", "base")  # entries that hold names
LAYER = "unet.mid_block.attentions.0.proj_in"
FACTS: dict[str, Any] = {"family": "sd1", "prediction": "epsilon", "rank": 2, "alpha": 1.0}
LORA = {f"{LAYER}.lora_A.weight": torch.ones(2, 4), f"{LAYER}.lora_B.weight": torch.ones(4, 2)}
KINDS: dict[str, tuple[dict[str, Tensor], dict[str, Any]]] = {  # method → what an artifact of it holds
    "lora": (LORA, {}),
    "textual_inversion": ({"text_encoder": torch.ones(2, 8)}, {}),
    "dream_artist": ({"positive.text_encoder": torch.ones(2, 8), "negative.text_encoder": torch.ones(2, 8)}, {}),
    "aesthetic_gradient": ({"embedding": torch.ones(1, 8)}, {}),
    "clip_inversion": ({"clip_image_embeds": torch.ones(1, 8)}, {"noise_level": 0}),
    "hypernetwork": (
        {f"768.{side}.{layer}.linear.weight": torch.ones(2, 2) for side in "kv" for layer in (0, 1)},
        {"structure": [1, 2, 1], "activation": "relu", "layer_norm": False, "initial": "x", "activate_output": False},
    ),
    "null_text_inversion": (
        {},
        {"guidance": 1.0, "steps": 1, "timesteps": [1], "clip_skip": 0, "base": "models/x", "inputs": {}},
    ),
}
MANY = ("lora", "null_text_inversion")  # methods tried with every name: their files have most of them


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with room above it, where a way out would end."""
    home = tmp_path / "one/two/three/four"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    return home


def hostile(method: str, name: str, top: Path) -> Artifact:
    """An artifact every name in which is ``name``; of null-text inversion those of its pictures too."""
    tensors, facts = KINDS[method]
    if method == "null_text_inversion":
        pictures = [name, f"{name}/../{top}/X", str(top / "X")]
        tensors = {f"{p}.{key}": torch.ones(1) for p in pictures for key in ("latent", "null_embeddings")}
        facts = facts | {"pictures": pictures, "captions": dict.fromkeys(pictures, name)}
    return Artifact(method, tensors, FACTS | facts | {"name": name, "tags": {name: 1}})


def everything(top: Path, but: Path) -> dict[Path, bytes]:
    """All files and folders but those below ``but``, links and times aside."""
    found = {}
    for path in sorted(top.rglob("*")):
        if path != but and but not in path.parents:
            found[path] = path.read_bytes() if path.is_file() else b""
    return found


def try_all(source: Path, artifact: Artifact, home: Path) -> int:
    """Convert to every format there is for it; how many files were written. Refusals are fine, traces are not."""
    top = home.parents[3]
    before, written = everything(top, home / "out"), 0
    for to in same_kind(artifact):
        out = home / "out" / source.parent.name / to
        try:
            convert(str(source), to, out)
        except EtudeError:
            assert not out.exists()
            continue
        files = [path for path in out.rglob("*") if path.is_file()]
        assert files
        assert not any(path.is_symlink() or path.name.startswith(".") for path in out.rglob("*"))
        assert all(len(part.encode()) <= LONGEST for path in files for part in path.relative_to(out).parts)
        written += len(files)
    assert everything(top, home / "out") == before
    assert not Path("/X").exists()
    return written


@pytest.mark.parametrize(
    ("method", "name"),
    [(method, name) for method in KINDS for name in (NAMES if method in MANY else NAMES[:4])],
    ids=ascii,
)
def test_an_artifact_with_a_hostile_name_is_written_into_the_asked_folder_alone(
    method: str, name: str, home: Path, tmp_path: Path
) -> None:
    made = hostile(method, name, tmp_path)
    artifacts.save(made, home / "in.safetensors")
    written = try_all(home / "in.safetensors", made, home)
    assert written or method == "null_text_inversion"  # whose pictures may be of one name then, and that is refused


@pytest.mark.parametrize("form", [form for form in FORMATS if method_of(form) in KINDS])
def test_a_file_of_any_format_with_a_hostile_name_is_converted_into_the_asked_folder_alone(
    form: str, home: Path, tmp_path: Path
) -> None:
    for number, name in enumerate(NAMES[::3]):
        made = hostile(method_of(form), name, tmp_path)
        folder = home / f"in-{number}"
        folder.mkdir()
        if form == "null_text":  # a file holds one of the pictures
            made = hostile(method_of(form), "picture", tmp_path)
        (path, *_) = load_format(form).write(made, Draft(folder))
        if path.suffix == ".safetensors":
            tensors, header = read_tensors(path)
            write_tensors(path, tensors, header | dict.fromkeys(HEADER, name))
        try_all(folder / path.relative_to(folder).parts[0], made, home)


def test_a_layer_that_is_called_as_a_path_is_no_folder(home: Path, tmp_path: Path) -> None:
    target = tmp_path / "X"
    layers = {
        f"{target}/x.{half}": tensor
        for half, tensor in zip(("lora_A.weight", "lora_B.weight"), LORA.values(), strict=True)
    }
    made = Artifact("lora", layers, FACTS | {"name": "sks"})
    artifacts.save(made, home / "in.safetensors")
    try_all(home / "in.safetensors", made, home)
    assert not target.exists()


def test_words_of_a_delta_file_are_no_paths(home: Path, tiny_base: Path, tmp_path: Path) -> None:
    """They name files of their own beside it."""
    from tasks.export import read_frame

    frame = read_frame(tiny_base)
    name = next(name for name in frame.tensors if ".attn2.to_k.weight" in name)
    words = ["../../../X", "/X", "<a>", "CON"]
    tensors = {name: frame.tensors[name] + 1}
    tensors |= {f"words.{number}.text_encoder": torch.ones(1, 32) for number in range(len(words))}
    made = Artifact("custom_diffusion", tensors, FACTS | {"name": "../../X", "words": words})
    before = everything(tmp_path, home / "out")
    for form in ("adobe_delta", "webui_delta", "diffusers_custom_diffusion", "svd_lora"):
        (home / "out" / form).mkdir(parents=True)
        if form in ("webui_delta", "diffusers_custom_diffusion"):
            with pytest.raises(InputError, match="two names give the same file"):  # `X` twice, once cleaned
                load_format(form).write(made, Draft(home / "out" / form), frame)
        else:
            load_format(form).write(made, Draft(home / "out" / form), frame)
    assert everything(tmp_path, home / "out") == before


def test_an_index_of_weights_names_files_beside_it_alone(home: Path, tiny_base: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.safetensors"
    write_tensors(secret, {"conv_in.weight": torch.ones(1)})
    shutil.copytree(tiny_base, home / "in")
    (home / "in/unet/diffusion_pytorch_model.safetensors").unlink()
    for told in (str(secret), "../../../../../../secret.safetensors"):
        index = home / "in/unet/diffusion_pytorch_model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {"conv_in.weight": told}}))
        with pytest.raises(EtudeError, match="not a file in the same folder"):
            convert(str(home / "in"), "ldm_checkpoint", home / "out")
    assert not (home / "out").exists()


def test_a_base_outside_the_project_is_read_only_when_the_person_says_so(
    home: Path, tiny_base: Path, tmp_path: Path
) -> None:
    name = "unet.conv_out.bias"
    facts = {"family": "sd1", "prediction": "epsilon", "name": "sks", "base": str(tiny_base), "resolution": 64}
    artifacts.save(Artifact("fine_tuning", {name: torch.ones(4)}, facts), home / "in.safetensors")
    with pytest.raises(EtudeError, match="not in this project. Next: give --base"):
        convert(str(home / "in.safetensors"), "ldm_checkpoint", home / "out")
    convert(str(home / "in.safetensors"), "ldm_checkpoint", home / "out", base=tiny_base)
    assert (home / "out/sks.safetensors").exists()


def test_pickles_and_links_in_the_destination_lead_nowhere(home: Path, tmp_path: Path) -> None:
    write_pickle(home / "X.pt", {"string_to_param": {"*": torch.ones(2, 768)}, "name": "../../../Y"})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (home / "out").mkdir()
    for target in (elsewhere, tmp_path / "gone"):
        (home / "out/X.safetensors").symlink_to(target)
        with pytest.raises(EtudeError, match="exists already"):
            convert(str(home / "X.pt"), "embedding_safetensors", home / "out")
        convert(str(home / "X.pt"), "embedding_safetensors", home / "out", replace=True)
        assert not (home / "out/X.safetensors").is_symlink()
        (home / "out/X.safetensors").unlink()
    assert list(elsewhere.iterdir()) == []
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize("name", NAMES, ids=[ascii(name)[:20] for name in NAMES])
def test_any_text_makes_a_name_that_every_system_takes(name: str, tmp_path: Path) -> None:
    path = Draft(tmp_path).path(f"{file_name(name)}-neg-000160.safetensors")
    assert path.parent == tmp_path
    path.write_bytes(b"")
    assert Draft(tmp_path).path(file_name(name)) != tmp_path


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("-rf", ".hidden", "$(touch X)")], ids=ascii)
def test_a_draft_takes_plain_names_alone(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        Draft(tmp_path).path(name)
    with pytest.raises(InputError):
        Draft(tmp_path).path(name, "x.pt")


def test_a_draft_gives_a_path_once_and_follows_no_link(tmp_path: Path) -> None:
    draft = Draft(tmp_path / "new")
    (tmp_path / "new").mkdir()
    draft.path("sks.pt")
    with pytest.raises(InputError, match="two names give the same file"):
        draft.path("SKS.pt")
    (tmp_path / "new/link").symlink_to(tmp_path)
    for names in (("link", "x.pt"), ("link",)):
        with pytest.raises(InputError, match="leads out of"):
            draft.path(*names)


def test_the_page_of_a_sweep_lies_among_the_logs_whatever_its_name(tmp_path: Path) -> None:
    file = comparison.write(tmp_path, "../../X", [])
    assert file.parent == tmp_path / "logs/sweeps"
    assert file.exists()
