"""The page of an image set: the real stages prepare and caption a folder, and the page tells what is in it."""

from __future__ import annotations

import base64
import csv
import io
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image, ImageFilter

from etude.core.errors import InputError
from etude.core.files import read_json, sha256_tree, write_json
from etude.inspection import looks, page
from tasks.caption import caption
from tasks.prepare import prepare
from tasks.set_page import set_page
from tests.markup import Tags
from tests.tasks.front import draw, make_project, set_param

ROOT = Path(__file__).parent.parent.parent
OUT = Path("artifacts/sets/pets")


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(make_project(tmp_path, Path("nowhere")))
    set_param("captioners:\n    clip: nowhere/clip", "captioners: {}")
    set_param("enlarge: false", "enlarge: true")
    return Path("raw")


def html(name: str = "index.html", make: bool = True) -> str:
    if make:
        prepare("pets")
        caption("pets")
        set_page("pets")
    return (OUT / name).read_text(encoding="utf-8")


def noisy(path: Path, seed: int, size: tuple[int, int] = (80, 64)) -> Path:
    """A picture with sharp edges."""
    draw(path, seed, size)
    with Image.open(path) as image:
        soft = image.convert("RGB")
    noise = Image.effect_noise(size, 120).convert("RGB")
    Image.blend(soft, noise, 0.5).save(path)
    return path


def doubts(text: str) -> dict[str, dict[str, str]]:
    """The findings of a page: title → picture → what is said of it."""
    found = {}
    for section in re.findall(r'<section class="doubt">(.*?)</section>', text, re.DOTALL):
        title = re.search(r"<h3>(.*?) <span", section)
        figures = re.findall(r'alt="([^"]*)".*?<span class="why">(.*?)</span></figcaption>', section)
        assert title
        found[unescape(title[1])] = {unescape(name): unescape(why) for name, why in figures}
    return found


def test_what_is_doubtful_comes_first_by_the_rule_that_found_it(raw: Path) -> None:
    noisy(raw / "fine.png", 1)
    (raw / "fine.txt").write_text("a fine picture")
    with Image.open(noisy(raw / "soft.png", 2)) as image:
        image.filter(ImageFilter.GaussianBlur(5)).save(raw / "soft.png")
    noisy(raw / "tiny.png", 3, (20, 16))
    noisy(raw / "wide.png", 4, (400, 64))
    Image.new("RGB", (80, 64), (10, 200, 30)).save(raw / "plain.png")
    noisy(raw / "silent.png", 5)
    (raw / "silent.txt").touch()
    noisy(raw / "long.png", 6)
    (raw / "long.txt").write_text("a, " * 38 + "the end")
    noisy(raw / "marked.png", 7)
    (raw / "marked.txt").write_text("a fox with a watermark")
    noisy(raw / "odd.png", 8)
    (raw / "odd.txt").write_bytes("caf\xe9".encode("cp1252"))
    noisy(raw / "bad.png", 9)
    (raw / "bad.txt").write_bytes(b"\xff\0\x81")
    (raw / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no")
    text = html()
    found = doubts(text)
    assert {title: list(pictures) for title, pictures in found.items()} == {
        "One colour, or nearly": ["plain.png"],
        "Without a caption": ["silent.png"],
        "Captions that are cut": ["long.png"],
        "Blurred": ["soft.png"],
        "Enlarged": ["tiny.png"],
        "Mostly cut off": ["wide.png"],
        "Text or a watermark, by the caption": ["marked.png"],
        "Files with captions": [],
    }
    assert found["Enlarged"]["tiny.png"] == "20×16 → 64×64"
    assert found["Mostly cut off"]["wide.png"] == "16% is used"
    assert found["Text or a watermark, by the caption"]["marked.png"] == "“watermark”"
    assert "<s>the end</s>" in text or "<s>, the end</s>" in text
    assert "bad.txt <span" in text
    assert "odd.txt <span" in text
    assert re.search(r'broken.jpg</td><td class="words">cannot be decoded', text)
    assert text.index("Look at these first") < text.index("Left out</h2>") < text.index('id="pictures"')


def test_a_set_without_doubts_says_so(raw: Path) -> None:
    noisy(raw / "red fox.png", 1)
    text = html()
    assert "Nothing stands out" in text
    assert doubts(text) == {}
    assert "Left out</h2>" not in text


def test_equal_and_similar_pictures_stand_side_by_side(raw: Path) -> None:
    noisy(raw / "a.png", 1)
    shutil.copy(raw / "a.png", raw / "again.png")
    noisy(raw / "other.png", 2)
    with Image.open(raw / "a.png") as image:
        for quality in (95, 80):
            image.convert("RGB").save(raw / f"a{quality}.jpg", quality=quality)
    found = doubts(html())
    assert found["The same pixels"] == {"a.png": "= again.png"}
    section = html(make=False).split("Nearly the same")[-1].split("</section>")[0]
    assert re.findall(r'alt="([^"]*)"', section) == ["a.png", "a80.jpg", "a95.jpg"]


def test_every_picture_is_shown_once_with_its_crops_caption_and_where_that_came_from(raw: Path) -> None:
    set_param("flip: false", "flip: true")
    set_param("split: 0.0", "split: 0.5")
    noisy(raw / "red fox.png", 1)
    noisy(raw / "tall.png", 2, (64, 240))
    (raw / "tall.txt").write_text("a tall one")
    Image.linear_gradient("L").save(raw / "tall_att.png")
    text = html()
    figures = re.findall(r'<figure class="photo".*?</figure>', text, re.DOTALL)
    assert len(figures) == 2
    fox, tall = figures
    assert "80×64 → 64×64, 80% kept" in fox
    assert ">red fox<br><small>file’s name; 2 tokens" in fox
    assert "64×240 → " in tall
    assert " of 64×64, with a mask" in tall
    assert tall.count(">a tall one<br><small>text file: tall.txt; 3 tokens") == 1
    cuts = [facts for facts in read_json("data/pets/prepared/images.json")["images"].values() if not facts["flipped"]]
    assert tall.count("mask of tall.png") == len(cuts) - 1 > 1
    rows = list(csv.DictReader((OUT / "pictures.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["file"] for row in rows] == ["red fox.png"] + ["tall.png"] * (len(cuts) - 1)
    assert rows[-1]["caption"] == "a tall one"


def test_how_often_a_picture_counts_is_shown_where_its_folder_says_so(raw: Path) -> None:
    noisy(raw / "10_sks dog" / "a.png", 1, (64, 64))
    noisy(raw / "b.png", 2, (64, 64))
    text = html()
    assert text.count("64×64 → 64×64, counts 10 times<") == text.count("counts ") == 1
    assert ">sks dog<br><small>folder’s name: 10_sks dog;" in text


def test_how_each_file_is_used_is_told_and_nothing_of_what_goes_without_saying(raw: Path) -> None:
    set_param("split: 0.0", "split: 0.7")
    noisy(raw / "a.png", 1, (64, 64))
    noisy(raw / "b.png", 2, (64, 100))
    noisy(raw / "c.png", 3, (80, 64))
    noisy(raw / "d.png", 4, (32, 32))
    told = []
    for figure in re.findall(r'<figure class="photo".*?</figure>', html(), re.DOTALL):
        told += [about.strip() for about in re.findall(r"→ ([^<]*)<", figure)]
    assert told == ["64×64", "2 of 64×64", "64×64, 80% kept", "64×64, enlarged"]


def test_a_page_is_one_well_formed_file_without_scripts_and_its_thumbnails_are_small(raw: Path) -> None:
    noisy(raw / "a.png", 1, (900, 640))
    noisy(raw / "b.png", 2)
    text = html()
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert not {"script", "link", "iframe", "object", "embed"} & set(tags.seen)
    assert not re.findall(r'src="(?!data:)', text)
    pictures = [base64.b64decode(data) for data in re.findall(r'src="data:image/webp;base64,([^"]+)"', text)]
    sizes = [Image.open(io.BytesIO(data)).size for data in pictures]
    assert (looks.SIDE, 137) in sizes
    assert max(map(max, sizes)) == looks.SIDE
    assert max(map(len, pictures)) < 30_000


def test_names_and_captions_are_text(raw: Path) -> None:
    name = "<b>\"&'%.png"
    noisy(raw / name, 1)
    (raw / name).with_suffix(".txt").write_text("<script>alert(1)</script> {{ x }}")
    text = html()
    assert "<script" not in text
    assert '<b>"' not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; {{ x }}" in text


def test_large_sets_have_several_pages_and_every_link_leads_somewhere(
    raw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "ON_A_PAGE", 2)
    monkeypatch.setattr(page, "SHOWN", 1)
    monkeypatch.setattr(page, "NAMED", 3)
    for number in range(9):
        noisy(raw / f"{number}.png", number, (20, 16))  # enlarged, and without a caption
    first = html()
    assert sorted(path.name for path in OUT.iterdir()) == [
        "index.html",
        *(f"pictures-{number}.html" for number in (2, 3, 4, 5)),
        "pictures.csv",
    ]
    assert "8 more</summary>" in first
    assert "And 5 more, in <code>pictures.csv</code>" in first
    assert 'href="pictures-5.html#pictures"' in first
    texts = {path.name: path.read_text(encoding="utf-8") for path in OUT.glob("*.html")}
    shown = re.findall(r'<figure class="photo" id="p(\d+)">', "".join(texts[name] for name in sorted(texts)))
    assert shown == [str(number + 1) for number in range(9)]
    for text in texts.values():
        assert text.count("<h1>") == 1
        for link in re.findall(r'href="([^"]+)"', text):
            file, _, anchor = link.partition("#")
            if file != "../../report/index.html":
                assert not anchor or f'id="{anchor}"' in texts[file], link


def test_a_finding_has_twelve_thumbnails_and_a_list_200_names(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(13):
        noisy(raw / f"{number:03}.png", number, (20, 16))  # enlarged, and without a caption
    for number in range(201):
        (raw / f"no-{number:03}.png").write_bytes(b"no picture")
    text = html()
    section = text.split("<h3>Enlarged")[1].split("</section>")[0]
    told = capsys.readouterr().out.splitlines()
    assert "pets: enlarged: 13" in told
    assert told[-1] == "pets: artifacts/sets/pets/index.html"
    assert section.count("<figure") == 12
    assert "<summary>1 more</summary>" in section
    assert "And 1 more, in <code>data/pets/prepared/images.json</code>" in text


@pytest.mark.parametrize(("count", "files"), [(120, ["index.html"]), (121, ["index.html", "pictures-2.html"])])
def test_a_page_holds_120_pictures(count: int, files: list[str]) -> None:
    contents: Any = SimpleNamespace(pictures=dict.fromkeys(map(str, range(count))))
    nothing: Any = None
    assert page.Pages(contents, nothing, []).files == files


def test_equal_inputs_give_equal_bytes_and_nothing_is_decoded_twice(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        noisy(raw / f"{number}.png", number)
    html()
    first = sha256_tree(OUT)
    shutil.rmtree(".cache")
    set_page("pets")
    assert sha256_tree(OUT) == first
    drawn = []
    monkeypatch.setattr(looks, "draw_tile", lambda path, *_: drawn.append(path.name) or Image.new("RGB", (9, 9)))
    set_page("pets")
    assert sha256_tree(OUT) == first
    noisy(raw / "new.png", 9)
    (raw / "0.txt").write_text("another caption")
    assert "another caption" in html()
    assert drawn == ["new.png"]
    for entry in Path(".cache/looks").rglob("*.entry"):
        entry.write_text(entry.read_text(encoding="utf-8")[:50])  # a power cut
    set_page("pets")
    assert sorted(drawn) == ["0.png", "1.png", "2.png", "new.png", "new.png"]


def test_a_picture_or_caption_that_is_missing_is_named_and_leaves_no_half_page(raw: Path) -> None:
    noisy(raw / "a.png", 1)
    prepare("pets")
    caption("pets")
    entries = read_json("data/pets/captioned/captions.json")
    write_json("data/pets/captioned/captions.json", {})
    with pytest.raises(InputError, match=r"captions.json: has no caption of .*Next: run `dvc repro caption@pets`"):
        set_page("pets")
    write_json("data/pets/captioned/captions.json", entries)
    (raw / "a.png").unlink()
    with pytest.raises(InputError, match="a.png: was cut into training pictures, but no longer exists"):
        set_page("pets")
    assert not OUT.exists()


def test_a_page_is_written_without_torch_and_transformers() -> None:
    code = (
        "import sys, etude.inspection.page, etude.inspection.table; "
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
