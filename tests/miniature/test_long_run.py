"""The denoiser's long run: it goes on with the same result, keeps two states, ends in time, and can be carried."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch.nn.functional import mse_loss

from etude.core.errors import InputError, TrainingError
from etude.core.files import write_json
from etude.core.params import pick, read_yaml
from etude.core.tensors import write_tensors
from etude.training.fit import fit
from etude.training.report import CONSOLE
from miniature import long_run, long_run_inputs, long_run_out, unet
from miniature.kept import draw_pictures
from miniature.long_run_state import Rolling, TimeUpError, averaged, read_pieces, states, write_pieces
from miniature.unet import Denoising
from miniature.vae import psnr, read_vae
from miniature.world import FOLDER, colour_table, compose, read_world

PLAN = pick(FOLDER / "params.yaml", long_run.StageParams).long_run.plan("cpu")
SHORT = PLAN.model_copy(update={"steps": 8, "batch_size": 2, "resume_every": 2, "log_every": 2, "warmup_steps": 3})


def small_unet() -> torch.nn.Module:
    torch.manual_seed(0)
    return unet.build_unet([8, 8, 8, 8], 2, 2, 8, size=8)


def train(
    folder: Path, stop: int | None = None, until: float | None = None, model: torch.nn.Module | None = None
) -> list[torch.Tensor]:
    """The weights after 8 steps; killed in step ``stop``. What is learned does not matter to how it is kept."""
    torch.manual_seed(0)
    model = model or torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.SiLU(), torch.nn.Linear(8, 1))
    first = next(model.parameters())

    def batches(step: int) -> Denoising:
        if step == stop:
            raise KeyboardInterrupt
        return Denoising([str(step)], torch.randn(2, 4), torch.randn(2, 1))

    def loss(batch: Denoising) -> torch.Tensor:
        if isinstance(model, torch.nn.Sequential):
            return mse_loss(model(batch.latents), batch.hidden)
        return first.square().sum() * batch.hidden.mean()

    fit(dict(model.named_parameters()), loss, batches, SHORT, Rolling(folder, 0, "cpu", "fp32", until=until))
    return [parameter.detach() for parameter in model.parameters()]


def equal(ones: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ones, others, strict=True))


def test_a_killed_run_goes_on_with_the_same_bits_even_where_its_newest_state_is_damaged(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", stop=7)
    newest = states(tmp_path / "killed")[-1]
    assert newest.name == "state-0000006.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    with CONSOLE.capture() as told:
        resumed = train(tmp_path / "killed")
    assert "resumed at step 4 of 8" in told.get()
    assert equal(whole, resumed)


def test_the_two_newest_states_are_kept_and_one_that_is_not_whole_is_no_state(tmp_path: Path) -> None:
    train(tmp_path)
    (tmp_path / ".state-0000009-x.pt").write_bytes(b"half")
    assert [file.name for file in states(tmp_path)] == ["state-0000006.pt", "state-0000008.pt"]


def test_a_run_does_not_begin_anew_over_states_that_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "state-0000002.pt").write_bytes(b"damaged")
    with pytest.raises(TrainingError, match="none of the saved states in it can be read"):
        train(tmp_path)


def test_a_run_ends_when_its_time_is_up_with_its_state_kept_and_goes_on_from_there(tmp_path: Path) -> None:
    with pytest.raises(TimeUpError):
        train(tmp_path / "timed", until=time.monotonic())
    assert [file.name for file in states(tmp_path / "timed")] == ["state-0000002.pt"]
    assert equal(train(tmp_path / "timed"), train(tmp_path / "whole"))


def test_weights_come_back_from_their_pieces_and_a_missing_piece_is_named(tmp_path: Path) -> None:
    weights = {f"layer {number}": torch.randn(3 * 2**20) for number in range(7)}
    write_pieces(tmp_path, weights)
    files = sorted((tmp_path / "pieces").iterdir())
    assert len(files) == 4
    assert all(file.stat().st_size < 16 * 2**20 for file in files)
    found = read_pieces(tmp_path)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name].half()) for name in weights)
    files[1].unlink()
    with pytest.raises(InputError, match=r"holds 3 pieces, but \d.safetensors is one of 4"):
        read_pieces(tmp_path)
    for file in (tmp_path / "pieces").iterdir():  # of no run: without the number of pieces
        write_tensors(file, {"weight": torch.ones(1)}, {})
    with pytest.raises(InputError, match=r"holds 3 pieces, but \d.safetensors is one of 1"):
        read_pieces(tmp_path)


def test_what_a_run_has_learned_becomes_the_out_of_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_unet()
    model.save_config(tmp_path / "published")
    monkeypatch.setattr(long_run_out, "PUBLISHED", tmp_path / "published" / "weights")
    monkeypatch.setattr(long_run_out, "OUT", tmp_path / "out")
    with pytest.raises(InputError, match="holds no state"):
        long_run_out.write(tmp_path / "states")
    average = train(tmp_path / "states", model=model)  # it ends with the average
    long_run_out.write(tmp_path / "states")
    assert equal(list(unet.read_unet(tmp_path / "out" / "unet").parameters()), average)


def test_the_loss_that_is_told_is_of_the_whole_run(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, stop=5)
    train(tmp_path)
    assert averaged(tmp_path, ["0.weight", "0.bias", "2.weight", "2.bias"]).steps == 8
    history = Rolling(tmp_path, 0, "cpu", "fp32")
    history.restore()
    assert [step for step, _, _ in history.history] == [2, 4, 6, 8]


def test_a_gpu_trains_the_same_with_the_numbers_given_for_it() -> None:
    block = pick(FOLDER / "params.yaml", long_run.StageParams).long_run
    differing = {key for key, value in block.plan("cuda").model_dump().items() if value != PLAN.model_dump()[key]}
    assert differing == set(block.gpu)


@pytest.fixture(scope="module")
def bare(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the repository holds, a world of one concept, and the inputs of a long run made from them."""
    folder = tmp_path_factory.mktemp("bare")
    for path in ("models/miniature", f"{FOLDER}/icons"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).symlink_to(root / path)
    world, params = (read_yaml(root / FOLDER / name) for name in ("world.yaml", "params.yaml"))
    params["run"] |= {"processes": 1, "precision": "fp32"}  # the precision of the other tests of this process
    params["long_run"]["compile"] = False  # minutes
    params["long_run"]["training"] |= {"batch_size": 2, "resume_every": 1, "log_every": 1}
    write_json(folder / FOLDER / "params.yaml", params)  # JSON is YAML
    write_json(folder / FOLDER / "world.yaml", {**world, "concepts": {"cat": world["concepts"]["cat"]}})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        long_run_inputs.prepare("cpu")
    return folder


def test_its_inputs_come_out_of_what_the_repository_holds_alone(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bare)
    encoded = unet.read_encoded()
    assert encoded.mean.shape == (6, 12, 4, 16, 16)
    assert set(encoded.concept) == {"cat"}
    assert encoded.hidden.shape == (1 + 7 * 13, 77, 128)
    drawn = decode_first(encoded, bare)
    true = draw_pictures(read_world(), pick(FOLDER / "params.yaml", long_run_inputs.StageParams).render)
    row = list(zip(true.style, true.concept, strict=True)).index((encoded.style[0], encoded.concept[0]))
    assert psnr(drawn, compose(true.rgba[row : row + 1], colour_table(read_world())[:1])) > 22


def test_the_command_trains_for_its_minutes_leaves_pieces_and_goes_on(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bare)
    published = read_pieces(tmp_path)
    for done in ("state-0000001.pt", "state-0000002.pt"):
        long_run.train(tmp_path, minutes=1e-9)
        assert states(tmp_path)[-1].name == done
    learned = read_pieces(tmp_path)
    assert learned.keys() == published.keys()
    moved = sum(float((learned[name] - published[name]).abs().max()) > 0 for name in learned)
    assert moved > len(learned) / 2
    assert all(float((learned[name] - published[name]).abs().max()) < 0.01 for name in learned)


def decode_first(encoded: unet.Encoded, folder: Path) -> torch.Tensor:
    """The first picture on the first colour, through the autoencoder that was copied."""
    vae = read_vae(folder / FOLDER / "out/vae")
    with torch.no_grad():
        return vae.decode(encoded.mean[:1, 0].float()).sample
