from __future__ import annotations

import base64
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from etude.core.errors import EtudeError
from etude.core.files import read_json, sha256_tree, write_json
from tasks.page import page
from tests.finished import copy
from tests.markup import Tags

ROOT = Path(__file__).parent.parent.parent


def finish(folder: Path) -> None:
    """What the build and export stages leave besides the artifact."""
    for place in ("pipelines/lora/README.md", "pipelines/lora/method/__init__.py"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / place, folder / place)
    curve = folder / "artifacts/lora/training/plots/metrics/loss.tsv"
    curve.parent.mkdir(parents=True)
    curve.write_text("step\tloss\n5\t0.5\n10\t0.25\n")
    (folder / "artifacts/lora/export").mkdir()
    (folder / "artifacts/lora/export/sks.safetensors").write_bytes(bytes(1234))
    written = {"path": "sks.safetensors", "format": "kohya_lora", "checkpoint": "000010"}
    best = read_json(folder / "artifacts/lora/best.json")["checkpoint"]
    told = {"export": "best", "checkpoint": best, "step": int(best), "files": [written]}
    write_json(folder / "artifacts/lora/export/export.json", told)


@pytest.fixture
def folder(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = copy(finished, tmp_path, monkeypatch)
    finish(folder)
    return folder


def html(folder: Path) -> str:
    page("lora")
    return (folder / "artifacts/pages/lora/index.html").read_text(encoding="utf-8")


def test_a_page_is_one_well_formed_file_without_scripts_or_addresses_of_others(folder: Path) -> None:
    text = html(folder)
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert "script" not in tags.seen
    assert not re.findall(r'src="(?!data:)', text)
    assert not {"link", "iframe", "object", "embed"} & set(tags.seen)
    assert "url(" not in text


def test_a_page_shows_the_numbers_that_were_measured(folder: Path) -> None:
    text = html(folder)
    metrics = read_json(folder / "artifacts/lora/evaluation/metrics.json")
    for name in ("base", "best"):
        assert f"{metrics['image_similarity'][name]:.3f}" in text
    assert "Shift" in text
    assert "Without it 0. At most 1.500. Of the last bias." in text
    assert "untouched base" in text
    assert "step 10" in text
    assert "1.23 kB" in text
    assert re.search(r"<code>sks.safetensors</code>.*A1111, SD.Next, ComfyUI", text)  # as the method's README says
    assert "load_lora_weights" in text  # how to use it, from the method's README
    assert text.count("<polyline") == 4  # three metrics and the training loss


def test_a_page_begins_with_what_to_do_with_the_files(folder: Path) -> None:
    text = html(folder)
    assert text.index("<h2>Use it</h2>") < text.index('class="tiles"') < text.index("<h2>Before and after</h2>")
    box = text[text.index('<section class="use">') : text.index("</section>")]
    assert "The best checkpoint, step " in box
    for told in ("models/Lora/", "models/loras/", "&lt;lora:sks:1&gt;", "Load LoRA", "sks.safetensors"):
        assert told in box
    assert [name for name in ("A1111", "ComfyUI", "SD.Next", "diffusers") if f"<td>{name}</td>" not in box] == []
    assert re.search(r"etude convert lora@(10|20) --to kohya_lora", box)
    assert 'href="../../report/index.html"' in text


def test_a_page_says_when_what_is_exported_is_not_what_it_shows(folder: Path) -> None:
    path = folder / "artifacts/lora/export/export.json"
    told = read_json(path)
    other = {"000010": "000020", "000020": "000010"}[told["checkpoint"]]
    write_json(path, told | {"export": "final", "checkpoint": other, "step": int(other)})
    text = html(folder)
    assert f"The final artifact, step {int(other)} (the best is step {int(told['checkpoint'])})" in text
    assert f"lora@{int(told['checkpoint'])} --to kohya_lora" in text


def test_a_caption_stands_under_its_training_picture(folder: Path) -> None:
    shown = re.findall(r'alt="training picture: (.*?)"><figcaption class="note">(.*?)</figcaption>', html(folder))
    assert shown == [(f"&lt;a&gt; sks &amp; {number}",) * 2 for number in range(3)]


def test_pictures_are_inside_the_page_as_png(folder: Path) -> None:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', html(folder))
    assert len(found) == 2 * 2 * 2 + 3 + 1  # prompts × (base, best) × seeds, training pictures, grid
    assert all(base64.b64decode(data).startswith(b"\x89PNG") for data in found)


def test_equal_inputs_give_equal_bytes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page("lora")
    assert capsys.readouterr().out == "lora: artifacts/pages/lora/index.html\n"
    first = sha256_tree(folder / "artifacts/pages/lora")
    page("lora")
    assert sha256_tree(folder / "artifacts/pages/lora") == first


def test_names_and_prompts_are_escaped(folder: Path) -> None:
    path = folder / "artifacts/lora/evaluation/evaluation.json"
    told = read_json(path)
    write_json(
        path, {**told, "name": "<script>x</script>", "prompts": ['"><img onerror=x> [name]', *told["prompts"][1:]]}
    )
    text = html(folder)
    assert "<script" not in text
    assert "<img onerror" not in text
    assert "&lt;script&gt;" in text


def test_a_page_names_the_other_exported_checkpoints_where_there_are_some(folder: Path) -> None:
    place, table = (folder / "artifacts/lora" / name for name in ("export/export.json", "evaluation/checkpoints.csv"))
    told = read_json(place)
    assert "the others are in its folder" not in html(folder)
    write_json(place, told | {"export": "all"})
    assert "the others are in its folder" in html(folder)
    lines = table.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.startswith("0000") or line.startswith(told["checkpoint"])]
    assert len(kept) < len(lines)
    table.write_text("\n".join(kept), encoding="utf-8")
    assert "the others are in its folder" not in html(folder)


def test_a_page_names_the_settings_of_its_pictures_without_those_that_say_nothing(folder: Path) -> None:
    path = folder / "artifacts/lora/evaluation/evaluation.json"
    told = read_json(path)
    assert "<dt>drawn with</dt><dd>guidance 3.0, sampler dpm++, steps 2</dd>" in html(folder)
    sampling = {"clip_skip": 1, "guidance": 3.0, "negative": "grey", "sampler": "dpm++", "steps": 1}
    write_json(path, {**told, "sampling": sampling})
    drawn = "<dt>drawn with</dt><dd>clip_skip 1, guidance 3.0, negative grey, sampler dpm++, steps 1</dd>"
    assert drawn in html(folder)


def test_a_method_that_trains_nothing_has_no_loss_curve(folder: Path) -> None:
    shutil.rmtree(folder / "artifacts/lora/training")
    assert "Training loss" not in html(folder)


@pytest.mark.parametrize(
    "lost",
    [
        "artifacts/lora/evaluation/metrics.json",
        "artifacts/lora/evaluation/checkpoints.csv",
        "artifacts/lora/evaluation/pictures/best/00-0.png",
        "artifacts/lora/grid/grid.png",
        "artifacts/lora/build/artifact.safetensors",
        "pipelines/lora/method/__init__.py",
    ],
)
def test_what_is_missing_is_named_and_leaves_no_half_page(folder: Path, lost: str) -> None:
    (folder / lost).unlink()
    with pytest.raises(EtudeError, match=Path(lost).name):
        page("lora")
    assert not (folder / "artifacts/pages/lora").exists()


def test_a_page_is_written_without_torch() -> None:
    code = "import sys, etude.pages.page, etude.pages.report, etude.pages.sources; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_a_page_shows_what_was_measured_against_held_out_pictures_and_leaves_out_what_was_not(folder: Path) -> None:
    before = html(folder)
    assert "Held-out similarity" not in before
    warned = re.findall(r'"name">([^<]*)<(?:(?!"name").)*It does not measure what a picture shows', before)
    assert warned == ["Image similarity"]
    evaluation = folder / "artifacts/lora/evaluation"
    metrics = read_json(evaluation / "metrics.json")
    metrics["heldout_similarity"] = {"base": 0.25, "best": 0.75, "final": 0.75, "real": 0.9, "best_spread": 0.01}
    write_json(evaluation / "metrics.json", metrics)
    asked = {**read_json(evaluation / "evaluation.json"), "heldout": 18, "classifier": "models/miniature/judge"}
    write_json(evaluation / "evaluation.json", asked)
    table = (evaluation / "checkpoints.csv").read_text(encoding="utf-8").splitlines()
    place = table[0].split(",").index("heldout_similarity")
    rows = [line.split(",") for line in table]
    for number, row in enumerate(rows[1:]):
        row[place] = f"0.{number + 2}5"
    (evaluation / "checkpoints.csv").write_text("\n".join(",".join(row) for row in rows), encoding="utf-8")
    text = html(folder)
    tiles = re.findall(r'<div class="name">(.*?)</div>', text)
    assert tiles.index("Held-out similarity") == 0 < tiles.index("Image similarity")  # which says little by itself
    charts = re.findall(r'<figure class="chart"><h3>(.*?)</h3>', text)
    assert charts[0] == "Held-out similarity"
    assert "It does not measure what a picture shows" not in text
    assert text.count("Held-out similarity") >= 3  # tile, chart, column
    assert "18 held-out pictures" in text
    assert "models/miniature/judge" in text
