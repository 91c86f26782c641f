"""Bringing a base into the repository, with the real git and DVC; nothing is downloaded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from commands import models
from commands.base import base
from commands.check import check
from commands.hub import needed
from commands.models import kind_of, note_origin
from etude.base.loading import load_base
from etude.core.errors import ArgumentError, BaseError, ConflictError, InputError
from etude.core.files import sha256_tree
from etude.core.params import read_yaml
from etude.sources import Origin
from tests.etude.captions.sentence_models import build
from tests.etude.captions.wd14_model import build_wd14
from tests.hub import Hub, reach
from tests.shipped import copy_project

COMMIT = "0123456789" * 4
LARGE = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which the test works."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def repository(project: Path) -> Path:
    """The same, as a repository of git and DVC."""
    subprocess.run(["git", "init", "-q"], check=True)
    dvc("init")
    return project


def dvc(*arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments, "--quiet"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_folder_is_copied_checked_and_tracked(tiny_base: Path, repository: Path) -> None:
    base(source=str(tiny_base), to=Path("models/mine"))
    assert sha256_tree("models/mine") == sha256_tree(tiny_base)
    assert read_yaml("models/mine.dvc")["outs"][0]["path"] == "mine"
    assert leftovers(repository / "models") == [".gitignore", "mine", "mine.dvc"]
    note_origin(Path("models/mine.dvc"), Origin("someone/something", COMMIT))
    shutil.rmtree("models/mine")
    dvc("checkout")
    assert load_base("models/mine").family == "sd1"
    assert read_yaml("models/mine.dvc")["meta"] == {"from": "someone/something", "revision": COMMIT}


def test_a_single_file_comes_with_the_configuration_beside_it(tmp_path: Path, repository: Path) -> None:
    from tests.etude.base.ldm import to_ldm
    from tests.etude.base.test_base import configuration_beside
    from tests.tiny import build_tiny

    folder = build_tiny(tmp_path / "sd2", "sd2")
    tensors = {name: tensor.contiguous() for name, tensor in to_ldm(folder, "sd2").items()}
    save_file(tensors, tmp_path / "v2.safetensors")
    configuration_beside(folder, tmp_path / "v2.config")

    base(source=str(tmp_path / "v2.safetensors"), to=Path("models/mine"))

    loaded = load_base("models/mine.safetensors")
    assert (loaded.family, loaded.prediction) == ("sd2", "v_prediction")
    expected = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(loaded.unet.conv_in.weight, expected["conv_in.weight"])
    assert {"mine.safetensors.dvc", "mine.config.dvc"} <= set(leftovers(repository / "models"))


def test_the_configuration_of_a1111_comes_with_a_single_file(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked: list[Path] = []
    monkeypatch.setattr(models, "kind_of", lambda path: "sd1")
    monkeypatch.setattr(models, "track", lambda paths, action: tracked.extend(paths))
    for name in ("a.safetensors", "a.yaml", "b.safetensors", "b.yaml"):
        (tmp_path / name).write_text("model: {params: {parameterization: v}}")
    (tmp_path / "b.config").mkdir()
    for name in "ab":
        models.copy(tmp_path / f"{name}.safetensors", Path(f"models/{name}.safetensors"))
    assert (repository / "models/a.yaml").read_bytes() == (tmp_path / "a.yaml").read_bytes()
    assert not (repository / "models/b.yaml").exists()  # what is beside it in the form of diffusers comes first
    assert tracked == [Path("models") / name for name in ("a.safetensors", "a.yaml", "b.safetensors")]


def test_a_clip_comes_in_the_same_way_and_without_git_or_dvc_the_error_says_what_to_do(
    tiny_base: Path, project: Path
) -> None:
    with pytest.raises(InputError, match=r"models/mine: is here, .*without \.git.* Next: run `git init && "):
        base(source=str(tiny_base / "clip"), to=Path("models/mine"))
    subprocess.run(["git", "init", "-q"], check=True)
    with pytest.raises(InputError, match=r"models/clip: is here, but `dvc add` failed .*`dvc add models/clip`"):
        base(source=str(tiny_base / "clip"), to=Path("models/clip"))
    assert kind_of(Path("models/clip")) == "clip"
    (project / "models" / "clip" / "vocab.json").unlink()
    with pytest.raises(BaseError, match=r"is a CLIP without vocab\.json"):
        kind_of(Path("models/clip"))


def test_a_clip_with_a_tokenizer_in_one_file_as_transformers_saves_it_is_one(tiny_base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_base / "clip", tmp_path / "clip"))
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    for name in ("vocab.json", "merges.txt", "special_tokens_map.json"):
        (folder / name).unlink()
    tokenizer.save_pretrained(folder)
    assert not (folder / "vocab.json").exists()
    assert kind_of(folder) == "clip"


def test_what_is_there_is_never_overwritten(tiny_base: Path, project: Path) -> None:
    (project / "models" / "mine").mkdir(parents=True)
    (project / "models" / "mine" / "precious").write_text("mine")
    with pytest.raises(ConflictError, match=r"models/mine: .*choose another --to, or delete models/mine\.$"):
        base(source=str(tiny_base), to=Path("models/mine"))
    (project / "models" / "mine.dvc").write_text("outs: []\n")
    with pytest.raises(ConflictError, match=r"or `dvc remove models/mine\.dvc` and delete models/mine\.$"):
        base(source=str(tiny_base), to=Path("models/mine"))
    assert (project / "models" / "mine" / "precious").read_text() == "mine"
    for record in ("gone.dvc", "gone.yaml.dvc"):
        (project / "models" / record).write_text("outs: []\n")
        match = rf"models/{record}: records .* `dvc pull models/{record}`, .* or `dvc remove models/{record}`"
        with pytest.raises(ConflictError, match=match):
            base(source=str(tiny_base), to=Path("models/gone"))
        (project / "models" / record).unlink()


def test_a_base_belongs_inside_the_repository(tiny_base: Path, project: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseError, match="outside the repository"):
        base(source=str(tiny_base), to=tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_what_is_no_base_leaves_nothing_behind(tiny_base: Path, project: Path, tmp_path: Path) -> None:
    spoilt = shutil.copytree(tiny_base, tmp_path / "spoilt")
    shutil.rmtree(spoilt / "vae")
    with pytest.raises(BaseError, match="lacks vae"):
        base(source=str(spoilt), to=Path("models/mine"))
    assert leftovers(project / "models") == []


def test_an_option_that_would_mean_nothing_is_refused(tiny_base: Path, project: Path) -> None:
    for options in ({"half": True}, {"revision": COMMIT}):
        with pytest.raises(ArgumentError, match="--from"):
            base(**options)
    with pytest.raises(ArgumentError, match=r"--revision: .* is a local path"):
        base(source=str(tiny_base), to=Path("models/mine"), revision=COMMIT)
    assert leftovers(project / "models") == []


def test_a_hub_id_needs_a_commit(project: Path) -> None:
    for revision in ("", "main", "0123abc"):
        with pytest.raises(BaseError, match="40 hex digits"):
            base(source="someone/something", to=Path("models/mine"), revision=revision)
    assert leftovers(project / "models") == []


@pytest.mark.parametrize("source", ["someone/something", "someone/something/model.safetensors"])
def test_an_unreachable_hub_is_a_clear_error_and_leaves_nothing_behind(project: Path, source: str) -> None:
    with pytest.raises(BaseError, match=r"someone/something@01234567: cannot be fetched"):
        base(source=source, to=Path("models/mine"), revision=COMMIT)
    assert leftovers(project / "models") == []


@pytest.mark.parametrize(
    "source",
    [
        "./gone.safetensors",
        "gone.safetensors",
        "gone.CKPT",
        "mine/gone.ckpt",
        "mine/gone",
        "../gone",
        "/gone/far",
        "~/gone/far",
    ],
)
def test_a_path_that_is_not_there_is_said_to_be_missing_and_no_hub_is_asked(project: Path, source: str) -> None:
    (project / "mine").mkdir()
    with pytest.raises(BaseError, match=f"^{source}: is missing"):
        base(source=source, to=Path("models/mine"), revision=COMMIT)
    with pytest.raises(BaseError, match="nor the id of a model on the hub"):
        base(source="nowhere", to=Path("models/mine"), revision=COMMIT)


def single_file(folder: Path, tiny_base: Path) -> Path:
    """SD 1.5's names in one file, with its configuration beside it."""
    from tests.etude.base.ldm import to_ldm
    from tests.etude.base.test_base import configuration_beside

    file = folder / "one.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in to_ldm(tiny_base, "sd1").items()}, file)
    configuration_beside(tiny_base, file.with_suffix(".config"))
    return file


def without_configuration(file: Path) -> None:
    shutil.rmtree(file.with_suffix(".config"))


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10_000])


def without_a_tensor(file: Path) -> None:
    tensors = load_file(file)
    tensors.pop("model.diffusion_model.time_embed.0.bias")
    save_file(tensors, file)


@pytest.mark.parametrize("spoil", [without_configuration, cut_short, without_a_tensor])
def test_a_file_that_drawing_would_refuse_is_refused_when_it_is_brought_in(
    tiny_base: Path, project: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    file = single_file(tmp_path, tiny_base)
    assert kind_of(file) == "sd1"
    spoil(file)
    with pytest.raises(BaseError) as drawing:
        load_base(file)
    with pytest.raises(BaseError) as bringing:
        base(source=str(file), to=Path("models/mine"))
    assert bringing.value.fault.partition("(")[0] == drawing.value.fault.partition("(")[0]
    assert leftovers(project / "models") == []


HUB = [
    "README.md",
    "model_index.json",
    "v1-5-pruned.safetensors",
    "safety_checker/model.safetensors",
    "feature_extractor/preprocessor_config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/pytorch_model.bin",
    "text_encoder/flax_model.msgpack",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.bin",
    "vae/config.json",
    "vae/diffusion_pytorch_model.bin",
]


def test_of_a_hubs_files_each_model_is_fetched_once() -> None:
    kept = [
        "README.md",
        "model_index.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.bin",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
    ]
    assert needed(HUB) == kept
    half = [name for name in needed(HUB, half=True) if name.endswith((".safetensors", ".bin"))]
    assert half == [
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.bin",
        "text_encoder/model.fp16.safetensors",
    ]


def test_of_an_unclip_base_what_tells_it_of_a_picture_is_fetched_as_well() -> None:
    own = ["image_encoder/config.json", "image_encoder/model.safetensors", "image_normalizer/config.json"]
    own += ["image_normalizer/diffusion_pytorch_model.safetensors", "image_noising_scheduler/scheduler_config.json"]
    assert set(needed([*HUB, *own])) - set(needed(HUB)) == {*own, "feature_extractor/preprocessor_config.json"}


def test_of_a_base_of_image_variations_what_sees_pictures_is_fetched() -> None:
    eye = {"feature_extractor/preprocessor_config.json", "image_encoder/config.json", "image_encoder/model.safetensors"}
    rest = [name for name in needed(HUB) if not name.startswith(("text_encoder", "tokenizer"))]
    assert set(needed([*rest, *eye, "safety_checker/model.safetensors"])) == {*rest, *eye}


def test_shards_come_with_their_index() -> None:
    shards = [f"unet/diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = "unet/diffusion_pytorch_model.safetensors.index.json"
    assert needed([*shards, index, "unet/config.json"]) == ["unet/config.json", *shards, index]


def test_of_a_captioners_repository_what_it_is_opened_with_is_fetched() -> None:
    wd14 = ["README.md", "model.onnx", "selected_tags.csv"]
    rest = [".gitattributes", "config.json", "model.msgpack", "model.safetensors", "sw_jax_cv_config.json"]
    assert needed([*rest, *wd14]) == wd14
    assert needed([*rest, "selected_tags.csv"]) == ["config.json", "model.safetensors", "selected_tags.csv"]
    sentence = ["chat_template.jinja", "config.json", "model.safetensors", "tokenizer.model", "vocab.txt"]
    assert needed([*sentence, "pytorch_model.bin", "tf_model.h5", "modeling_own.py"]) == sentence


def test_captioners_come_as_bases_do_each_checked_by_opening_it(tmp_path: Path, repository: Path) -> None:
    """One git and DVC serve all: these calls are slow."""
    blip = build("blip", tmp_path / "blip")
    (blip / "modeling_own.py").write_text("raise SystemExit('ran')", encoding="utf-8")
    base(source=str(blip), to=Path("models/blip"))
    assert kind_of(Path("models/blip")) == "transformers"
    assert "modeling_own.py" not in leftovers(repository / "models/blip")
    with pytest.raises(BaseError, match="bert, which is no image-to-text model"):
        config = (blip / "config.json").read_text(encoding="utf-8")
        (blip / "config.json").write_text(config.replace('"model_type": "blip"', '"model_type": "bert"'))
        base(source=str(blip), to=Path("models/bert"))
    assert leftovers(repository / "models") == [".gitignore", "blip", "blip.dvc"]


def test_a_tagger_is_checked_by_opening_its_network_and_its_table(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="the extra `tagger` is not installed")
    folder = build_wd14(tmp_path / "wd14")
    assert kind_of(folder) == "wd14"
    (folder / "model.onnx").write_bytes(b"")
    with pytest.raises(BaseError, match="cannot be opened"):
        kind_of(folder)


@pytest.fixture(scope="module")
def photos_project(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """The project with the parameters for SD 1.5, without any model of SD 1.5. Read only."""
    folder = copy_project(tmp_path_factory.mktemp("photos") / "project")
    for kept in ("data/samples", "models/miniature/judge"):
        shutil.copytree(root / kept, folder / kept)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=folder, check=True)
    preset = subprocess.run(
        [sys.executable, "-m", "commands.preset", "sd15"], cwd=folder, check=True, capture_output=True
    )
    assert b"etude base" in preset.stdout
    return folder


@pytest.fixture
def on_photos(photos_project: Path, tmp_path: Path, tiny_base: Path) -> Iterator[tuple[Path, Hub]]:
    """A copy of that project, and a hub that has what SD 1.5's preset names."""
    shutil.copytree(photos_project, tmp_path / "copy")
    without_clip = shutil.copytree(tiny_base, tmp_path / "sd15", ignore=shutil.ignore_patterns("clip"))
    weights = without_clip / LARGE
    save_file(
        {**load_file(weights), "model_ema.more": torch.zeros(3_000_000)}, weights
    )  # longer than what is written at a time
    names = {"stable-diffusion-v1-5/stable-diffusion-v1-5": without_clip}
    with Hub({**names, "openai/clip-vit-large-patch14": tiny_base / "clip"}) as hub:
        yield tmp_path / "copy", hub


def test_one_command_fetches_what_the_chosen_methods_read_and_nothing_else(
    on_photos: tuple[Path, Hub], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, hub = on_photos
    monkeypatch.chdir(folder)
    reach(monkeypatch, hub)
    with pytest.raises(InputError) as lacking:
        check()
    told = str(lacking.value).splitlines()
    assert [line.split()[0] for line in told] == ["models/sd15", "models/clip-vit-large-patch14"]
    assert all(line.endswith("is missing. Next: `etude base` fetches it.") for line in told)

    base()
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(
        "models/sd15: 16 MB in 12 files from stable-diffusion-v1-5/stable-diffusion-v1-5@451f4fe1"
    )
    assert told[2].startswith("to fetch: 17 MB; free on this disk")
    assert told[-1] == "all that the chosen methods read is here. Next: dvc repro"
    assert read_yaml("models/sd15.dvc")["meta"]["revision"] == "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"
    names = ["sd15", "sd15.dvc", "clip-vit-large-patch14", "clip-vit-large-patch14.dvc"]
    assert leftovers(folder / "models") == sorted([".gitignore", "miniature", "none", *names])
    check()

    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text.replace("- textual_inversion", "- clip_inversion", 1), encoding="utf-8")
    shutil.rmtree("data/samples/style")
    with pytest.raises(InputError) as lacking:
        check()
    told = str(lacking.value).splitlines()
    assert told[0].startswith("models/sd21-unclip (pipelines/clip_inversion/params.yaml: base): is missing")
    assert told[1].split(". ")[0].strip() == "data/samples/style (params.yaml: sets.style): is missing"
    assert "etude images --from … --set style" in told[1]
    assert len(told) == 2


def test_dvc_repro_says_what_is_missing_beside_its_own_message(on_photos: tuple[Path, Hub]) -> None:
    folder, _ = on_photos
    command = [sys.executable, "-m", "dvc", "repro", "--keep-going", "caption@concept"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert ran.returncode
    assert "models/sd15 (params.yaml: base): is missing. Next: `etude base`" in ran.stderr
    assert "[Errno 2]" in ran.stderr


@pytest.mark.slow
def test_what_was_recorded_is_fetched_again_as_it_was_or_refused(
    on_photos: tuple[Path, Hub], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, hub = on_photos
    monkeypatch.chdir(folder)
    reach(monkeypatch, hub)
    clip, recorded = Path("models/clip-vit-large-patch14"), Path("models/clip-vit-large-patch14.dvc")
    base()
    before = recorded.read_bytes()
    shutil.rmtree(clip)
    base()
    assert "clip-vit-large-patch14: restored from DVC's cache" in capsys.readouterr().out
    shutil.rmtree(clip)
    shutil.rmtree(".dvc/cache")
    base()
    assert kind_of(clip) == "clip"
    assert recorded.read_bytes() == before
    shutil.rmtree(clip)
    shutil.rmtree(".dvc/cache")
    other = shutil.copytree(hub.repositories["openai/clip-vit-large-patch14"], folder.parent / "other")
    (other / "README.md").write_text("another", encoding="utf-8")
    hub.repositories["openai/clip-vit-large-patch14"] = other
    with pytest.raises(BaseError, match=r"has other content than models/clip-vit-large-patch14\.dvc records"):
        base()
    assert recorded.read_bytes() == before
    assert not clip.exists()


@pytest.mark.slow
def test_of_two_fetches_at_once_the_second_waits_and_has_nothing_left_to_do(
    on_photos: tuple[Path, Hub], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, hub = on_photos
    monkeypatch.chdir(folder)
    reach(monkeypatch, hub)
    hub.stalls = ("config.json", 10)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(base)
        assert hub.stalled.wait(60)
        second = pool.submit(base)
        told = ""
        while "waiting for that" not in told:
            told += capsys.readouterr().out  # a line may come in two parts
            assert not second.done(), told
        hub.release()
        first.result()
        second.result()
    assert [name for name, start, _ in hub.asked if name == LARGE and not start] == [LARGE]
    assert capsys.readouterr().out.endswith("all that the chosen methods read is here. Next: dvc repro\n")


@pytest.mark.slow
def test_a_fetch_that_is_killed_goes_on_within_the_file(on_photos: tuple[Path, Hub]) -> None:
    folder, hub = on_photos
    hub.stalls = (LARGE, 12_000_000)
    command = [sys.executable, "-m", "commands.base"]
    with subprocess.Popen(command, cwd=folder, env=hub.environment(), stdout=subprocess.PIPE, text=True) as killed:
        assert hub.stalled.wait(60)
        part = next(iter(folder.glob(f".scratch/fetch/*/{LARGE}.part")))
        while part.stat().st_size == 0:
            assert killed.poll() is None
        killed.kill()
    kept = part.stat().st_size
    assert not (folder / "models/sd15").exists()
    hub.release()
    done = subprocess.run(command, cwd=folder, env=hub.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "of it here already" in done.stdout
    assert [start for name, start, _ in hub.asked if name == LARGE] == [0, kept]
    assert kind_of(folder / "models/sd15") == "sd1"


def test_the_command_line_names_its_options_and_errors_in_one_line(shipped: Path, project: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "commands.base", "--from", "a/b", "--to", "models/none-such"],
        cwd=shipped,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert ran.stderr.startswith("error: a/b: is not a path that exists; a model of the hub also needs its commit")
    assert not (shipped / "models" / "none-such").exists()
