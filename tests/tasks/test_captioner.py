from pathlib import Path

import pytest

from etude.captions.settings import MODELS
from etude.core.errors import ParamsError
from etude.core.files import read_json, sha256_tree
from tasks.captioner import captioner
from tests.tasks.front import make_project


@pytest.fixture(autouse=True)
def project(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_project(tmp_path, tiny_base))


def test_the_digest_of_a_captioners_model_is_that_of_its_folder(
    tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captioner("clip")
    clip = tiny_base / "clip"
    assert read_json(MODELS / "clip.json") == {"path": str(clip), "sha256": sha256_tree(clip)}
    assert capsys.readouterr().out == f"clip is {clip} ({sha256_tree(clip)[:10]})\n"


def test_a_digest_of_a_captioner_that_was_removed_is_deleted_and_what_else_is_there_stays() -> None:
    MODELS.mkdir(parents=True)
    for name in ("former.json", "README.md"):
        (MODELS / name).write_text("{}", encoding="utf-8")
    captioner("clip")
    assert sorted(path.name for path in MODELS.iterdir()) == ["README.md", "clip.json"]


def test_a_captioner_that_is_not_chosen_has_no_digest() -> None:
    with pytest.raises(ParamsError, match="`caption.captioners` has no `clap`, did you mean `clip`"):
        captioner("clap")
