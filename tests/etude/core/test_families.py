"""A family is one record: a made-up one is loaded, learned on and exported with nothing but that record added."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from etude.base.base import Base
from etude.base.family import recognise
from etude.base.loading import load_base
from etude.base.single import CONFIGS
from etude.base.text import encode_prompts
from etude.core.artifact import Artifact
from etude.core.families import (
    FAMILIES,
    PLAIN,
    PROJECTED,
    Family,
    TextEncoder,
    by_config,
    by_names,
    by_tensors,
    listed,
)
from etude.core.files import Draft
from etude.core.model_folders import read_config
from etude.core.tensors import read_metadata
from etude.formats import identify, load_format, write
from etude.formats.kinds import family_of
from tasks.export import read_frame
from tests.pipelines.learning import learn, params_of, picture, same
from tests.shipped import ROOT
from tests.tiny import SAMPLE, build_tiny

LEVELS = ["CrossAttnDownBlock2D", "DownBlock2D"]  # two; every published family has three or four
MADE_UP = Family(
    name="made_up",
    title="a family of this test",
    text_encoders=(
        TextEncoder(
            part="text_encoder",
            tokenizer="tokenizer",
            model=PLAIN,
            width=32,
            pad="<|endoftext|>",
            layer=1,
            normed=True,
            pooled=False,
            single="first.",
            open_clip=False,
            kohya="lora_words1_",
            embedding="left",
        ),
        TextEncoder(
            part="text_encoder_2",
            tokenizer="tokenizer_2",
            model=PROJECTED,
            width=48,
            pad="!",
            layer=3,
            normed=False,
            pooled=False,
            single="second.",
            open_clip=True,
            kohya="lora_words2_",
            embedding="right",
        ),
    ),
    texts="words.",
    blocks=(1, 0),
    size_ids=False,
    config_marks={"down_block_types": LEVELS},
    tensor_marks={"words.": None},
    resolution={"epsilon": 64, "v_prediction": 64},
    index={"_class_name": "MadeUpPipeline"},
    architecture={"epsilon": "made-up", "v_prediction": "made-up"},
    base_version={"epsilon": "made_up_v7", "v_prediction": "made_up_v7_v"},
    kohya_ldm=True,
)


@pytest.fixture(autouse=True, scope="module")
def one_more() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "made_up", MADE_UP)
        yield


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base of the made-up family, as a diffusers folder."""
    folder = build_tiny(tmp_path_factory.mktemp("made-up") / "tiny", "sdxl")
    torch.manual_seed(0)
    shape = {"block_out_channels": (16, 24), "norm_num_groups": 8, "layers_per_block": 2, "attention_head_dim": 8}
    kinds = {"down_block_types": LEVELS, "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}
    UNet2DConditionModel(sample_size=SAMPLE, cross_attention_dim=80, **shape, **kinds).save_pretrained(folder / "unet")
    return folder


@pytest.fixture(scope="module")
def base(tiny: Path) -> Base:
    """Read only; learning leaves its weights as they were."""
    return load_base(tiny)


def facts(base: Base) -> dict[str, object]:
    return {"name": "otter", "family": base.family, "prediction": base.prediction, "resolution": base.resolution}


def test_a_folder_of_it_is_loaded_and_its_texts_are_read_as_the_record_says(base: Base) -> None:
    assert (base.family, base.text_parts) == ("made_up", ("text_encoder", "text_encoder_2"))
    hidden = encode_prompts(base, ["a cat"]).hidden
    assert hidden.shape == (1, 77, 80)
    ids = [t("a cat", padding="max_length", max_length=77, return_tensors="pt").input_ids for t in base.tokenizers]
    first = base.text_encoders[0](ids[0]).last_hidden_state
    second = base.text_encoders[1](ids[1], output_hidden_states=True).hidden_states[-3]
    assert torch.equal(hidden, torch.cat([first, second], dim=-1))
    assert picture(base).shape == (1, 64, 64, 3)


def test_a_lora_learned_on_it_for_two_steps_is_read_back_from_the_files_of_two_programs(
    base: Base, tiny: Path, tmp_path: Path
) -> None:
    params = params_of("lora", {"steps": 2, "checkpoint_every": 2}, text_encoder_rate=0.5, save="fp32")
    built = learn("lora", base, params, tmp_path / "scratch")
    made = Artifact("lora", built.tensors, built.facts | facts(base))
    assert any(tensor.abs().sum() > 0 for name, tensor in made.tensors.items() if ".lora_B." in name)
    for form in ("kohya_lora", "diffusers_lora", "peft_lora"):
        paths = write(form, made, Draft(tmp_path / form), lambda: read_frame(tiny))
        top = tmp_path / form / "otter" if form == "peft_lora" else paths[0]
        assert identify(top) == form
        assert same(load_format(form).read(top)[0], {name: t.detach() for name, t in made.tensors.items()})
    keys = load_file(tmp_path / "kohya_lora" / "otter.safetensors")
    beginnings = ("lora_unet_input_blocks_1_1_", "lora_words1_text_model_", "lora_words2_text_model_")
    assert all(any(key.startswith(beginning) for key in keys) for beginning in beginnings)
    assert read_metadata(tmp_path / "kohya_lora" / "otter.safetensors")["ss_base_model_version"] == "made_up_v7"
    assert load_format("kohya_lora").read(tmp_path / "kohya_lora" / "otter.safetensors")[1]["family"] == "made_up"


@pytest.mark.parametrize("form", ["ldm_checkpoint", "diffusers_checkpoint"])
def test_a_whole_model_of_it_is_written_read_back_and_loaded_as_a_base(
    form: str, base: Base, tiny: Path, tmp_path: Path
) -> None:
    frame = read_frame(tiny)
    paths = write(form, Artifact("fine_tuning", {}, facts(base)), Draft(tmp_path), lambda: frame)
    top = paths[0] if form == "ldm_checkpoint" else tmp_path / "otter"
    assert identify(top) == form
    tensors, told = load_format(form).read(top)
    assert told["family"] == "made_up"
    assert same(tensors, dict(frame.tensors))
    again = load_base(top)
    assert (again.family, again.resolution, again.prediction) == ("made_up", 64, "epsilon")
    assert torch.equal(picture(again), picture(base))


def test_a_single_file_of_it_names_its_text_encoders_by_its_own_prefixes(
    base: Base, tiny: Path, tmp_path: Path
) -> None:
    made = Artifact("fine_tuning", {}, facts(base))
    (path, *_) = write("ldm_checkpoint", made, Draft(tmp_path), lambda: read_frame(tiny))
    keys = load_file(path)
    assert "words.first.text_model.embeddings.token_embedding.weight" in keys
    assert "words.second.token_embedding.weight" in keys
    assert recognise(path) == "made_up"


@pytest.mark.parametrize("form", ["embedding_pt", "embedding_safetensors"])
def test_a_word_of_it_has_the_keys_of_the_record(form: str, tmp_path: Path) -> None:
    rows = {"text_encoder": torch.randn(2, 32), "text_encoder_2": torch.randn(2, 48)}
    told = {"name": "otter", "family": "made_up", "prediction": "epsilon"}
    (path,) = write(form, Artifact("textual_inversion", rows, told), Draft(tmp_path), lambda: read_frame(tmp_path))
    assert same(load_format(form).read(path)[0], rows)


def test_the_last_record_whose_marks_are_all_there_is_the_family() -> None:
    linear = {"use_linear_projection": True}
    found = [by_config(config) for config in ({}, linear, linear | {"addition_embed_type": "text_time"})]
    assert [family.name for family in found if family] == ["sd1", "sd2", "sdxl"]
    assert by_config({"addition_embed_type": "image"}) is None
    proj_in = "model.diffusion_model.input_blocks.1.1.proj_in.weight"
    files = ({proj_in: 4}, {proj_in: 2}, {proj_in: 2, "conditioner.embedders.0.x": 2}, {"words.first.x": 1})
    assert [by_tensors(file).name for file in files] == ["sd1", "sd2", "sdxl", "made_up"]


def test_a_lora_is_of_the_one_family_with_its_text_encoders_and_depth_else_of_that_with_its_width() -> None:
    context = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight"
    deep = "unet.mid_block.attentions.0.transformer_blocks.1.attn2.to_k.lora_A.weight"
    assert family_of({deep: torch.ones(4, 7)}) == "sdxl"
    widths = {80: "made_up", 768: "sd1", 1024: "sd2", 2048: "sdxl", 7: None}
    assert {width: family_of({context: torch.ones(4, width)}) for width in widths} == widths


@pytest.mark.parametrize(
    ("name", "resolution"),
    [
        ("sd1", {"epsilon": 512, "v_prediction": 512}),
        ("sd2", {"epsilon": 512, "v_prediction": 768}),
        ("sdxl", {"epsilon": 1024, "v_prediction": 1024}),
    ],
)
def test_a_published_family_has_the_sizes_of_its_published_configuration(name: str, resolution: dict[str, int]) -> None:
    family, unet = FAMILIES[name], read_config(CONFIGS / name / "unet" / "config.json")
    texts = [read_config(CONFIGS / name / encoder.part / "config.json") for encoder in family.text_encoders]
    assert [encoder.width for encoder in family.text_encoders] == [text["hidden_size"] for text in texts]
    assert family.width == unet["cross_attention_dim"]
    levels = [name == "CrossAttnDownBlock2D" for name in unet["down_block_types"]]
    depths = unet.get("transformer_layers_per_block", [1] * len(levels))
    assert family.blocks == tuple(depth * with_attention for depth, with_attention in zip(depths, levels, strict=True))
    assert family.size_ids == (unet.get("addition_embed_type") == "text_time")
    assert by_config(unet) == family
    assert family.resolution == resolution
    for encoder, text in zip(family.text_encoders, texts, strict=True):
        assert encoder.layers in (None, text["num_hidden_layers"])
        assert (encoder.model == PROJECTED) == encoder.pooled == ("WithProjection" in text["architectures"][0])


def test_a_layer_deeper_than_any_family_has_belongs_to_none() -> None:
    block = "unet.down_blocks.2.attentions.0.transformer_blocks.{}.attn2.to_k.lora_A.weight"
    for number, names in ((0, ["sd1", "sd2", "sdxl", "made_up"]), (1, ["sdxl"]), (9, ["sdxl"]), (10, [])):
        assert [family.name for family in by_names([block.format(number)])] == names
    assert [family.name for family in by_names(["positive.text_encoder_2"])] == ["sdxl", "made_up"]
    assert listed() == "sd1, sd2, sdxl or made_up"


def named(source: str) -> set[str]:
    """The families that a source file names as text."""
    texts = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    return {family for family in ("sd1", "sd2", "sdxl") if family in texts}


def test_a_family_is_named_in_its_record_alone_and_by_the_methods_that_cannot_use_one() -> None:
    rooms = ("etude", "tasks", "commands", "flows", "pipelines")
    files = [path.relative_to(ROOT) for room in rooms for path in (ROOT / room).rglob("*.py")]
    naming = {path.as_posix() for path in files if named((ROOT / path).read_text())}
    methods = {path.as_posix() for path in files if path.match("pipelines/*/method/__init__.py")}
    # The last two count the published SD 1.5, and list words in file names.
    others = {"commands/sizes.py", "etude/captions/program_words.py"}
    assert naming - methods == {"etude/core/families.py"} | others


def test_a_branch_on_a_family_is_found() -> None:
    assert named('if base.family == "sdxl":\n    pass\n') == {"sdxl"}
    assert not named('print("sdxl has two text encoders")\n')
