from __future__ import annotations

import copy
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPImageProcessorPil, CLIPModel

from etude.base.base import Base
from etude.base.loading import load_base
from etude.base.text import encode_prompts, tokenise
from etude.core.artifact import Artifact
from etude.core.errors import BaseError, FormatError, ParamsError
from etude.core.files import Draft
from etude.diffusion.hooks import added_tokens
from etude.formats import identify
from etude.formats.aesthetic import aesthetic_pt
from etude.training.report import Report
from pipelines.aesthetic_gradient import method as aesthetic
from pipelines.aesthetic_gradient.method.prompt_steering import aim
from tests.pipelines.learning import on_tiny, params_of, pictures
from tests.tiny import WIDTH

METHOD = "aesthetic_gradient"
RATE = 0.01


@pytest.fixture(scope="module")
def base(tiny_base: Path) -> Base:
    """Text encoder and tokenizer in float64, shared by all tests: leave it as it was."""
    return load_base(tiny_base, parts=("text",), dtype=torch.float64)


def build(base: Base, **changes: Any) -> Artifact:
    params: Any = params_of(METHOD, **(on_tiny(METHOD, base.path) | {"learning_rate": RATE} | changes))
    report = Report(Path("unused"), seed=3, device="cpu", precision="fp32")
    return aesthetic.build(base=base, pictures=pictures(), params=params, report=report)


def read(base: Base, text: str, clip_skip: int = 0) -> Tensor:
    with torch.no_grad():
        return encode_prompts(base, [text], clip_skip).hidden


def reference(base: Base, made: Artifact, text: str, steps: int) -> tuple[Tensor, list[float]]:
    """The reading of a copy after Adam's steps, written out, and the cosine before each step."""
    encoder = copy.deepcopy(base.text_encoders[0]).requires_grad_(True)
    projection = made.tensors["projection"].double()
    towards = normalize(made.tensors["embedding"].double(), dim=1)
    ids = tokenise(base, [text]).ids[0]
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in encoder.named_parameters()}
    cosines = []
    for step in range(1, steps + 1):
        feature = encoder(ids).pooler_output @ projection.T
        cosine = (feature / feature.norm() * towards).sum()
        cosines.append(float(cosine.detach()))
        named = [(name, p) for name, p in encoder.named_parameters()]
        gradients = torch.autograd.grad(-cosine, [p for _, p in named], allow_unused=True)
        with torch.no_grad():
            for (name, p), g in zip(named, gradients, strict=True):
                if g is not None:
                    m, v = moments[name]
                    m.mul_(0.9).add_(0.1 * g)
                    v.mul_(0.999).add_(0.001 * g * g)
                    p.sub_(RATE * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8))
    with torch.no_grad():
        return encoder(ids).last_hidden_state, cosines


def test_what_is_learned_is_the_mean_of_the_features_as_clip_gives_them(base: Base) -> None:
    clip = CLIPModel.from_pretrained(base.path / "clip")
    prepare = CLIPImageProcessorPil.from_pretrained(base.path / "clip")
    shown = [Image.fromarray(pixels.numpy()) for pixels in pictures().pixels]
    with torch.no_grad():
        features = clip.get_image_features(**prepare(images=shown, return_tensors="pt")).pooler_output
    made = build(base)
    torch.testing.assert_close(made.tensors["embedding"], features.mean(0, keepdim=True), rtol=0, atol=1e-5)
    assert torch.equal(made.tensors["projection"], clip.text_projection.weight)
    assert made.facts["images"] == 3


@pytest.mark.parametrize("weight", [0.9, 1.0])
def test_the_steps_are_adams_on_the_cosine_and_the_reading_is_mixed_in(base: Base, weight: float) -> None:
    made, text = build(base, text=""), "a photo of a cat"
    there, cosines = reference(base, made, text, 3)
    assert cosines[0] < cosines[1] < cosines[2]
    expected = (1 - weight) * read(base, text) + weight * there
    with aesthetic.apply(made, base, steps=3, weight=weight):
        found = read(base, text)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


def test_texts_of_a_batch_do_not_touch_each_other_and_the_empty_one_stays(base: Base) -> None:
    made = build(base)
    with aesthetic.apply(made, base), torch.no_grad():
        alone = [read(base, text) for text in ("cat", "a red dog")]
        batch = encode_prompts(base, ["cat", "", "a red dog", "cat"]).hidden
    torch.testing.assert_close(batch[[0, 2, 3]], torch.cat([*alone, alone[0]]), rtol=0, atol=1e-9)
    torch.testing.assert_close(batch[1:2], read(base, ""), rtol=0, atol=1e-12)


@pytest.mark.parametrize("settings", [{"steps": 0.0}, {"weight": 0.0}])
def test_without_steps_or_weight_nothing_changes(base: Base, settings: dict[str, float]) -> None:
    with aesthetic.apply(build(base), base, **settings):
        assert torch.equal(read(base, "cat"), read(base, "cat"))
        inside = read(base, "cat")
    assert torch.equal(inside, read(base, "cat"))


def test_skipped_layers_added_words_and_inference_mode_work_inside(base: Base) -> None:
    rows = torch.randn(2, WIDTH, dtype=torch.float64)
    with added_tokens(base, {"sks": rows}):
        untouched = read(base, "a sks", 2)
        with aesthetic.apply(build(base), base):
            skipped = read(base, "a sks", 2)
            with torch.inference_mode():
                same = encode_prompts(base, ["a sks"], 2).hidden
    assert not torch.equal(skipped, untouched)
    torch.testing.assert_close(same.clone(), skipped, rtol=0, atol=1e-12)


def test_an_arc_is_another_mixture_than_a_line(base: Base) -> None:
    made = build(base)
    with aesthetic.apply(made, base, weight=0.5, slerp=1.0):
        arc = read(base, "cat")
    with aesthetic.apply(made, base, weight=0.5):
        line = read(base, "cat")
    here = read(base, "cat")
    assert (arc - line).abs().max() > 1e-6
    assert (arc.norm(dim=-1) >= line.norm(dim=-1) - 1e-6).all()  # an arc keeps the length that a line loses
    assert not torch.equal(arc, here)


def test_the_aim_turns_towards_the_text_or_away_from_it() -> None:
    pictures_, text = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.0, 5.0, 0.0]])
    across = 0.5**0.5
    assert torch.equal(aim(pictures_, None, negative=False, turn=0.7), torch.tensor([[1.0, 0.0, 0.0]]))
    halves = {False: [across, across, 0.0], True: [0.9238795, -0.3826834, 0.0]}
    for negative, expected in halves.items():
        assert aim(pictures_, text, negative=negative, turn=0.0).tolist() == [[1.0, 0.0, 0.0]]
        found = aim(pictures_, text, negative=negative, turn=0.5)
        torch.testing.assert_close(found, torch.tensor([expected]), rtol=0, atol=1e-5)


def test_a_clip_of_another_width_is_refused_by_its_name(base: Base) -> None:
    made = build(base)
    tensors = made.tensors | {"projection": torch.zeros(WIDTH, 48)}
    with (
        pytest.raises(BaseError, match=r"clip: needs a text encoder of width 48.* has 32"),
        aesthetic.apply(Artifact(METHOD, tensors, made.facts), base),
    ):
        pass
    with pytest.raises(BaseError, match="text_encoder: is no CLIP folder .*Next: give the folder of a whole CLIP"):
        build(base, clip=str(base.path / "text_encoder"))


def test_away_from_no_text_is_refused() -> None:
    with pytest.raises(ParamsError, match="`negative: true` needs a `text`, and `text` is empty"):
        params_of(METHOD, negative=True, text="")


@pytest.mark.parametrize(("save", "size"), [(torch.float32, 3072), (torch.float16, 1536)])
def test_its_file_is_a_bare_tensor_that_a1111_opens(save: torch.dtype, size: int, tmp_path: Path) -> None:
    """Names as in A1111's check of pickles, modules/safe.py; the extension reads the tensor itself by torch.load."""
    made = Artifact(METHOD, {"embedding": torch.randn(1, 768).to(save), "projection": torch.zeros(2, 2)}, {"name": "x"})
    (path,) = aesthetic_pt.write(made, Draft(tmp_path))
    assert size < path.stat().st_size < size + 1024
    loaded = torch.load(path, weights_only=True)
    assert torch.equal(loaded, made.tensors["embedding"])
    with zipfile.ZipFile(path) as file:
        assert {name.split("/", 1)[1] for name in file.namelist()} <= {"data/0", "version", "byteorder", "data.pkl"}
    assert identify(path) == "aesthetic_pt"
    tensors, facts = aesthetic_pt.read(path)
    assert torch.equal(tensors["embedding"], loaded)
    assert facts == {"name": "x"}


def test_tensors_of_other_shapes_are_no_aesthetic_embedding(tmp_path: Path) -> None:
    torch.save(torch.zeros(3, 8), tmp_path / "x.pt")
    with pytest.raises(FormatError, match=r"is a tensor of shape \[3, 8\]"):
        aesthetic_pt.read(tmp_path / "x.pt")
    torch.save([1], tmp_path / "y.pt")
    with pytest.raises(FormatError, match="not a dictionary"):
        identify(tmp_path / "y.pt")
