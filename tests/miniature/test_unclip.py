"""The miniature's unCLIP: what it tells its UNet is what diffusers' pipeline tells, and it begins as the miniature."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, StableUnCLIPImg2ImgPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from torch import Tensor
from transformers import CLIPModel

from etude.base.family import recognise
from etude.base.loading import load_base
from etude.base.vision import embed_pictures
from etude.core.files import sha256_file, write_json
from etude.core.params import pick
from etude.core.tensors import read_tensors, write_tensors
from miniature import assembly, earlier, embeddings, publish, unclip, unclip_card, unclip_folder, unet, vae
from miniature.world import FOLDER, read_world
from tests.miniature.test_model import small_clip
from tests.tiny import vocabulary_and_merges, write_tokenizer

WIDTH = 8
ROOM = 64  # what the small UNet's embedding of the timestep holds: 4 × 16


@pytest.fixture
def settings() -> unclip.Unclip:
    return pick(FOLDER / "params.yaml", unclip.StageParams).unclip


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UNet2DConditionModel:
    """A small trained denoiser in the place of out/unet."""
    torch.manual_seed(0)
    model = unet.build_unet([16, 16, 32, 32], 4, 2, 16, size=4)
    unet.save_unet(model, tmp_path)
    monkeypatch.setattr(unclip, "START", tmp_path)
    monkeypatch.setattr(unclip, "WEIGHTS", tmp_path / "diffusion_pytorch_model.safetensors")
    monkeypatch.setattr(earlier, "OUT", tmp_path)
    return model.eval()


def batch(count: int = 2) -> unclip.Told:
    latents, hidden, seen = torch.randn(count, 4, 4, 4), torch.randn(count, 77, 16), torch.randn(count, WIDTH)
    return unclip.Told(["x"] * count, latents, hidden, seen, torch.ones(count, 1), torch.randn(count, 77, 16))


def make_teacher(settings: unclip.Unclip) -> unclip.Teacher:
    """The small denoiser itself."""
    told = batch()
    return unclip.Teacher(unet.read_unet(unclip.START), told, torch.zeros(1, 77, 16), settings)


def loss(model: UNet2DConditionModel, told: unclip.Told, settings: unclip.Unclip) -> Tensor:
    return unclip.told_loss(model, unclip.listen(model), norm(), told, settings, make_teacher(settings))


def norm() -> embeddings.Normaliser:
    return embeddings.normaliser(torch.randn(5, 3, WIDTH, generator=torch.Generator().manual_seed(1)) * 3 + 1)


@pytest.mark.parametrize("level", [0, 40, 999])
def test_labels_are_those_of_diffusers_pipeline(level: int) -> None:
    seen, noise, own = torch.randn(3, WIDTH), torch.randn(3, WIDTH), norm()
    pipeline = StableUnCLIPImg2ImgPipeline.__new__(StableUnCLIPImg2ImgPipeline)
    theirs = StableUnCLIPImageNormalizer(WIDTH)
    theirs.mean.data, theirs.std.data = own.mean, own.std
    object.__setattr__(pipeline, "image_normalizer", theirs)
    object.__setattr__(pipeline, "image_noising_scheduler", DDPMScheduler(**embeddings.NOISING))
    with torch.no_grad():
        expected = pipeline.noise_image_embeddings(seen, noise_level=level, noise=noise)
    made = own.labels(seen, noise, torch.full((3,), level))
    assert made.shape == (3, 2 * WIDTH)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("room", [ROOM, 3 * ROOM])
def test_training_begins_with_the_miniature_as_it_is(start: UNet2DConditionModel, room: int) -> None:
    model, noisy, hidden = unclip.build_unclip(WIDTH, room).eval(), torch.randn(2, 4, 4, 4), torch.randn(2, 77, 16)
    with torch.no_grad():
        before = start(noisy, 500, hidden).sample
        after = model(noisy, 500, hidden, class_labels=torch.randn(2, 2 * WIDTH)).sample
    torch.testing.assert_close(before, after, rtol=0, atol=1e-5)


def publish_earlier(folder: Path) -> tuple[dict[str, Tensor], UNet2DConditionModel]:
    """Another UNet as the earlier edition's, and its unCLIP one."""
    torch.manual_seed(1)
    before, after = unet.build_unet([16, 16, 32, 32], 4, 2, 16, size=4).state_dict(), unclip.build_unclip(WIDTH, ROOM)
    with torch.no_grad():
        for value in after.parameters():
            value.copy_((0.1 * torch.randn_like(value)).half())
    for part, weights in {"unet": before, "unclip": after.state_dict()}.items():
        write_tensors(folder / "earlier" / part / "diffusion_pytorch_model.safetensors", weights, {"format": "pt"})
    return before, after


def test_training_goes_on_from_what_an_earlier_edition_learned_beyond_its_own_unet(
    start: UNet2DConditionModel, tmp_path: Path
) -> None:
    before, after = publish_earlier(tmp_path)
    began, learned = start.state_dict(), after.state_dict()
    for name, value in unclip.build_unclip(WIDTH, ROOM).state_dict().items():
        gained = learned[name] - before[name] + began[name] if name in began else learned[name]
        torch.testing.assert_close(value, gained, rtol=0, atol=1e-6)


def test_more_room_changes_nothing_of_what_an_earlier_edition_draws(
    start: UNet2DConditionModel, tmp_path: Path
) -> None:
    publish_earlier(tmp_path)
    given = {
        "timestep": 500,
        "encoder_hidden_states": torch.randn(2, 77, 16),
        "class_labels": torch.randn(2, 2 * WIDTH),
    }
    noisy = torch.randn(2, 4, 4, 4)
    with torch.no_grad():
        narrow, wide = (unclip.build_unclip(WIDTH, room).eval()(noisy, **given).sample for room in (ROOM, 3 * ROOM))
    torch.testing.assert_close(narrow, wide, rtol=0, atol=1e-5)


def test_the_entrance_and_all_other_layers_learn(start: UNet2DConditionModel, settings: unclip.Unclip) -> None:
    model = unclip.build_unclip(WIDTH, 3 * ROOM)
    loss(model, batch(), settings).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    assert model.class_embedding.linear_2.weight.grad.abs().max() > 0
    fast, slow = unclip.groups(model, 7.0)
    assert fast.rate == 7.0
    assert len(fast.parameters) + len(slow.parameters) == len(list(model.parameters()))
    assert all("class_embedding" in name or "time_emb_proj" in name for name in fast.parameters)


def test_one_that_is_told_in_the_teachers_words_and_answers_as_it_does_has_nothing_to_learn(
    start: UNet2DConditionModel, settings: unclip.Unclip
) -> None:
    told = batch()
    same = unclip.Told(**{**vars(told), "words": told.hidden})
    only_imitating = settings.model_copy(update={"imitated": 1.0})
    model = unclip.build_unclip(WIDTH, ROOM)
    assert loss(model, same, only_imitating).detach() < 1e-8
    assert loss(model, told, only_imitating).detach() > 0.1


def test_the_aim_lies_between_the_true_noise_and_the_teachers_answer(
    start: UNet2DConditionModel, settings: unclip.Unclip
) -> None:
    told, parts = batch(), {}
    for imitated in (0.0, 0.5, 1.0):
        torch.manual_seed(3)
        teacher, model = make_teacher(settings), unclip.build_unclip(WIDTH, ROOM)
        torch.manual_seed(4)
        stage_params = settings.model_copy(update={"imitated": imitated, "layers": 0.0})
        with torch.no_grad():
            parts[imitated] = (
                unclip.told_loss(model, unclip.listen(model), norm(), told, stage_params, teacher) * teacher.change
            )
    alike = unet.read_unet(unclip.START)
    torch.manual_seed(4)
    alone = unet.denoising_loss(alike, told, settings.training.min_snr, settings.snr_floor)
    torch.testing.assert_close(parts[0.0], alone, rtol=1e-4, atol=1e-6)
    assert parts[1.0] < parts[0.5] < parts[0.0]


def test_the_embedding_is_of_another_background_only_where_the_caption_names_the_right_one() -> None:
    world, stage_params = read_world(), pick(FOLDER / "params.yaml", unclip.StageParams)
    colours, styles, concepts = list(world.colours), ["noto", "flat"], ["cat", "dog"]
    keys = ["||"] + [
        f"{style}|{concept}|{colour}" for style in ("", *styles) for concept in concepts for colour in ("", *colours)
    ]
    count, hidden = len(colours), torch.arange(len(keys), dtype=torch.float32).view(-1, 1, 1)
    seen = torch.arange(2 * count, dtype=torch.float32).view(2, count, 1)
    encoded = unet.Encoded(seen.view(2, count, 1, 1, 1), hidden, styles, concepts, {k: i for i, k in enumerate(keys)})
    draws = [unclip.randomiser(0, "test", i) for i in range(20)]
    told = joined([unclip.draw_batch(encoded, seen, world, stage_params, 1.0, draw, "cpu") for draw in draws])
    said, full = ([keys[int(i)] for i in states.flatten()] for states in (told.hidden, told.words))
    elsewhere = told.embeddings.flatten() != told.latents.flatten()
    assert elsewhere.any()
    for name, caption, words, other, kept in zip(told.names, said, full, elsewhere, told.kept.flatten(), strict=True):
        assert not other or caption.endswith(name.split()[-1])
        assert words == ("|".join(name.split()) if kept else caption)
    assert {"||"} < set(said)


def joined(batches: list[unclip.Told]) -> unclip.Told:
    names = [name for part in batches for name in part.names]
    fields = ("latents", "hidden", "embeddings", "kept", "words")
    return unclip.Told(names, *(torch.cat([getattr(part, field) for part in batches]) for field in fields))


def test_a_dropped_embedding_is_all_zeros(start: UNet2DConditionModel, settings: unclip.Unclip) -> None:
    model = unclip.build_unclip(WIDTH, ROOM)
    labels: list[Tensor] = []
    model.register_forward_pre_hook(lambda _m, _a, given: labels.append(given["class_labels"]), with_kwargs=True)
    dropped = unclip.Told(**{**vars(batch()), "kept": torch.tensor([[0.0], [1.0]])})
    loss(model, dropped, settings)
    assert labels[0][0].abs().max() == 0
    assert labels[0][1].abs().max() > 0


@pytest.fixture
def published(start: UNet2DConditionModel, settings: unclip.Unclip, tmp_path: Path) -> Path:
    """Both models side by side, and the UNet that the second should hold in ``expected.safetensors``."""
    tokenizer, clip = tmp_path / "tokenizer", small_clip(len(write_vocabulary(tmp_path / "tokenizer")))
    hidden = clip.config.text_config.hidden_size
    base = unet.build_unet([16, 16, 32, 32], 4, 2, hidden, size=4)
    unet.save_unet(base, tmp_path)
    out, model = tmp_path / "out", tmp_path / "miniature"
    told = unclip.build_unclip(clip.config.projection_dim, 2 * ROOM)
    with torch.no_grad():
        for value in told.parameters():
            value.add_(0.1 * torch.randn_like(value))
    own = embeddings.normaliser(torch.randn(9, clip.config.projection_dim))
    assembly.assemble(model, base, vae.build_vae([8, 8, 16, 16], 2, 32), clip, tokenizer)
    out.mkdir()
    unet.save_unet(told, out)
    write_tensors(out / "normaliser.safetensors", {"mean": own.mean, "std": own.std})
    write_json(out / "origin.json", {"unet": sha256_file(tmp_path / "diffusion_pytorch_model.safetensors")})
    unclip_folder.assemble_unclip(tmp_path / "miniature-unclip", model, out, clip, assembly.vision_config(clip))
    write_tensors(tmp_path / "expected.safetensors", told.state_dict())
    return tmp_path


def write_vocabulary(folder: Path) -> dict[str, int]:
    write_tokenizer(folder)
    return vocabulary_and_merges()[0]


# diffusers 0.42 hands torch tensors to np.array, which NumPy 2 deprecates
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_what_is_published_diffusers_and_load_base_read_alike(published: Path) -> None:
    folder, (expected, _) = published / "miniature-unclip", read_tensors(published / "expected.safetensors")
    pipe = StableUnCLIPImg2ImgPipeline.from_pretrained(folder, local_files_only=True)
    base = load_base(folder)
    assert recognise(folder) == "sd1"
    assert base.unclip is not None
    for found in (pipe.unet.state_dict(), base.unet.state_dict()):
        assert set(found) == set(expected)
        assert all((found[name] - value).abs().max() < 2e-3 for name, value in expected.items())
    card = pick(FOLDER / "params.yaml", unclip_card.StageParams).card.model_copy(update={"steps": 1})
    assert [made.size for made in unclip_card.draw(folder, torch.rand(1, 3, 128, 128), card)] == [(32, 32)]
    assert (folder / "vae/config.json").resolve() == (published / "miniature/vae/config.json").resolve()


def test_training_sees_pictures_as_the_published_eye_does(published: Path) -> None:
    folder = published / "miniature-unclip"
    coarse = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images = torch.nn.functional.interpolate(coarse, size=128, mode="bilinear")
    pixels = ((images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    theirs = embed_pictures(folder / "image_encoder", folder / "feature_extractor", list(pixels))
    clip = CLIPModel.from_pretrained(published / "miniature" / "clip", dtype=torch.float32).eval()
    ours = embeddings.see(clip, pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)
    assert ((ours - theirs).norm(dim=1) / theirs.norm(dim=1)).max() < 0.02


def test_an_unclip_of_another_unet_is_known(published: Path) -> None:
    assert unclip_folder.is_of(published / "out", published)
    write_tensors(published / "diffusion_pytorch_model.safetensors", {"other": torch.zeros(1)})
    assert not unclip_folder.is_of(published / "out", published)


@pytest.mark.parametrize("relinked", [False, True], ids=["links as before", "links to other weights"])
def test_an_unclip_of_another_unet_stays_while_what_it_links_to_is_as_before(
    published: Path, monkeypatch: pytest.MonkeyPatch, relinked: bool
) -> None:
    monkeypatch.setattr(publish, "OUT", published)
    monkeypatch.setattr(publish, "MODEL", published / "miniature")
    monkeypatch.setattr(publish, "UNCLIP", published / "miniature-unclip")
    linked = unclip_folder.shared(published / "miniature")
    assert len(linked) == len(unclip_folder.SHARED)
    if relinked:
        write_tensors(published / "miniature" / "text_encoder" / "model.safetensors", {"other": torch.zeros(1)})
    publish.publish_unclip(read_world(), linked)
    assert (published / "miniature-unclip").is_dir() is not relinked


def test_what_lies_in_git_is_small_enough_and_whole(root: Path) -> None:
    models = [root / "models" / name for name in ("miniature", "miniature-unclip")]
    files = [f for model in models for f in model.rglob("*.safetensors") if not f.is_symlink()]
    assert sum(file.stat().st_size for file in files) <= 64e6
    assert max(file.stat().st_size for file in files) <= 30e6
    assert not [link for link in models[1].rglob("*") if link.is_symlink() and not link.exists()]
    if models[1].exists():
        assert recognise(models[1]) == "sd1"
