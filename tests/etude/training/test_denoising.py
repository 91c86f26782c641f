from __future__ import annotations

from pathlib import Path

import pytest
import torch

from etude.base.base import Base
from etude.base.loading import load_base
from etude.base.text import encode_prompts
from etude.training.denoising import denoising_losses
from etude.training.plan import Optimization
from tests.etude.training.test_plan import BLOCK
from tests.tiny import build_tiny


@pytest.fixture(scope="module", params=["sd1", "sd2"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    """ε- and v-prediction, in float64."""
    folder = build_tiny(tmp_path_factory.mktemp("tiny"), request.param)
    return load_base(folder, dtype=torch.float64, parts=("unet", "text"))


def losses(base: Base, weights: torch.Tensor | None = None, **changes: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(3, 4, 8, 8, generator=generator, dtype=torch.float64)
    torch.manual_seed(1)
    plan = Optimization(**{**BLOCK, **changes})
    text = encode_prompts(base, ["a cat"] * 3)
    return denoising_losses(base, mean, torch.full_like(mean, -3.0), text, plan, weights)


def expected(
    base: Base, *, offset: float = 0.0, weights: torch.Tensor | float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss written out by hand from the paper's symbols, and the signal-to-noise ratios."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(3, 4, 8, 8, generator=generator, dtype=torch.float64)
    torch.manual_seed(1)
    z = (mean + torch.exp(torch.tensor(-1.5, dtype=torch.float64)) * torch.randn_like(mean)) * base.scaling_factor
    ε = torch.randn_like(z)
    if offset:
        ε = ε + offset * torch.randn(3, 4, 1, 1, dtype=torch.float64)
    t = torch.randint(1000, (3,))
    β = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    ᾱ = torch.cumprod(1 - β, 0)[t].reshape(-1, 1, 1, 1)
    text = encode_prompts(base, ["a cat"] * 3)
    answer = base.unet(ᾱ.sqrt() * z + (1 - ᾱ).sqrt() * ε, t, encoder_hidden_states=text.hidden).sample
    goal = ε if base.prediction == "epsilon" else ᾱ.sqrt() * ε - (1 - ᾱ).sqrt() * z
    return (weights * (answer - goal).square()).mean(dim=(1, 2, 3)), (ᾱ / (1 - ᾱ)).flatten()


@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_the_loss_is_that_of_the_papers(base: Base, offset: float) -> None:
    assert torch.allclose(losses(base, noise_offset=offset), expected(base, offset=offset)[0], rtol=1e-5)


def test_a_cell_counts_by_its_weight_in_a_mean_over_all_cells(base: Base) -> None:
    weights = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    assert torch.allclose(losses(base, weights), expected(base, weights=weights)[0], rtol=1e-5)


def test_min_snr_weighs_as_its_paper_says(base: Base) -> None:
    plain, ratio = expected(base)
    below = ratio if base.prediction == "epsilon" else ratio + 1
    assert torch.allclose(losses(base, min_snr=5.0), plain * ratio.clamp(max=5) / below, rtol=1e-4)


def test_no_tensor_is_read_back_by_the_host(tiny_base: Path) -> None:
    """What would make a GPU wait: reading one number of a tensor."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        read: tuple[str, ...] = ()

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func.__name__.startswith(("_local_scalar_dense", "nonzero", "is_nonzero")):
                self.read += (func.__name__,)
            return func(*args, **(kwargs or {}))

    base = load_base(tiny_base, parts=("unet", "text"))
    text = encode_prompts(base, ["a cat"] * 2)
    mean = torch.zeros(2, 4, 8, 8)
    with Watch() as watch:
        denoising_losses(base, mean, mean, text, Optimization(**{**BLOCK, "min_snr": 5.0}))
        assert watch.read == ()
        assert mean.sum().item() == 0
    assert watch.read == ("_local_scalar_dense.default",)
