"""Custom Diffusion's files: keys, sizes, round trips, and diffusers' own loaders."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from etude.base.base import Base
from etude.base.loading import load_base
from etude.base.text import encode_prompts
from etude.core.artifact import Artifact
from etude.core.errors import FormatError
from etude.core.families import FAMILIES, UNET, text_parts
from etude.core.files import Draft
from etude.core.pickles import read_pickle, write_pickle
from etude.core.tensors import read_header, read_metadata, read_tensors, write_tensors
from etude.diffusion.noise import predict
from etude.formats import identify
from etude.formats.checkpoint.ldm_checkpoint import to_ldm
from etude.formats.checkpoints import Frame
from etude.formats.delta import adobe_delta, diffusers_custom_diffusion, svd_lora, webui_delta
from etude.formats.deltas import factors
from etude.formats.embedding import embedding_pt
from etude.formats.lora import kohya_lora
from pipelines.custom_diffusion import method as custom
from pipelines.custom_diffusion.method.settings import LEARNED
from tasks.export import read_frame
from tests.tiny import build_tiny

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
PROMPTS = ["a photo of <otter> bear", "a red cat"]


@pytest.fixture(scope="module")
def frame(tiny_base: Path) -> Frame:
    return read_frame(tiny_base)


def learned(frame: Frame, layers: str = "crossattn_kv", **facts: Any) -> Artifact:
    """Random changes of the layers, and a random word."""
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: tensor + 0.2 * torch.randn(tensor.shape, generator=generator) * tensor.std()
        for name, tensor in frame.tensors.items()
        if re.search(LEARNED[layers], name)
    }
    for part in (part for part in text_parts() if any(name.startswith(f"{part}.") for name in frame.tensors)):
        table = frame.tensors[f"{part}.embeddings.token_embedding.weight"]
        tensors[f"words.0.{part}"] = torch.randn(1, table.shape[1], generator=generator) * table.std()
    known = {"name": "<otter> bear", "words": ["<otter>"], "family": "sd1", "prediction": "epsilon", "step": 6}
    return Artifact("custom_diffusion", tensors, known | facts)


def ours(base: Base, artifact: Artifact, noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    with custom.apply(artifact, base), torch.no_grad():
        return predict(base, noisy, t, encode_prompts(base, PROMPTS))


def theirs(pipe: Any, noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    ids = pipe.tokenizer(PROMPTS, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        predicted: torch.Tensor = pipe.unet(noisy, t, encoder_hidden_states=pipe.text_encoder(ids)[0]).sample
    return predicted


def test_adobes_file_holds_whole_weights_by_diffusers_names_and_each_word_once(frame: Frame, tmp_path: Path) -> None:
    artifact = learned(frame)
    (path,) = adobe_delta.write(artifact, Draft(tmp_path), frame)
    data = read_pickle(path)
    assert path.name == "delta.bin"
    assert set(data) == {"unet", "modifier_token"}
    assert len(data["unet"]) == 32
    assert torch.equal(data["unet"][f"{LAYER}.to_k.weight"], artifact.tensors[f"unet.{LAYER}.to_k.weight"])
    assert data["modifier_token"]["<otter>"].shape == (32,)
    tensors, facts = adobe_delta.read(path)
    assert facts == {"words": ["<otter>"]}
    assert set(tensors) == set(artifact.tensors)
    assert all(torch.equal(tensor, artifact.tensors[name]) for name, tensor in tensors.items())
    assert identify(path) == "adobe_delta"
    assert adobe_delta.write(artifact, Draft(tmp_path / "again"), frame)[0].read_bytes() == path.read_bytes()


def test_a_compressed_delta_keeps_the_fewest_singular_values_above_the_share(frame: Frame, tmp_path: Path) -> None:
    artifact = learned(frame, compress=0.6)
    whole, compressed = adobe_delta.write(artifact, Draft(tmp_path), frame)
    assert compressed.stat().st_size < whole.stat().st_size
    name = f"{LAYER}.to_v.weight"
    stored = read_pickle(compressed)["unet"][name]
    delta = artifact.tensors[f"unet.{name}"] - frame.tensors[f"unet.{name}"]
    s = torch.linalg.svdvals(delta.double())
    rank = stored["u"].shape[1]
    assert stored["v"].shape == (rank, delta.shape[1])
    assert s[: rank - 1].sum() <= 0.6 * s.sum() < s[:rank].sum()
    error = (stored["u"] @ stored["v"] - delta).double().norm()
    assert float(error) == pytest.approx(float(s[rank:].square().sum().sqrt()), rel=1e-4)  # the best there is
    tensors, _ = adobe_delta.read(compressed)
    torch.testing.assert_close(tensors[f"unet.{name}.delta"], stored["u"] @ stored["v"])
    full, _ = factors(delta, 1 - 1e-9)
    assert full.shape[1] == min(delta.shape)


def test_of_sdxl_a_word_has_its_two_rows_as_adobes_pipeline_takes_them(tmp_path: Path) -> None:
    """``CustomDiffusionXLPipeline.load_model`` of Adobe's code gives ``[0]`` and ``[1]`` of a word to the encoders."""
    frame = read_frame(build_tiny(tmp_path / "tiny", "sdxl"))
    artifact = learned(frame, family="sdxl")
    (path,) = adobe_delta.write(artifact, Draft(tmp_path), frame)
    data = read_pickle(path)
    assert set(data) == {"unet", "modifier_token"}
    first, second = data["modifier_token"]["<otter>"]
    assert torch.equal(first, artifact.tensors["words.0.text_encoder"][0])
    assert torch.equal(second, artifact.tensors["words.0.text_encoder_2"][0])
    tensors, _ = adobe_delta.read(path)
    assert set(tensors) == set(artifact.tensors)
    assert all(torch.equal(tensor, artifact.tensors[name]) for name, tensor in tensors.items())


def test_only_keys_and_values_are_compressed_as_adobes_code_reads_it(
    frame: Frame, tiny_base: Path, tmp_path: Path
) -> None:
    """``load_model(…, compress=True)`` adds u·v to keys and values alone, and copies what else it finds."""
    artifact, base = learned(frame, "crossattn", compress=1 - 1e-9), load_base(tiny_base)
    _, path = adobe_delta.write(artifact, Draft(tmp_path), frame)
    unet = read_pickle(path)["unet"]
    factored = {name for name, value in unet.items() if isinstance(value, dict)}
    assert len(unet) == 80
    assert factored == {name for name in unet if ".attn2.to_k." in name or ".attn2.to_v." in name}
    assert torch.equal(unet[f"{LAYER}.to_out.0.bias"], artifact.tensors[f"unet.{LAYER}.to_out.0.bias"])
    tensors, facts = adobe_delta.read(path)
    noisy, t = torch.randn(2, 4, 8, 8), torch.tensor([900, 20])
    again = ours(base, Artifact("custom_diffusion", tensors, artifact.facts | facts), noisy, t)
    torch.testing.assert_close(again, ours(base, artifact, noisy, t), rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_the_web_uis_file_holds_differences_by_the_names_of_the_model(family: str, tmp_path: Path) -> None:
    frame = read_frame(build_tiny(tmp_path / "tiny", family))
    artifact = learned(frame, "crossattn", family=family)
    path, *words = webui_delta.write(artifact, Draft(tmp_path), frame)
    assert [file.name for file in (path, *words)] == ["otterbear.delta.safetensors", "otter.pt"]
    assert identify(path) == "webui_delta"
    names = set(to_ldm(frame.tensors, FAMILIES[family]))
    header = read_header(path)
    header.pop("__metadata__")
    assert set(header) <= names
    assert all(name.startswith(UNET) for name in header)
    tensors, _ = webui_delta.read(path)
    assert len(tensors) == len([name for name in artifact.tensors if name.startswith("unet.")])
    for name, delta in tensors.items():
        whole = name.removesuffix(".delta")
        torch.testing.assert_close(delta, artifact.tensors[whole] - frame.tensors[whole])
    rows, facts = embedding_pt.read(words[0])
    assert torch.equal(rows["text_encoder"], artifact.tensors["words.0.text_encoder"])
    if family != "sdxl":
        assert facts["name"] == "<otter>"


def test_the_web_uis_factors_are_in_half_precision_and_told_in_the_header(frame: Frame, tmp_path: Path) -> None:
    artifact = learned(frame, compress=0.8)
    path, _ = webui_delta.write(artifact, Draft(tmp_path), frame)
    assert '"delta_factors"' in read_metadata(path)["json"]
    assert '"version": "0.2.0"' in read_metadata(path)["json"]
    stored = read_tensors(path)[0]
    assert {name.rpartition(".")[2] for name in stored} == {"US", "Vh"}
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    name = f"unet.{LAYER}.to_k.weight"
    us, vh = factors(artifact.tensors[name] - frame.tensors[name], 0.8)
    torch.testing.assert_close(webui_delta.read(path)[0][f"{name}.delta"], us @ vh, rtol=0.01, atol=1e-3)


@pytest.mark.parametrize("layers", ["crossattn_kv", "crossattn"])
def test_diffusers_loads_its_file_and_predicts_the_same(
    layers: str, frame: Frame, tiny_base: Path, tmp_path: Path
) -> None:
    artifact, base = learned(frame, layers), load_base(tiny_base)
    path, word = diffusers_custom_diffusion.write(artifact, Draft(tmp_path), frame)
    data = read_pickle(path)
    assert [name for name, value in data.items() if len(value) == 0] == sorted(
        n.removeprefix("unet.").replace(".to_q.weight", ".processor") for n in frame.tensors if "attn1.to_q.weight" in n
    )
    ends = {name.partition(".attn2.processor.")[2] for name, value in data.items() if len(value)}
    kv = {"to_k_custom_diffusion.weight", "to_v_custom_diffusion.weight"}
    out = {"to_q_custom_diffusion.weight", "to_out_custom_diffusion.0.weight", "to_out_custom_diffusion.0.bias"}
    assert ends == (kv if layers == "crossattn_kv" else kv | out)
    pipe = StableDiffusionPipeline.from_pretrained(tiny_base, local_files_only=True)
    pipe.unet.load_attn_procs(str(tmp_path), weight_name=path.name, _pipeline=pipe)
    pipe.load_textual_inversion(str(tmp_path), weight_name=word.name)
    noisy, t = torch.randn(2, 4, 8, 8), torch.tensor([900, 20])
    found = ours(base, artifact, noisy, t)
    assert (found - theirs(pipe, noisy, t)).abs().max() < 1e-5
    assert identify(path) == "diffusers_custom_diffusion"
    tensors, _ = diffusers_custom_diffusion.read(path)
    assert all(torch.equal(tensor, artifact.tensors[name]) for name, tensor in tensors.items())
    assert len(tensors) == len([name for name in artifact.tensors if name.startswith("unet.")])


def test_the_lora_is_exact_at_full_rank_in_diffusers(frame: Frame, tiny_base: Path, tmp_path: Path) -> None:
    artifact, base = learned(frame), load_base(tiny_base)
    (path,) = svd_lora.write(artifact, Draft(tmp_path), frame)
    assert identify(path) == "kohya_lora"
    diffusers_custom_diffusion.write(artifact, Draft(tmp_path), frame)
    pipe = StableDiffusionPipeline.from_pretrained(tiny_base, local_files_only=True)
    pipe.load_lora_weights(str(tmp_path), weight_name=path.name)
    pipe.load_textual_inversion(str(tmp_path), weight_name="otter.bin")
    noisy, t = torch.randn(2, 4, 8, 8), torch.tensor([900, 20])
    assert (ours(base, artifact, noisy, t) - theirs(pipe, noisy, t)).abs().max() < 1e-5


def test_no_lora_is_written_of_an_artifact_that_changes_nothing(frame: Frame, tmp_path: Path) -> None:
    artifact = learned(frame)
    own = {name: frame.tensors[name] for name in artifact.tensors if name.startswith("unet.")}
    with pytest.raises(FormatError, match="has the same weights as its base in every layer"):
        svd_lora.write(Artifact("x", artifact.tensors | own, artifact.facts), Draft(tmp_path), frame)
    assert not list(tmp_path.iterdir())


def test_a_lora_of_lower_rank_is_the_nearest_and_biases_are_left_out(frame: Frame, tmp_path: Path) -> None:
    artifact = learned(frame, "crossattn", lora_rank=3)
    (path,) = svd_lora.write(artifact, Draft(tmp_path), frame)
    tensors, facts = kohya_lora.read(path)
    assert (facts["rank"], facts["alpha"]) == (3, 3.0)
    assert len(tensors) == 2 * 4 * 16
    name = f"unet.{LAYER}.to_q"
    delta = (artifact.tensors[f"{name}.weight"] - frame.tensors[f"{name}.weight"]).double()
    error = (tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]).double() - delta
    assert float(error.norm()) == pytest.approx(float(torch.linalg.svdvals(delta)[3:].square().sum().sqrt()), rel=1e-4)


@pytest.mark.parametrize("form", [adobe_delta, webui_delta, diffusers_custom_diffusion])
def test_a_file_of_another_kind_and_a_base_of_another_size_are_refused(
    form: ModuleType, frame: Frame, tmp_path: Path
) -> None:
    path = tmp_path / ("x.safetensors" if form is webui_delta else "x.bin")
    if form is webui_delta:
        write_tensors(path, {"emb_params": torch.zeros(1, 4)})
    else:
        write_pickle(path, {"emb_params": torch.zeros(1, 4)})
    with pytest.raises(FormatError, match="give a"):
        form.read(path)
    strange = learned(frame)
    tensors = strange.tensors | {f"unet.{LAYER}.to_k.weight.delta": torch.zeros(3, 3)}
    with pytest.raises(FormatError, match="holds .*, which this base does not have in this shape"):
        form.write(Artifact("custom_diffusion", tensors, strange.facts), Draft(tmp_path), frame)


def test_sizes_on_the_true_sd15_are_those_of_the_formulas(tmp_path: Path) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    shapes = {f"unet.{name}": p.shape for name, p in unet.named_parameters()}
    tensors = {
        name: torch.zeros(shape, dtype=torch.float16)
        for name, shape in shapes.items()
        if re.search(LEARNED["crossattn_kv"], name)
    }
    tensors["words.0.text_encoder"] = torch.zeros(1, 768, dtype=torch.float16)
    frame = Frame({name: torch.zeros((), dtype=torch.float16).expand(shape) for name, shape in shapes.items()}, {})
    facts = {"name": "<new1> cat", "words": ["<new1>"], "family": "sd1", "prediction": "epsilon"}
    artifact = Artifact("custom_diffusion", tensors, facts)
    for form in (adobe_delta, webui_delta, diffusers_custom_diffusion):
        path = form.write(artifact, Draft(tmp_path), frame)[0]
        assert path.stat().st_size == pytest.approx(19_169_280 * 2, rel=0.01)
        path.unlink()


def test_whole_weights_become_differences_and_those_whole_weights_again(frame: Frame, tmp_path: Path) -> None:
    artifact = learned(frame, "crossattn")
    weights = {name: tensor for name, tensor in artifact.tensors.items() if name.startswith("unet.")}
    deltas, _ = webui_delta.read(webui_delta.write(artifact, Draft(tmp_path / "1"), frame)[0])
    made = Artifact("custom_diffusion", deltas, {**artifact.facts, "words": []})
    again = webui_delta.read(webui_delta.write(made, Draft(tmp_path / "2"), frame)[0])[0]
    assert again.keys() == {f"{name}.delta" for name in weights}
    assert all(torch.equal(again[name], deltas[name]) for name in deltas)
    whole, _ = adobe_delta.read(adobe_delta.write(made, Draft(tmp_path / "3"), frame)[0])
    assert whole.keys() == weights.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(tensor, weights[name], rtol=0, atol=1e-6)


def test_a_lora_of_a_higher_rank_than_some_layers_has_one_alpha(frame: Frame, tmp_path: Path) -> None:
    """All layers have the same: diffusers ignores alphas that differ."""
    artifact = learned(frame, lora_rank=20)
    tensors, facts = kohya_lora.read(svd_lora.write(artifact, Draft(tmp_path), frame)[0])
    ranks = {tensor.shape[0] for name, tensor in tensors.items() if ".lora_A." in name}
    assert facts["alpha"] == max(ranks) <= 20
    assert "alphas" not in facts
    for name in (name for name in artifact.tensors if name.startswith("unet.")):
        down, up = (tensors[name.replace("weight", f"lora_{half}.weight")] for half in "AB")
        delta = artifact.tensors[name] - frame.tensors[name]
        assert len(down) == min(20, *delta.shape)
        nearest = torch.linalg.svdvals(delta.double())[20:].square().sum().sqrt()
        error = (up @ down * facts["alpha"] / len(down) - delta).double().norm()
        assert float(error) == pytest.approx(float(nearest), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("form", [webui_delta, svd_lora])
@pytest.mark.parametrize("compress", [0.0, 0.9])
def test_a_difference_that_the_precision_cannot_hold_is_not_written(
    form: ModuleType, compress: float, frame: Frame, tmp_path: Path
) -> None:
    name = f"unet.{LAYER}.to_k.weight"
    large = Frame(dict(frame.tensors) | {name: torch.full_like(frame.tensors[name], 1e12)}, {})
    tensors = {name: torch.zeros_like(frame.tensors[name], dtype=torch.float16)}
    facts = {"name": "otter", "words": [], "family": "sd1", "compress": compress}
    with pytest.raises(FormatError, match=r"attn2.* is not finite in float16"):
        form.write(Artifact("custom_diffusion", tensors, facts), Draft(tmp_path), large)
    assert not list(tmp_path.iterdir())


def test_a_delta_with_a_text_encoder_is_refused_by_name(frame: Frame, tmp_path: Path) -> None:
    draft = Draft(tmp_path)
    (path,) = adobe_delta.write(learned(frame), draft, frame)
    data = read_pickle(path)
    for others in (["text_encoder"], ["text_encoder", "text_encoder_2"], ["modifier_token_2"]):
        write_pickle(path, data | {name: {"weight": torch.ones(2)} for name in others})
        with pytest.raises(FormatError, match=rf"also holds .*{', '.join(others)}.*would be lost"):
            adobe_delta.read(path)
    word, row = next(iter(data["modifier_token"].items()))
    write_pickle(path, data | {"modifier_token": {word: [row] * 3}})
    with pytest.raises(FormatError, match=r"has 3 rows for the word `<otter>`"):
        adobe_delta.read(path)


@pytest.mark.parametrize("row", [torch.ones(()), torch.ones(32, 1), torch.ones(2, 32), torch.ones(0), 3.0])
def test_what_is_no_row_for_a_word_is_refused_by_the_word(row: Any, frame: Frame, tmp_path: Path) -> None:
    (path,) = adobe_delta.write(learned(frame), Draft(tmp_path), frame)
    write_pickle(path, read_pickle(path) | {"modifier_token": {"<otter>": row}})
    with pytest.raises(FormatError, match=r"has .* for the word `<otter>`, where a row of a text encoder's table"):
        adobe_delta.read(path)


def test_an_empty_weight_of_custom_diffusion_is_refused_and_not_left_out(frame: Frame, tmp_path: Path) -> None:
    path = diffusers_custom_diffusion.write(learned(frame), Draft(tmp_path), frame)[0]
    name = f"{LAYER}.processor.to_k_custom_diffusion.weight"
    write_pickle(path, read_pickle(path) | {name: torch.ones(0)})
    with pytest.raises(FormatError, match=rf"`{re.escape(name)}` is empty: \[0\]"):
        diffusers_custom_diffusion.read(path)


def test_an_entry_of_another_kind_and_a_tensor_without_entry_are_refused(frame: Frame, tmp_path: Path) -> None:
    path = webui_delta.write(learned(frame), Draft(tmp_path), frame)[0]
    tensors, metadata = read_tensors(path)
    header = json.loads(metadata["json"])
    name = min(header["entries"])
    other = header | {"entries": header["entries"] | {name: "weight"}}
    write_tensors(path, tensors, {"json": json.dumps(other)})
    with pytest.raises(FormatError, match=rf"kind `weight` for `{re.escape(name)}`"):
        webui_delta.read(path)
    fewer = header | {"entries": {key: kind for key, kind in header["entries"].items() if key != name}}
    write_tensors(path, tensors, {"json": json.dumps(fewer)})
    with pytest.raises(FormatError, match=r"in no entry of its header: 1 name \(model\.diffusion_model\."):
        webui_delta.read(path)
