from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from commands.convert import convert
from etude.base.loading import load_base
from etude.base.whole import read_model
from etude.core import artifact as artifacts
from etude.core.artifact import Artifact
from etude.core.errors import ArgumentError, ConflictError, FormatError, InputError
from etude.core.files import Draft, write_json
from etude.core.method import method_names
from etude.core.tensors import read_tensors, write_tensors
from etude.formats import FORMATS, identify, load_format, method_of
from etude.formats.kinds import family_of, open_any, same_kind
from etude.formats.pairs import split
from tests.pipelines.learning import picture, same

DOWN = "unet.mid_block.attentions.0"
WIDE = f"{DOWN}.transformer_blocks.0.attn2.to_k"
FACTS: dict[str, Any] = {"name": "sks", "family": "sd1", "prediction": "epsilon"}


def lora(family: str = "sd1", width: int = 768) -> Artifact:
    source = torch.Generator().manual_seed(0)
    shapes = {f"{DOWN}.proj_in": (12, 12, 1, 1), WIDE: (12, width)}
    shapes["text_encoder.encoder.layers.1.mlp.fc1"] = (16, 8)
    if family == "sdxl":
        shapes["text_encoder_2.encoder.layers.1.mlp.fc1"] = (20, 10)
    tensors = {}
    for name, (rows, columns, *kernel) in shapes.items():
        tensors[f"{name}.lora_A.weight"] = torch.randn(3, columns, *kernel, generator=source)
        tensors[f"{name}.lora_B.weight"] = torch.randn(rows, 3, *kernel, generator=source)
    facts = {"rank": 3, "alpha": 1.5, "alphas": {f"{DOWN}.proj_in": 3.0}}
    return Artifact("lora", tensors, FACTS | facts | {"family": family})


def embedding(width: int = 768) -> Artifact:
    rows = torch.randn(2, width, generator=torch.Generator().manual_seed(0))
    return Artifact("textual_inversion", {"text_encoder": rows}, FACTS | {"vectors": 2})


def written(artifact: Artifact, form: str, folder: Path) -> Path:
    """A file or folder as the program whose format it is would have it."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = load_format(form).write(artifact, Draft(folder))
    return folder / "sks" if form == "peft_lora" else paths[0]


LORAS = ("kohya_lora", "diffusers_lora", "peft_lora")
EMBEDDINGS = ("embedding_pt", "embedding_image", "embedding_safetensors", "diffusers_embedding")


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("to", LORAS)
@pytest.mark.parametrize("form", LORAS)
def test_a_lora_keeps_what_it_changes_from_any_format_to_any(form: str, to: str, family: str, tmp_path: Path) -> None:
    made = lora(family, 2048 if family == "sdxl" else 768)
    convert(written(made, form, tmp_path / "in"), to, tmp_path / "out", "sks", "")
    (top,) = (tmp_path / "out").iterdir()
    assert identify(top) == to
    tensors, facts = load_format(to).read(top)
    wanted = split(made.tensors, made.facts)
    for name, pair in split(tensors, facts).items():
        own = wanted.pop(name)
        assert torch.equal(pair.down, own.down), name
        change, other = (p.up.double() * (p.alpha / p.rank) for p in (own, pair))
        assert torch.allclose(change, other, rtol=1e-6), name
    assert not wanted
    if "diffusers_lora" not in (form, to):  # which has the scale in B
        assert same(tensors, made.tensors)
        assert (facts["alpha"], facts["alphas"]) == (1.5, {f"{DOWN}.proj_in": 3.0})


@pytest.mark.parametrize("to", EMBEDDINGS)
@pytest.mark.parametrize("form", EMBEDDINGS)
def test_an_embedding_keeps_every_value_and_its_word(form: str, to: str, tmp_path: Path) -> None:
    made = embedding()
    convert(written(made, form, tmp_path / "in"), to, tmp_path / "out", "", "")
    (path,) = (tmp_path / "out").iterdir()
    assert identify(path) == to
    tensors, facts = load_format(to).read(path)
    assert same(tensors, made.tensors)
    assert facts["name"] == "sks"


def test_a_whole_model_goes_from_folder_to_file_and_back_and_draws_the_same(tiny_base: Path, tmp_path: Path) -> None:
    convert(tiny_base, "ldm_checkpoint", tmp_path / "single", "model", "")
    single = tmp_path / "single/model.safetensors"
    convert(single, "diffusers_checkpoint", tmp_path / "folder", "model", "")
    drawn = picture(load_base(tiny_base))
    for path in (single, tmp_path / "folder/model"):
        assert (picture(load_base(path)).int() - drawn.int()).abs().max() <= 1  # the VAE's attention adds up otherwise
    assert sorted(p.name for p in (tmp_path / "single").iterdir()) == ["model.config", "model.safetensors"]
    first = load_format("diffusers_checkpoint").read(tiny_base)[0]
    assert same(load_format("diffusers_checkpoint").read(tmp_path / "folder/model")[0], first)


def test_a_model_that_is_named_as_this_folder_has_the_folders_name(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_base, tmp_path / "owls")
    monkeypatch.chdir(tmp_path / "owls")
    assert open_any(Path(), whole=read_model)[1].facts["name"] == "owls"


@pytest.mark.parametrize("form", ["embedding_pt", "embedding_safetensors"])
def test_an_sdxl_embedding_is_opened_whatever_it_is_packed_in(form: str, tmp_path: Path) -> None:
    rows = {"text_encoder": torch.randn(2, 768), "text_encoder_2": torch.randn(2, 1280)}
    made = Artifact("textual_inversion", rows, FACTS | {"family": "sdxl"})
    path = written(made, form, tmp_path / "in")
    name, opened = open_any(path)
    assert name in EMBEDDINGS
    assert same(opened.tensors, rows)
    assert opened.facts["family"] == "sdxl"
    torch.save({"emb_params": rows["text_encoder"]}, tmp_path / "kohya.pt")  # kohya's train_textual_inversion, as .pt
    assert same(open_any(tmp_path / "kohya.pt")[1].tensors, {"text_encoder": rows["text_encoder"]})


def test_a_lora_of_another_kind_becomes_only_what_can_hold_it(tmp_path: Path) -> None:
    plain = lora().tensors
    dora = Artifact("lora", plain | {f"{WIDE}.dora_scale": torch.ones(12, 1)}, lora().facts)
    assert same_kind(dora) == ("kohya_lora", "diffusers_lora")
    assert same_kind(Artifact("lora", {f"{WIDE}.diff": torch.ones(12, 768)}, {})) == ("kohya_lora",)
    with pytest.raises(FormatError, match=r"is DoRA in 1 of 2 layers of unet"):
        convert(written(dora, "kohya_lora", tmp_path / "mixed"), "diffusers_lora", tmp_path / "out", "sks", "")
    own = {name: tensor for name, tensor in dora.tensors.items() if not name.startswith(f"{DOWN}.proj_in")}
    dora = Artifact("lora", own, dora.facts)
    convert(written(dora, "kohya_lora", tmp_path / "in"), "diffusers_lora", tmp_path / "out", "sks", "")
    (path,) = (tmp_path / "out").iterdir()
    tensors, facts = load_format("diffusers_lora").read(path)
    expected = {
        name: tensor / 2 if ".lora_B." in name else tensor for name, tensor in own.items()
    }  # alpha / rank is in B
    assert same(tensors, expected)
    assert facts["alpha"] == facts["rank"]


def test_an_artifact_of_ours_is_converted_too(tmp_path: Path) -> None:
    made = lora()
    artifacts.save(made, tmp_path / "artifacts/lora/build/artifact.safetensors")
    convert(tmp_path / "artifacts/lora/build", "peft_lora", tmp_path / "out", "", "")
    assert same(load_format("peft_lora").read(tmp_path / "out/sks")[0], made.tensors)


def test_what_cannot_be_converted_says_what_can(tmp_path: Path) -> None:
    path = written(lora(), "kohya_lora", tmp_path / "in")
    with pytest.raises(
        FormatError,
        match=r"is of the format kohya_lora, which cannot become `embedding_pt`.*diffusers_lora or kohya_lora or peft_",
    ):
        convert(path, "embedding_pt", tmp_path / "out", "", "")
    with pytest.raises(FormatError, match=r"cannot become `pef_lora`, did you mean `peft_lora`"):
        convert(path, "pef_lora", tmp_path / "out", "", "")
    with pytest.raises(InputError, match=r"nothing: is missing"):
        convert(tmp_path / "nothing", "kohya_lora", tmp_path / "out", "", "")
    write_tensors(tmp_path / "x.safetensors", {"a.b": torch.ones(1), "c.d": torch.ones(1)})
    with pytest.raises(FormatError, match=r"has a format that Étude does not know: it holds 2 names \(a\.b, c\.d\)"):
        convert(tmp_path / "x.safetensors", "kohya_lora", tmp_path / "out", "", "")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_and_no_draft_is_left(tmp_path: Path) -> None:
    path = written(embedding(), "embedding_pt", tmp_path / "in")
    convert(path, "embedding_safetensors", tmp_path / "out", "", "")
    before = (tmp_path / "out/sks.safetensors").read_bytes()
    with pytest.raises(ConflictError, match=r"sks\.safetensors: exists already"):
        convert(path, "embedding_safetensors", tmp_path / "out", "", "")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["sks.safetensors"]
    assert (tmp_path / "out/sks.safetensors").read_bytes() == before


def test_the_family_is_told_by_widths_or_must_be_said(tmp_path: Path) -> None:
    assert [family_of(lora(width=w).tensors) for w in (768, 1024, 2048, 64)] == ["sd1", "sd2", "sdxl", None]
    assert [family_of(embedding(w).tensors) for w in (768, 1024, 64)] == ["sd1", "sd2", None]
    assert family_of(lora("sdxl", 64).tensors) == "sdxl"
    path = written(lora(width=64), "diffusers_lora", tmp_path / "in")
    with pytest.raises(FormatError, match="does not say for which family.*add --family, with sd1"):
        convert(path, "kohya_lora", tmp_path / "out", "", "")
    with pytest.raises(ArgumentError, match=r"--family: there is no `sd3`, did you mean `sd"):
        convert(path, "kohya_lora", tmp_path / "out", "", "sd3")
    with pytest.raises(FormatError, match=r"is made for sdxl, not for sd1\. Next: leave --family out"):
        convert(written(lora("sdxl", 64), "kohya_lora", tmp_path / "xl"), "diffusers_lora", tmp_path, "", "sd1")
    convert(path, "kohya_lora", tmp_path / "out", "sks", "sd1")
    assert open_any(tmp_path / "out/sks.safetensors")[1].facts["family"] == "sd1"


def test_every_format_of_a_kind_belongs_to_a_method_that_is_there() -> None:
    assert {method_of(form) for form in FORMATS} <= set(method_names())
    assert set(same_kind(Artifact("fine_tuning", {}, {}))) == {"ldm_checkpoint", "diffusers_checkpoint"}
    assert "kohya_lora" in same_kind(Artifact("model_merge", {}, {"rank": 4}))


def test_peft_itself_opens_the_folder_and_computes_the_same(tiny_base: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    from etude.diffusion.weights import swapped
    from pipelines.model_merge.method.merging.low_rank import Fused

    torch.manual_seed(0)
    base = load_base(tiny_base)
    names = dict(base.unet.named_parameters())
    layer = f"{DOWN.removeprefix('unet.')}.transformer_blocks.0.attn2.to_v.weight"
    rows, columns = names[layer].shape
    key = f"unet.{layer.removesuffix('.weight')}"
    tensors = {f"{key}.lora_A.weight": torch.randn(3, columns), f"{key}.lora_B.weight": torch.randn(rows, 3)}
    made = Artifact("lora", tensors, FACTS | {"rank": 3, "alpha": 1.5})
    load_format("peft_lora").write(made, Draft(tmp_path))
    fused = dict(Fused(tensors, made.facts, {f"unet.{layer}": names[layer].detach()}))
    asked = (torch.randn(1, 4, 8, 8), torch.tensor([500]), torch.randn(1, 77, 32))
    with torch.no_grad():
        with swapped(base, fused):
            ours = base.unet(*asked).sample
        model = PeftModel.from_pretrained(base.unet, str(tmp_path / "sks/unet"))
        theirs = model(*asked).sample
        model.unload()
    assert (ours - theirs).abs().max() < 1e-5
    assert (ours - base.unet(*asked).sample).abs().max() > 1e-3


def test_a_checkpoint_pickle_becomes_safetensors(tiny_base: Path, tmp_path: Path) -> None:
    convert(tiny_base, "ldm_checkpoint", tmp_path / "one", "model", "")
    whole, _ = read_tensors(tmp_path / "one/model.safetensors")
    torch.save({"state_dict": whole}, tmp_path / "old.ckpt")
    shutil.copytree(tmp_path / "one/model.config", tmp_path / "old.config")
    convert(tmp_path / "old.ckpt", "ldm_checkpoint", tmp_path / "two", "", "")
    assert same(read_tensors(tmp_path / "two/old.safetensors")[0], whole)


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A LoRA with checkpoints of 80 and 160 steps, of which the first is the best."""
    monkeypatch.chdir(tmp_path)
    build = tmp_path / "artifacts/lora/build"
    for step in (80, 160):
        for file in (f"checkpoints/{step:06d}", "artifact"):
            artifacts.save(of_step(step), build / f"{file}.safetensors")
    write_json(build.parent / "best.json", {"checkpoint": "000080"})
    return tmp_path


def of_step(step: int) -> Artifact:
    made = lora()
    return Artifact("lora", {name: tensor * step for name, tensor in made.tensors.items()}, made.facts | {"step": step})


@pytest.mark.parametrize(
    ("source", "file", "step"),
    [
        ("lora@80", "sks-000080", 80),
        ("lora@160", "sks-000160", 160),
        ("lora@best", "sks-000080", 80),
        ("lora", "sks", 160),
        ("lora@final", "sks", 160),
    ],
)
def test_any_checkpoint_of_a_method_is_converted_by_its_step(source: str, file: str, step: int, built: Path) -> None:
    convert(source, "kohya_lora", Path("out"))
    (path,) = (built / "out").iterdir()
    assert path.stem == file
    assert same(load_format("kohya_lora").read(path)[0], of_step(step).tensors)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("lora@81", "lora@81: `81` is no step of its checkpoints: 80, 160. Next: write lora@160"),
        ("lora@x/../y", "`x/../y` is no step of its checkpoints: 80, 160"),
        ("lorra@80", "lorra@80: is no method, did you mean `lora`"),
        ("hypernetwork@80", r"artifacts/hypernetwork/build/artifact\.safetensors: is missing"),
    ],
)
def test_a_checkpoint_that_is_not_there_is_answered_with_those_that_are(source: str, said: str, built: Path) -> None:
    with pytest.raises(InputError, match=said):
        convert(source, "kohya_lora", Path("out"))
    assert not Path("out").exists()


def test_what_is_there_is_replaced_only_on_request_and_whole(built: Path) -> None:
    convert("lora@80", "peft_lora", Path("out"), name="sks")
    (built / "out/sks/mine.txt").write_text("kept")
    with pytest.raises(ConflictError, match="out/sks: exists already.*--replace"):
        convert("lora@160", "peft_lora", Path("out"), name="sks")
    assert same(load_format("peft_lora").read(built / "out/sks")[0], of_step(80).tensors)
    assert (built / "out/sks/mine.txt").exists()
    convert("lora@160", "peft_lora", Path("out"), name="sks", replace=True)
    assert same(load_format("peft_lora").read(built / "out/sks")[0], of_step(160).tensors)
    assert [path.name for path in (built / "out").iterdir()] == ["sks"]
