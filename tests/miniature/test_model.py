"""The miniature's parts: SD 1.5's names, a tokenizer that transformers reads, a pipeline that diffusers reads."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPImageProcessor, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from etude.core.params import pick
from etude.core.tensors import read_tensors
from etude.training.fit import fit
from etude.training.report import Report
from miniature import assembly, clip, decoder, draws, tokenizer, unet, vae
from miniature.start import carry_colours
from miniature.world import FOLDER, Pictures

BYTES = 512  # entries of a tokenizer without merges, and the two that bound a text: 514


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    merges = tokenizer.learn_merges(Counter({"noto": 3, "cat": 3, "red": 2, "background": 2, "on": 2}), 100)
    symbols = tokenizer.byte_symbols()
    alphabet = symbols + [symbol + "</w>" for symbol in symbols]
    tokens = [*alphabet, *("".join(pair) for pair in merges), tokenizer.START, tokenizer.END]
    tokenizer.write_tokenizer(folder, tokens, merges)
    return folder


def small_clip(entries: int = 600, text_layers: int = 12) -> CLIPModel:
    settings = pick(FOLDER / "params.yaml", clip.StageParams).clip
    narrow = {"text_width": 32, "text_layers": text_layers, "vision_width": 32, "vision_layers": 1, "projection": 32}
    return clip.build_clip(settings.model_copy(update=narrow), entries)


def test_the_unet_has_the_names_of_sd15() -> None:
    settings = pick(FOLDER / "params.yaml", unet.StageParams).unet
    with torch.device("meta"):
        true = UNet2DConditionModel(
            cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280)
        )
        ours = unet.build_unet(settings.widths, settings.groups, settings.heads, 128)
    assert list(ours.state_dict()) == list(true.state_dict())
    assert len(true.state_dict()) == 686


def test_the_autoencoder_has_the_names_of_sd15() -> None:
    settings = pick(FOLDER / "params.yaml", vae.StageParams).vae
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    with torch.device("meta"):
        true = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, **blocks)
        ours = vae.build_vae(settings.widths, settings.groups)
    assert list(ours.state_dict()) == list(true.state_dict())
    assert len(true.state_dict()) == 248


def test_the_text_encoder_has_the_names_of_sd15() -> None:
    settings = pick(FOLDER / "params.yaml", clip.StageParams).clip
    with torch.device("meta"):
        true = CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12))
        ours = clip.build_clip(settings, 2048)
    names = {name.removeprefix("text_model.") for name in true.state_dict()}
    mine = {name.removeprefix("text_model.") for name in ours.state_dict() if name.startswith("text_model.")}
    assert mine == names
    assert len(names) == 196


def test_a_text_comes_back_from_its_tokens(words: Path) -> None:
    made = CLIPTokenizer.from_pretrained(words)
    tokens = made("noto cat on a red background", padding="max_length", max_length=77).input_ids
    assert len(tokens) == 77
    assert tokens[0] == made.bos_token_id
    assert tokens.count(made.eos_token_id) == 70  # the end, and the padding
    assert made.decode(tokens, skip_special_tokens=True).strip() == "noto cat on a red background"
    assert len(made.tokenize("noto cat")) == 2


def test_a_word_that_was_never_seen_falls_into_pieces_and_comes_back(words: Path) -> None:
    made = CLIPTokenizer.from_pretrained(words)
    tokens = made("otter", add_special_tokens=False).input_ids
    assert len(tokens) > 1
    assert made.decode(tokens).strip() == "otter"


def test_the_most_frequent_neighbours_are_merged_first() -> None:
    merges = tokenizer.learn_merges(Counter({"aab": 5, "ab": 1}), 10)
    assert merges[0] == ("a", "b</w>")
    assert tokenizer.merge(("a", "b", "a", "b"), ("a", "b")) == ("ab", "ab")


def test_the_autoencoder_begins_with_the_colours_of_its_input() -> None:
    torch.manual_seed(0)
    model = vae.build_vae([16, 32, 64, 64], 2)
    carry_colours(model, -6.0)
    colours = torch.rand(8, 3, 1, 1) * 1.6 - 0.8
    images = colours.expand(8, 3, 64, 64)
    assert vae.psnr(vae.reconstruct(model, images), images) > 15


def test_pictures_with_letters_are_never_mirrored() -> None:
    rgba = torch.zeros(2, 4, 8, 8, dtype=torch.uint8)
    rgba[:, :, :, 0] = 255
    pictures = Pictures(rgba, ["noto", "noto"], ["book", "cat"])
    draw = random.Random(0)
    made = [draws.place(pictures, [0, 1], torch.zeros(2, 3), draw).images for _ in range(20)]
    assert all(images[0, 0, 0, 0] == 1 for images in made)
    assert {float(images[1, 0, 0, 0]) for images in made} == {1.0, -1.0}


def test_a_killed_autoencoder_training_ends_with_the_same_bits(tmp_path: Path) -> None:
    settings = pick(FOLDER / "params.yaml", vae.StageParams).vae
    rhythm = {"steps": 4, "batch_size": 2, "warmup_steps": 0, "resume_every": 2, "log_every": 2, "checkpoint_every": 4}
    plan = settings.training.model_copy(update=rhythm)
    pictures = Pictures(torch.randint(0, 255, (4, 4, 16, 16), dtype=torch.uint8), ["noto"] * 4, ["cat"] * 4)

    def train(folder: Path, stop: int | None) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model = vae.build_vae([8, 8, 8, 8], 2, 16)

        def batches(step: int) -> draws.Examples:
            if step == stop:
                raise KeyboardInterrupt
            draw = draws.randomiser("test", step)
            return draws.place(pictures, [0, 1], torch.zeros(2, 3), draw, 2)

        def loss(batch: draws.Examples) -> torch.Tensor:
            return vae.reconstruction_loss(model, batch.images, settings)

        fit(dict(model.named_parameters()), loss, batches, plan, Report(folder, 0, "cpu", "fp32"))
        return [parameter.detach() for parameter in model.parameters()]

    whole = train(tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", 3)
    resumed = train(tmp_path / "killed", None)
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_what_is_published_loads_as_a_pipeline_and_a_clip(words: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    entries = len(CLIPTokenizer.from_pretrained(words))
    both = small_clip(entries)
    denoiser = unet.build_unet([16, 16, 32, 32], 4, 2, 32, size=4)
    assembly.assemble(tmp_path, denoiser, vae.build_vae([8, 8, 16, 16], 2, 32), both, words)

    pipe = StableDiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    assert pipe("noto cat", num_inference_steps=2).images[0].size == (32, 32)

    loaded = CLIPModel.from_pretrained(tmp_path / "clip", local_files_only=True)
    tokens = CLIPTokenizer.from_pretrained(tmp_path / "clip")(["noto cat on a red background"], return_tensors="pt")
    pixels = CLIPImageProcessor.from_pretrained(tmp_path / "clip")(
        pipe("cat", num_inference_steps=1).images, return_tensors="pt"
    )
    assert torch.isfinite(loaded(**tokens, **pixels).logits_per_text).all()
    ours = loaded.text_model(**tokens).last_hidden_state
    theirs = pipe.text_encoder(**tokens).last_hidden_state
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_the_published_text_encoder_has_the_names_of_sd15s_file(words: Path, tmp_path: Path) -> None:
    both = small_clip(len(CLIPTokenizer.from_pretrained(words)))
    denoiser = unet.build_unet([16, 16, 32, 32], 4, 2, 32, size=4)
    assembly.assemble(tmp_path, denoiser, vae.build_vae([8, 8, 16, 16], 2, 32), both, words)
    tensors, _ = read_tensors(tmp_path / "text_encoder" / "model.safetensors")
    assert len(tensors) == 196
    assert all(name.startswith("text_model.") for name in tensors)


@pytest.mark.parametrize(
    ("gamma", "floor", "power"), [(5.0, 0.1, 1.0), (2.0, 0.0, 1.0), (5.0, 1.0, 1.0), (3.0, 0.5, 2.0)]
)
def test_an_error_in_the_picture_weighs_its_signal_to_noise_ratio_and_the_floor_however_often_it_is_drawn(
    gamma: float, floor: float, power: float
) -> None:
    """A model that always believes the picture to be off by d has the loss mean(min(SNR + floor, γ)) · d².

    With a power, only the rarest timesteps count less.
    """
    kept = unet.SCHEDULER.alphas_cumprod
    off, count = 0.3, 1000

    class Answer:
        def __init__(self, sample: torch.Tensor) -> None:
            self.sample = sample

    def model(noisy: torch.Tensor, t: torch.Tensor, hidden: torch.Tensor) -> Answer:
        a = kept[t].view(-1, 1, 1, 1)
        return Answer((noisy - a.sqrt() * (hidden + off)) / (1 - a).sqrt())

    picture = torch.full((count, 1, 1, 1), 0.5)
    batch = unet.Denoising(["x"] * count, picture, picture)
    ratio = kept / (1 - kept)
    density = power * ((torch.arange(count) + 0.5) / count) ** (power - 1)
    counted = (density / unet.RAREST).clamp(max=1)
    expected = float(((ratio + floor).clamp(max=gamma) * counted).mean()) * off**2
    assert float(unet.denoising_loss(model, batch, gamma, floor, power)) == pytest.approx(expected, rel=4e-3)


def test_with_a_power_most_timesteps_are_noisy_ones() -> None:
    latents = torch.zeros(1000, 1, 1, 1)
    shares = [float((unet.add_noise(latents, power)[2] >= 500).float().mean()) for power in (1.0, 2.0)]
    assert shares == pytest.approx([0.5, 0.75], abs=0.002)


def test_a_decoder_that_is_trained_further_leaves_the_latents_as_they_are() -> None:
    settings = pick(FOLDER / "params.yaml", decoder.StageParams).decoder
    torch.manual_seed(0)
    model = vae.build_vae([8, 8, 8, 8], 2, 16).eval().requires_grad_(False)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    before = model.encode(images).latent_dist.mean
    optimizer = torch.optim.AdamW(decoder.decoding_parameters(model).values(), lr=1e-2)
    losses = []
    for _ in range(20):
        value = decoder.decoding_loss(model, images, settings)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(value.item())
    assert losses[-1] < 0.9 * losses[0]
    assert torch.equal(model.encode(images).latent_dist.mean, before)
