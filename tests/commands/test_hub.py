"""Files of a hub's repository, from the stand-in on 127.0.0.1."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import hub
from etude.core.errors import BaseError
from tests.hub import Hub, reach

COMMIT = "0123456789" * 4
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def served(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one base, and an empty folder to work in."""
    folder = shutil.copytree(tiny_base, tmp_path / "served")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "model.safetensors").write_bytes(bytes(5000))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with Hub({"some/base": folder}) as server:
        reach(monkeypatch, server)
        yield server


def test_what_is_listed_is_fetched_byte_for_byte_and_nothing_else(served: Hub) -> None:
    snapshot = hub.look("some/base", COMMIT)
    source = served.repositories["some/base"]
    assert snapshot.size == sum((source / file.name).stat().st_size for file in snapshot.files)
    folder = hub.download(snapshot)
    fetched = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert fetched == {file.name for file in snapshot.files}
    assert not any(name.startswith("safety_checker") for name in fetched)
    assert all((folder / name).read_bytes() == (source / name).read_bytes() for name in fetched)


def test_a_download_goes_on_within_a_file_and_tells_how_much_is_here(
    served: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot = hub.look("some/base", COMMIT)
    whole = (served.repositories["some/base"] / WEIGHTS).read_bytes()
    part = hub.part_of(snapshot.folder / WEIGHTS)
    part.parent.mkdir(parents=True)
    part.write_bytes(whole[:1_000_000])
    hub.tell({Path("models/mine"): snapshot})
    assert "1.0 MB of it here already" in capsys.readouterr().out
    assert (hub.download(snapshot) / WEIGHTS).read_bytes() == whole
    assert (WEIGHTS, 1_000_000, len(whole) - 1_000_000) in served.asked
    served.asked.clear()
    hub.download(snapshot)
    assert served.asked == []


def test_what_arrives_damaged_is_deleted_and_the_next_try_fetches_that_file_alone(served: Hub) -> None:
    snapshot = hub.look("some/base", COMMIT)
    part = hub.part_of(snapshot.folder / WEIGHTS)
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(1000))
    with pytest.raises(
        BaseError, match=r"checksum of the downloaded \S*diffusion_pytorch_model\.safetensors is not that of the hub"
    ):
        hub.download(snapshot)
    assert not part.exists()
    served.asked.clear()
    hub.download(snapshot)
    assert WEIGHTS in {name for name, _, _ in served.asked}
    assert "unet/config.json" not in {name for name, _, _ in served.asked}


def test_what_the_hub_does_not_have_is_told_in_one_line(served: Hub) -> None:
    with pytest.raises(BaseError, match=r"other/base@01234567: cannot be fetched \(.*\)\. Next: check"):
        hub.look("other/base", COMMIT)
    with pytest.raises(BaseError, match=r"some/base@01234567: has no gone\.safetensors"):
        hub.look("some/base/gone.safetensors", COMMIT)


@pytest.mark.parametrize(
    ("count", "told"), [(12, "12 bytes"), (4_300, "4.3 kB"), (56_000_000, "56 MB"), (4_270_000_000, "4.3 GB")]
)
def test_sizes_are_told_as_people_say_them(count: int, told: str) -> None:
    assert hub.told_size(count) == told
