from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor

from etude.base import text
from etude.base.base import Base
from etude.base.latents import decode_pixels
from etude.base.loading import load_base
from etude.base.text import encode_prompts
from etude.core import artifact as artifacts
from etude.core.artifact import Artifact
from etude.core.errors import ParamsError
from etude.core.files import Draft
from etude.diffusion.noise import predict
from etude.diffusion.sample import denoise, guided, make_scheduler
from etude.formats.embedding import diffusers_embedding, embedding_pt, embedding_safetensors
from etude.training.report import Report
from etude.training.words import starting_rows
from pipelines.textual_inversion import method as inversion
from tests.pipelines.learning import image_set, params_of
from tests.tiny import build_tiny

METHOD = "textual_inversion"
CAPTIONS = ("noto otter", "flat otter on a red background", "otter")  # of `image_set`
WORD_ALONE: Any = {"reads": "prepared", "templates": ["[name]"]}


def embedding(base: Base, vectors: int = 3) -> Artifact:
    table = base.text_encoders[0].get_input_embeddings().weight
    rows = torch.randn(vectors, table.shape[1], generator=torch.Generator().manual_seed(2)) * table.std().float()
    facts = {"name": "sks", "family": base.family, "prediction": base.prediction, "step": 6}
    return Artifact(METHOD, {"text_encoder": rows}, facts)


def run(base: Base, scratch: Path, training: dict[str, Any] | None = None, **changes: Any) -> Artifact:
    params: Any = params_of(METHOD, training, **changes)
    report = Report(scratch, seed=3, device="cpu", precision="fp32")
    data = image_set(base)
    asked = {name: data[name] for name in ("images", "captions")}
    return inversion.build(base=base, **asked, params=params, report=report)


def starts(base: Base, words: str, count: int) -> Tensor:
    return starting_rows(base, words, count)[0]


def test_the_start_repeats_one_word_spreads_several_and_is_zero_for_none(tiny_base: Path) -> None:
    base = load_base(tiny_base, parts=("text",))
    table, tokenizer = base.text_encoders[0].get_input_embeddings().weight, base.tokenizers[0]
    cat, dog = tokenizer("cat dog", add_special_tokens=False)["input_ids"]
    assert torch.equal(starts(base, "cat", 3), table[[cat, cat, cat]])
    assert torch.equal(starts(base, "cat dog", 4), table[[cat, cat, dog, dog]])
    assert torch.equal(starts(base, "cat dog", 3), table[[cat, cat, dog]])
    assert torch.equal(starts(base, "cat dog", 1), table[[cat]])
    assert torch.equal(starts(base, "", 2), torch.zeros(2, table.shape[1]))


def test_only_the_new_rows_are_ever_parameters(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    artifact = run(base, tmp_path, vectors=3)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert [tuple(tensor.shape) for tensor in state["parameters"]] == [(3, 32)]
    assert torch.equal(state["parameters"][0], artifact.tensors["text_encoder"])
    assert all(p.grad is None for p in base.text_encoders[0].parameters())
    assert not torch.equal(artifact.tensors["text_encoder"], starts(base, "cat", 3))


def test_captions_are_read_where_a_template_asks_for_them(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    said: list[list[str]] = []
    with pytest.MonkeyPatch.context() as patch:
        real = text.encode_prompts
        patch.setattr(text, "encode_prompts", lambda b, prompts, skip=0: said.append(prompts) or real(b, prompts, skip))
        run(base, tmp_path / "a", {"steps": 2}, name="sks", **WORD_ALONE)
        plain, said[:] = [*said], []
        filled = ["a picture of [name], [filewords]"]
        run(base, tmp_path / "b", {"steps": 2}, name="sks", reads="texts", templates=filled)
    assert {prompt for prompts in plain for prompt in prompts} <= {"sks", ""} | set(CAPTIONS)
    asked = {prompt for prompts in said for prompt in prompts} - {"", *CAPTIONS}
    assert asked <= {f"a picture of sks, {caption}" for caption in CAPTIONS}
    assert len(asked) > 1


def test_without_captions_to_read_none_is_needed(tiny_base: Path, tmp_path: Path) -> None:
    base, report = load_base(tiny_base), Report(tmp_path, seed=3, device="cpu", precision="fp32")
    params: Any = params_of(METHOD, {"steps": 2})
    made = inversion.build(base=base, images=image_set(base)["images"], captions=None, params=params, report=report)
    assert made.tensors["text_encoder"].isfinite().all()


@pytest.mark.parametrize(
    ("reads", "template"), [("prepared", "[name], [filewords]"), ("texts", "[name]"), ("latents", "[name]")]
)
def test_what_is_read_fits_the_templates(reads: str, template: str) -> None:
    with pytest.raises(ParamsError, match="reads"):
        params_of(METHOD, reads=reads, templates=[template])


def test_a_word_grows_by_one_vector_at_a_time(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    grown = run(base, tmp_path, {"steps": 5, "checkpoint_every": 1}, vectors=4, initializer="cat", progressive=2)
    files = sorted((tmp_path / "results" / "checkpoints").iterdir())
    learned = [artifacts.load(file) for file in files]
    assert [made.facts["vectors"] for made in learned] == [1, 1, 2, 2, 3]
    assert [len(made.tensors["text_encoder"]) for made in learned] == [1, 1, 2, 2, 3]
    assert torch.equal(grown.tensors["text_encoder"], learned[-1].tensors["text_encoder"])
    state = torch.load(tmp_path / "state.pt", weights_only=True)["parameters"][0]
    start = starts(base, "cat", 4)
    assert torch.equal(state[3], start[3])  # not yet in use: as it began
    assert not torch.equal(state[2], start[2])


def test_a_word_that_grows_ends_the_same_after_a_break(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    whole = run(base, tmp_path / "a", {"steps": 5}, vectors=3, progressive=2)

    class Stopping(Report):
        def advance(self, done: int) -> None:
            if done == 3:
                raise KeyboardInterrupt

    params: Any = params_of(METHOD, {"steps": 5}, vectors=3, progressive=2)
    data = image_set(base)
    asked: Any = {"base": base, "images": data["images"], "captions": data["captions"], "params": params}
    with pytest.raises(KeyboardInterrupt):
        inversion.build(**asked, report=Stopping(tmp_path / "b", seed=3, device="cpu", precision="fp32"))
    for _ in range(2):  # the second time nothing is left to do
        again = inversion.build(**asked, report=Report(tmp_path / "b", seed=3, device="cpu", precision="fp32"))
        assert again.facts == whole.facts
        assert torch.equal(again.tensors["text_encoder"], whole.tensors["text_encoder"])


def test_an_anchor_adds_the_mean_squared_distance_from_the_start(tiny_base: Path, tmp_path: Path) -> None:
    rows = {"a": torch.randn(3, 4, dtype=torch.float64).requires_grad_(), "b": torch.randn(3, 2).double()}
    begun = tuple(torch.randn_like(row) for row in rows.values())
    strayed = inversion._strayed(rows, begun)
    distances = [((row - start) ** 2).sum() / 3 for row, start in zip(rows.values(), begun, strict=True)]
    assert torch.allclose(strayed, distances[0] + distances[1])
    strayed.backward()
    assert torch.allclose(rows["a"].grad, 2 / 3 * (rows["a"].detach() - begun[0]))  # type: ignore[arg-type]
    base = load_base(tiny_base)
    start = starts(base, "cat", 4)
    far, near = (
        (
            run(base, tmp_path / str(w), {"learning_rate": 0.1}, anchor=w, vectors=4, initializer="cat").tensors[
                "text_encoder"
            ]
            - start
        ).norm()
        for w in (0.0, 100.0)
    )
    assert near < far


def test_lengths_are_pulled_as_pivotal_tuning_pulls_them() -> None:
    params: Any = params_of(METHOD, {"learning_rate": 0.002}, usual_norm=0.4)
    row = torch.randn(5, 8)
    before, norms = row.clone(), row.norm(dim=1, keepdim=True)
    inversion._held({"text_encoder": row}, params)(0)
    assert torch.allclose(row, before / norms * (norms + 0.2 * (0.4 - norms)), atol=1e-6)
    zero = torch.zeros(1, 8)
    inversion._held({"text_encoder": zero}, params)(0)
    assert not zero.any()
    fast: Any = params_of(METHOD, {"learning_rate": 0.5}, usual_norm=0.4)
    inversion._held({"text_encoder": row}, fast)(0)
    assert torch.allclose(row.norm(dim=1), torch.full((5,), 0.4), atol=1e-6)


def test_a_largest_norm_holds_after_every_step(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    free = run(base, tmp_path / "free", {"learning_rate": 1.0}).tensors["text_encoder"].norm(dim=1)
    held = run(base, tmp_path / "held", {"learning_rate": 1.0}, largest_norm=0.5).tensors["text_encoder"].norm(dim=1)
    assert free.min() > 0.5
    assert torch.allclose(held, torch.full_like(held, 0.5), atol=1e-6)


def test_every_template_is_drawn_from(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base)
    one = run(base, tmp_path / "a", **WORD_ALONE)
    two = run(base, tmp_path / "b", reads="prepared", templates=["[name]", "a photo of [name] on a red background"])
    assert not torch.equal(one.tensors["text_encoder"], two.tensors["text_encoder"])


@pytest.mark.parametrize(
    ("change", "said"),
    [({"vectors": 76}, "vectors"), ({"templates": ["a photo"]}, "templates"), ({"templates": []}, "templates")],
)
def test_a_value_that_cannot_be_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ParamsError, match=f"`{said}"):
        params_of(METHOD, **change)


FORMS = {
    "pt": (embedding_pt, "sks.pt", {}),
    "safetensors": (embedding_safetensors, "sks.safetensors", {"token": "sks"}),
    "diffusers": (diffusers_embedding, "learned_embeds.safetensors", {}),
}
PROMPTS = ["a photo of sks on a red background", "noto cat"]


def load_into(pipe: Any, form: str, artifact: Artifact, folder: Path) -> None:
    module, name, extra = FORMS[form]
    module.write(artifact, Draft(folder))
    pipe.load_textual_inversion(folder, weight_name=name, **extra)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("vectors", [1, 4])
def test_diffusers_predicts_the_same_from_our_files(form: str, vectors: int, tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base, parts=("unet", "text"))
    artifact = embedding(base, vectors)
    pipe = StableDiffusionPipeline.from_pretrained(tiny_base, local_files_only=True)
    load_into(pipe, form, artifact, tmp_path)
    noisy, t = torch.randn(2, 4, 8, 8), torch.tensor([900, 20])
    with torch.no_grad():
        with inversion.apply(artifact, base):
            said = encode_prompts(base, PROMPTS)
        ours = predict(base, noisy, t, said)
        theirs_text = pipe.encode_prompt(PROMPTS, "cpu", 1, do_classifier_free_guidance=False)[0]
        theirs = pipe.unet(noisy, t, encoder_hidden_states=theirs_text).sample
        without = encode_prompts(base, PROMPTS)
    assert (said.hidden - theirs_text).abs().max() < 1e-5
    assert (ours - theirs).abs().max() < 1e-5
    moved = (said.hidden - without.hidden).abs().amax(dim=(1, 2))
    assert moved[0] > 0.1
    assert moved[1] == 0


def test_diffusers_draws_the_same_picture_from_our_file(tiny_base: Path, tmp_path: Path) -> None:
    base = load_base(tiny_base, dtype=torch.float64)
    artifact, noise = embedding(base), torch.randn(1, 4, 8, 8, dtype=torch.float64)
    with inversion.apply(artifact, base), torch.no_grad():
        positive, negative = encode_prompts(base, PROMPTS[:1]), encode_prompts(base, [""])
    scheduler = make_scheduler(base, "ddim", 4)
    ours = decode_pixels(base, denoise(lambda z, t, _: guided(base, z, t, positive, negative, 3.0), scheduler, noise))
    pipe = StableDiffusionPipeline.from_pretrained(tiny_base, local_files_only=True).to(torch.float64)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = DDIMScheduler.from_config(scheduler.config)
    load_into(pipe, "diffusers", artifact, tmp_path)
    asked = {"guidance_scale": 3.0, "num_inference_steps": 4, "height": 64, "width": 64, "output_type": "pt"}
    theirs = pipe(PROMPTS[0], latents=noise, **asked).images
    assert theirs.dtype == torch.float64
    assert (ours.detach() - theirs).abs().max() < 1e-6


def test_sdxl_learns_rows_for_both_of_its_encoders(tmp_path: Path) -> None:
    base = load_base(build_tiny(tmp_path / "tiny", "sdxl"), parts=("unet", "text"))
    artifact = run(base, tmp_path / "scratch", {"steps": 2, "checkpoint_every": 2}, vectors=2)
    assert {part: tuple(rows.shape) for part, rows in artifact.tensors.items()} == {
        "text_encoder": (2, 32),
        "text_encoder_2": (2, 48),
    }
    with inversion.apply(artifact, base), torch.no_grad():
        changed = encode_prompts(base, ["a photo of otter"])
    untouched = encode_prompts(base, ["a photo of otter"])
    moved = (changed.hidden - untouched.hidden).abs().amax(dim=(0, 1))
    assert moved[:32].max() > 1e-3
    assert moved[32:].max() > 1e-3


@pytest.mark.parametrize(("width", "vectors"), [(768, 1), (1024, 8)])
def test_files_of_the_true_widths_hold_a_row_of_float32_for_each_vector(
    width: int, vectors: int, tmp_path: Path
) -> None:
    with torch.device("meta"):
        encoder = SimpleNamespace(get_input_embeddings=lambda: torch.nn.Embedding(49408, width))
    base: Any = SimpleNamespace(tokenizers=(lambda *_, **__: {"input_ids": [320]},), text_encoders=(encoder,))
    rows = torch.zeros(starts(base, "cat", vectors).shape)
    assert rows.numel() == vectors * width
    facts = {"name": "sks", "family": "sd1", "step": 1}
    for module, _, _ in FORMS.values():
        (path,) = module.write(Artifact(METHOD, {"text_encoder": rows}, facts), Draft(tmp_path))
        assert 4 * rows.numel() < path.stat().st_size < 4 * rows.numel() + 4096
