"""What the header of a LoRA says of its tensors: it is used, or refused by name; it is never passed over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from etude.core.errors import FormatError
from etude.formats.lora import diffusers_lora, kohya_lora

STEM = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_q"
DOTTED = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
TEXT = "text_encoder.text_model.encoder.layers.0.mlp.fc1"
PAIR = {"lora_down.weight": (4, 16), "lora_up.weight": (16, 4)}
LOHA = {"hada_w1_a": (16, 4), "hada_w1_b": (4, 16), "hada_w2_a": (16, 4), "hada_w2_b": (4, 16)}
LOKR = {"lokr_w1": (4, 4), "lokr_w2": (4, 4)}
GLORA = {"a1.weight": (16, 4), "a2.weight": (4, 16), "b1.weight": (16, 4), "b2.weight": (4, 16)}
OFT = {"oft_blocks": (4, 4, 4)}
ALPHA = {"alpha": ()}
IA3 = {"weight": (16,), "on_input": ()}
Shapes = dict[str, tuple[int, ...]]
Header = dict[str, str]


def lycoris(**args: Any) -> Header:
    return {"ss_network_module": "lycoris.kohya", "ss_network_args": json.dumps(args)}


def one_trainer(**config: Any) -> Header:
    return {"ot_config": json.dumps({"training_method": "LORA", **config})}


def read(folder: Path, shapes: Shapes, header: Header, dotted: bool = False) -> dict[str, Any]:
    stem = DOTTED if dotted else STEM
    tensors = {f"{stem}.{name}": torch.ones(shape) for name, shape in shapes.items()}
    if "on_input" in shapes:
        tensors[f"{stem}.on_input"] = torch.tensor(0)
    save_file(tensors, folder / "x.safetensors", header)
    return (diffusers_lora if dotted else kohya_lora).read(folder / "x.safetensors")[1]


REFUSED: list[tuple[Header, Shapes, str]] = [
    ({"ss_network_module": "networks.oft"}, PAIR, "networks.oft"),
    ({"ss_network_module": "networks.oft_flux"}, OFT, "networks.oft_flux"),
    ({"ss_network_module": "my.network"}, PAIR, "my.network"),
    ({"ss_network_module": "networks.lora"}, LOHA, "networks.lora.*holds no LoRA"),
    ({"ss_network_module": "networks.loha"}, PAIR, "algorithm `loha`"),
    ({"ss_network_module": "networks.lora", "ss_network_args": '{"algo": "loha"}'}, PAIR, "algorithm `loha`"),
    (lycoris(algo="loha"), PAIR, r"algorithm `loha`.* factors are lora_…"),
    (lycoris(algo="lokr", preset="full"), PAIR, "algorithm `lokr`"),
    (lycoris(), LOHA, "algorithm `lora`"),
    (lycoris(algo="dylora"), PAIR, "dylora"),
    (lycoris(algo="tlora"), PAIR, "algorithm `tlora`"),
    (lycoris(algo="lora", new="1"), PAIR, "`new: True`"),
    ({"ss_network_args": json.dumps({"rank_stabilized": "True"})}, PAIR, "remove `rank_stabilized`"),
    (lycoris(algo="lokr", rs_lora="True"), LOKR, r"rs_lora.*to_q"),
    (lycoris(algo="glora", rs_lora=True), GLORA | ALPHA, r"rs_lora.*to_q"),
    (lycoris(rs_lora="True") | {"ss_network_alpha": "1.0"}, PAIR | ALPHA, r"rs_lora.*to_q"),
    (lycoris(dora_wd="True"), PAIR | ALPHA, "it is a DoRA"),
    (lycoris(dora_wd="True", wd_on_output="True"), PAIR | {"dora_scale": (1, 16)}, "for each input"),
    (lycoris(dora_wd="True", wd_on_output="False"), PAIR | {"dora_scale": (16, 1)}, "for each output"),
    (lycoris(algo="diag-oft", bypass_mode="True"), OFT | ALPHA, "bypass_mode"),
    (lycoris(algo="ia3", bypass_mode="True"), IA3, "bypass_mode"),
    (lycoris(algo="boft", rescaled="True"), OFT | ALPHA, "rescaled"),
    (lycoris(algo="diag-oft", constrain="0.01"), OFT, "constrain: 0.01"),
    (lycoris(algo="diag-oft", bypass_mode=1), OFT | ALPHA, "bypass_mode"),
    (lycoris(algo="diag-oft", constraint="0.01"), OFT, "constraint: 0.01"),
    (lycoris(dora_wd="True", wd_on_out="True"), PAIR | {"dora_scale": (1, 16)}, "for each input"),
    (lycoris(weight_decompose="True"), PAIR | ALPHA, "it is a DoRA"),
    (lycoris(rs_lora="True", conv_alpha="1"), PAIR | ALPHA, r"rs_lora.*to_q"),
    ({"ss_network_module": "networks.lokr"}, LOHA, "algorithm `lokr`"),
    ({"ss_network_alpha": "1.0", "ss_network_dim": "4"}, PAIR, "ss_network_alpha: 1.*rank 4"),
    ({"ss_network_alpha": "8", "ss_network_dim": "4"}, PAIR, "ss_network_alpha: 8.*rank 4"),
    ({"ss_network_args": "{"}, PAIR, "`ss_network_args` is not JSON"),
    ({"ss_network_args": "[1]"}, PAIR, "ss_network_args"),
    ({"ot_config": '{"peft_type": "LOHA"}'}, PAIR, "algorithm `loha`"),
    (one_trainer(peft_type="LOKR", lokr_weight_decompose=True), LOKR, "it is a DoRA"),
    (
        one_trainer(peft_type="LOKR", lokr_weight_decompose=True, lokr_dora_on_output=False),
        LOKR | {"dora_scale": (16, 1)},
        "for each output",
    ),
    (one_trainer(peft_type="LOHA"), PAIR, "algorithm `loha`"),
    (one_trainer(peft_type="OFT_2"), PAIR, "algorithm `oft_2`"),
    (one_trainer(peft_type="LORA", lora_decompose=True), PAIR, "it is a DoRA"),
    (
        one_trainer(peft_type="LORA", lora_decompose=True, lora_decompose_output_axis=False),
        PAIR | {"dora_scale": (16, 1)},
        "for each output",
    ),
]
READ: list[tuple[Header, Shapes]] = [
    ({"ss_network_module": "networks.lora", "ss_network_args": json.dumps({"conv_dim": "8", "conv_alpha": "1"})}, PAIR),
    ({"ss_network_module": "networks.dylora", "ss_network_args": json.dumps({"unit": "4"})}, PAIR),
    ({"ss_network_module": "networks.dylora", "ss_network_args": '{"algo": "dylora"}'}, PAIR),
    ({"ss_network_module": "locon.locon_kohya", "ss_network_args": "null"}, PAIR),
    ({"ss_network_module": "None", "ss_network_args": "None"}, PAIR),
    ({"ss_network_alpha": "Dynamic", "ss_network_dim": "Dynamic"}, PAIR),
    ({"ss_network_alpha": "inf"}, PAIR),
    ({"ss_network_alpha": "nan"}, PAIR),
    ({"ss_network_alpha": "1.0", "ss_network_dim": "4"}, PAIR | ALPHA),
    ({"ss_network_alpha": "8", "ss_network_dim": "8"}, PAIR),  # of other layers: this one has its own rank
    ({"ss_network_alpha": "4", "ss_network_dim": "8"}, PAIR),
    ({"ss_network_module": "networks.loha"}, LOHA),
    ({"ss_network_module": "networks.lokr"}, LOKR),
    (lycoris(rs_lora="0", bypass_mode="0", new=[], more={}, other=""), PAIR),
    (lycoris(rs_lora="True", conv_alpha="1") | {"ss_network_alpha": "0.5"}, PAIR | ALPHA),
    (lycoris(algo="boft", rescaled="True"), OFT | ALPHA | {"rescale": (16, 1)}),
    (lycoris(algo="diag-oft", constraint="0"), OFT),
    (lycoris(algo="full", dora_wd="True"), {"diff": (16, 16)}),
    (one_trainer(peft_type="LOHA", lora_decompose=True, lora_decompose_output_axis=True), LOHA),
    (lycoris(algo="locon", bypass_mode="True", use_tucker="True", new="None"), PAIR),
    (lycoris(algo="loha", preset="mine/all.toml"), PAIR),
    (lycoris(rs_lora="True") | {"ss_network_alpha": "0.5"}, PAIR | ALPHA),  # 0.5 · √4
    (lycoris(dora_wd="True", wd_on_output="True"), PAIR | {"dora_scale": (16, 1)}),
    (
        lycoris(dora_wd="True", wd_on_output="False"),  # one number is that of the output and of the input
        {"lora_down.weight": (4, 1), "lora_up.weight": (1, 4), "dora_scale": (1, 1)},
    ),
    (lycoris(algo="glora", dora_wd="True"), GLORA | ALPHA),
    (lycoris(algo="boft", constraint="0.01"), OFT | ALPHA),
    (lycoris(algo="full"), {"diff": (16, 16), "diff_b": (16,)}),
    (one_trainer(peft_type="LORA", lora_decompose=True), PAIR | {"dora_scale": (1, 16)}),
    (one_trainer(peft_type="LORA", training_method="EMBEDDING"), LOHA),
    (one_trainer(peft_type="LOKR", lokr_weight_decompose=False, lora_decompose=True), LOKR),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_a_header_that_says_what_the_tensors_are_not_is_refused(number: int, tmp_path: Path) -> None:
    header, shapes, said = REFUSED[number]
    with pytest.raises(FormatError, match=said):
        read(tmp_path, shapes, header)
    if not shapes.keys() & {"weight", "a1.weight"}:  # with dots these would be those of any model
        with pytest.raises(FormatError, match=said):
            read(tmp_path, shapes, header, dotted=True)


@pytest.mark.parametrize("number", range(len(READ)))
def test_a_header_that_says_what_the_tensors_are_changes_nothing(number: int, tmp_path: Path) -> None:
    header, shapes = READ[number]
    assert read(tmp_path, shapes, header) == read(tmp_path, shapes, {})


def pairs(*stems: str) -> dict[str, Tensor]:
    halves = {"lora_A.weight": (4, 16), "lora_B.weight": (16, 4)}
    return {f"{stem}.{half}": torch.ones(shape) for stem in stems for half, shape in halves.items()}


def peft(folder: Path, fields: Any, stems: tuple[str, ...] = (DOTTED,)) -> dict[str, Any]:
    path = folder / "pytorch_lora_weights.safetensors"
    save_file(pairs(*stems), path, {"lora_adapter_metadata": json.dumps(fields)})
    return diffusers_lora.read(path)[1]


def test_pefts_fields_are_read_by_part_flat_or_nested(tmp_path: Path) -> None:
    of_unet, of_text = {"r": 4, "lora_alpha": 6}, {"r": 4, "lora_alpha": 4, "use_rslora": True}
    nested = {"unet": of_unet, "text_encoder": of_text}
    flat = {f"{part}.{name}": value for part, own in nested.items() for name, value in own.items()}
    mixed = {"unet": of_unet, "text_encoder.r": 4, "text_encoder": {"lora_alpha": 4, "use_rslora": True, "r": 4}}
    for fields in (nested, flat, mixed):
        facts = peft(tmp_path, fields, (DOTTED, TEXT))
        assert facts["alpha"] == 8
        assert facts["alphas"] == {DOTTED: 6.0}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"unet": [1]}, "list in `unet`"),
        ({"unet": {"r": 8}, "unet.r": 4}, r"`unet\.r` twice"),
        ({"unet": {"r": 4, "use_qalora": True}}, "use_qalora"),
        ({"unet.r": 4, "text_encoder.init_lora_weights": "pissa"}, "pissa"),
        ({"transformer": {"r": 4}}, "transformer"),
    ],
)
def test_fields_that_cannot_be_used_are_refused_wherever_they_are(fields: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=said):
        peft(tmp_path, fields)


def test_kohyas_names_and_pefts_configuration_in_one_file_are_refused(tmp_path: Path) -> None:
    header = {"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 16})}
    with pytest.raises(FormatError, match="lora_adapter_metadata"):
        read(tmp_path, PAIR, header)
    assert read(tmp_path, PAIR, {"lora_adapter_metadata": "null"})["alpha"] == 4


@pytest.mark.parametrize(("rank", "scale"), [(2, 3.0), (4, 1.5), (1, None)])
def test_a_lokr_of_two_whole_factors_has_pefts_scale_where_peft_would_not_split_it(
    rank: int, scale: float | None, tmp_path: Path
) -> None:
    tensors = {"unet.a.lokr_w1": torch.ones(2, 2), "unet.a.lokr_w2": torch.ones(4, 3)}
    header = {"lora_adapter_metadata": json.dumps({"unet": {"peft_type": "LOKR", "r": rank, "alpha": 6}})}
    save_file(tensors, tmp_path / "x.safetensors", header)
    if scale is None:
        with pytest.raises(FormatError, match="gives `a` rank 1, at which PEFT splits `lokr_w2`"):
            diffusers_lora.read(tmp_path / "x.safetensors")
    else:
        found, _ = diffusers_lora.read(tmp_path / "x.safetensors")
        assert torch.equal(found["unet.a.lokr_w1"], torch.full((2, 2), scale))
        assert torch.equal(found["unet.a.lokr_w2"], tensors["unet.a.lokr_w2"])


def test_an_empty_header_leaves_the_configuration_beside_pefts_own_file(tmp_path: Path) -> None:
    tensors = {name.replace("unet.", "base_model.model."): tensor for name, tensor in pairs(DOTTED).items()}
    save_file(tensors, tmp_path / "adapter_model.safetensors", {"lora_adapter_metadata": "{}"})
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 6}))
    assert diffusers_lora.read(tmp_path / "adapter_model.safetensors")[1]["alpha"] == 6
    save_file(tensors, tmp_path / "adapter_model.safetensors", {"lora_adapter_metadata": '{"unet.lora_alpha": 4}'})
    with pytest.raises(FormatError, match="twice"):
        diffusers_lora.read(tmp_path / "adapter_model.safetensors")


def test_an_sdxl_that_predicts_v_is_told_by_the_header(tmp_path: Path) -> None:
    header = {"ss_base_model_version": "sdxl_base_v1-0", "modelspec.prediction_type": "v"}
    assert read(tmp_path, PAIR, header)["prediction"] == "v_prediction"
    assert read(tmp_path, PAIR, header | {"modelspec.prediction_type": "v_prediction"})["prediction"] == "v_prediction"
    assert read(tmp_path, PAIR, header | {"modelspec.prediction_type": "epsilon"})["prediction"] == "epsilon"
