"""Where an exported file goes in other programs, and what to write there: one table, by format.

Folders and labels were read in the programs' own code in November 2026: A1111's `modules/cmd_args.py` and
`extensions-builtin/Lora/preload.py` (the same in Forge), ComfyUI's `folder_paths.py` and `nodes.py`, SD.Next's
options, and the extensions. In file names, ``{stem}`` is the artifact's name, and ``{word}`` each of its learned
words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from etude.core.families import FAMILIES, SD1, Family
from etude.core.files import file_name
from etude.core.placeholder import fill

PROGRAMS = ("A1111", "ComfyUI", "SD.Next", "diffusers")  # each has a row on every page


@dataclass(frozen=True)
class Use:
    """How one program uses the files of a format."""

    program: str
    files: tuple[tuple[str, str], ...]  # (an exported file or folder, the program's folder that it goes to)
    how: str = ""  # what the user chooses there; "": nothing, the prompt is enough
    word: str = ""  # how a learned word is written: {} is its file's name; "": unchanged
    tag: str = ""  # what the prompt needs in addition
    negative: str = ""  # what the negative prompt needs
    code: str = ""  # Python, for diffusers
    encoders: int = 0  # only for families with this number of text encoders; 0: for all families


LORA, LORA_DIFFUSERS = "{stem}.safetensors", "pytorch_lora_weights.safetensors"
PAIR = ("{stem}.safetensors", "{stem}-neg.safetensors")
WORDS = "{word}.pt"  # of Custom Diffusion: one embedding for each word
LEARNED, LEARNED_2 = "learned_embeds.safetensors", "learned_embeds_2.safetensors"
AESTHETIC = "extensions/stable-diffusion-webui-aesthetic-gradients/aesthetic_embeddings"

_LORA = (
    Use("A1111", ((LORA, "models/Lora"),), tag="<lora:{stem}:1>"),
    Use("ComfyUI", ((LORA, "models/loras"),), how="node “Load LoRA”"),
    Use("SD.Next", ((LORA, "models/Lora"),), tag="<lora:{stem}:1>"),
)
USES: Mapping[str, tuple[Use, ...]] = {
    "kohya_lora": _LORA,
    "diffusers_lora": (
        Use(
            "diffusers",
            ((LORA_DIFFUSERS, ""),),
            code='pipe.load_lora_weights("{export}", weight_name="pytorch_lora_weights.safetensors")',
        ),
    ),
    "embedding_pt": (Use("A1111", (("{stem}.pt", "embeddings"),), word="{}"),),
    "embedding_safetensors": (
        Use("ComfyUI", ((LORA, "models/embeddings"),), word="embedding:{}"),
        Use("SD.Next", ((LORA, "models/embeddings"),), word="{}"),
    ),
    "diffusers_embedding": (
        Use(
            "diffusers",
            ((LEARNED, ""),),
            code='pipe.load_textual_inversion("{export}", weight_name="learned_embeds.safetensors")',
        ),
        Use(
            "diffusers",
            ((LEARNED, ""), (LEARNED_2, "")),
            encoders=2,
            code='pipe.load_textual_inversion("{export}", weight_name="learned_embeds.safetensors")\n'
            'second = {{"text_encoder": pipe.text_encoder_2, "tokenizer": pipe.tokenizer_2}}\n'
            'pipe.load_textual_inversion("{export}", weight_name="learned_embeds_2.safetensors", **second)',
        ),
    ),
    "embedding_pair": (
        Use("A1111", tuple((file, "embeddings") for file in PAIR), word="{}", negative="{stem}-neg"),
        Use(
            "ComfyUI",
            tuple((f, "models/embeddings") for f in PAIR),
            word="embedding:{}",
            negative="embedding:{stem}-neg",
        ),
        Use("SD.Next", tuple((file, "models/embeddings") for file in PAIR), word="{}", negative="{stem}-neg"),
        Use(
            "diffusers",
            tuple((file, "") for file in PAIR),
            word="{}",
            negative="{stem}-neg",
            code='for word in ("{stem}", "{stem}-neg"):\n'
            '    pipe.load_textual_inversion("{export}", weight_name=f"{{word}}.safetensors", token=word)',
        ),
        Use(
            "diffusers",
            tuple((file, "") for file in PAIR),
            encoders=2,
            word="{}",
            negative="{stem}-neg",
            code="from safetensors.torch import load_file\n\n"
            'second = {{"text_encoder": pipe.text_encoder_2, "tokenizer": pipe.tokenizer_2}}\n'
            'for word in ("{stem}", "{stem}-neg"):\n'
            '    rows = load_file(f"{export}/{{word}}.safetensors")\n'
            '    pipe.load_textual_inversion(rows["clip_l"], token=word)\n'
            '    pipe.load_textual_inversion(rows["clip_g"], token=word, **second)',
        ),
    ),
    "embedding_image": (Use("A1111", (("{stem}.png", "embeddings"),), word="{}"),),
    "hypernetwork_pt": (
        Use("A1111", (("{stem}.pt", "models/hypernetworks"),), tag="<hypernet:{stem}:1>"),
        Use("ComfyUI", (("{stem}.pt", "models/hypernetworks"),), how="node “HypernetworkLoader”"),
    ),
    "aesthetic_pt": (
        Use(
            "A1111",
            (("{stem}.pt", AESTHETIC),),
            how="“Open for Clip Aesthetic!”, there “Aesthetic imgs embedding”: {stem}",
        ),
    ),
    "clip_image_embedding": (
        Use(
            "diffusers",
            ((LORA, ""),),
            code="from safetensors.torch import load_file\n\n"
            'z = load_file("{export}/{stem}.safetensors")["clip_image_embeds"]\n'
            'pipe(prompt={prompt}, image_embeds=z, noise_level={noise_level}).images[0].save("{stem}.png")',
        ),
    ),
    "adobe_delta": (Use("Adobe's code", (("delta.bin", ""),), how="argument --delta_ckpt"),),
    "webui_delta": (
        Use(
            "A1111 with the extension custom-diffusion-webui",
            (("{stem}.delta.safetensors", "models/deltas"), (WORDS, "embeddings")),
            word="{}",
            tag="<delta:{stem}:1>",
        ),
    ),
    "svd_lora": (
        Use("A1111", ((LORA, "models/Lora"), (WORDS, "embeddings")), word="{}", tag="<lora:{stem}:1>"),
        Use(
            "ComfyUI",
            ((LORA, "models/loras"), (WORDS, "models/embeddings")),
            how="node “Load LoRA”",
            word="embedding:{}",
        ),
        Use("SD.Next", ((LORA, "models/Lora"), (WORDS, "models/embeddings")), word="{}", tag="<lora:{stem}:1>"),
    ),
    "diffusers_custom_diffusion": (
        Use(
            "diffusers",
            (("pytorch_custom_diffusion_weights.bin", ""), ("{word}.bin", "")),
            code='weights = "pytorch_custom_diffusion_weights.bin"\n'
            'pipe.unet.load_attn_procs("{export}", weight_name=weights, _pipeline=pipe)\n'
            "for word in {words}:\n"
            '    pipe.load_textual_inversion("{export}", weight_name=f"{{word}}.bin")',
        ),
    ),
    "ldm_checkpoint": (
        Use("A1111", ((LORA, "models/Stable-diffusion"),), how="as “Stable Diffusion checkpoint”"),
        Use("ComfyUI", ((LORA, "models/checkpoints"),), how="node “Load Checkpoint”"),
        Use("SD.Next", ((LORA, "models/Stable-diffusion"),), how="as “Base model”"),
    ),
    "diffusers_checkpoint": (
        Use("diffusers", (("{stem}/", ""),), code='pipe = DiffusionPipeline.from_pretrained("{export}/{stem}")'),
    ),
    "peft_lora": (Use("PEFT", (("{stem}/", ""),), how="PeftModel.from_pretrained"),),
    "null_text": (Use("Étude", (("{stem}-*.safetensors", ""),), how="etude sample {method} --prompt …"),),
}


@dataclass(frozen=True)
class Row:
    """A program, and what to do there; ``files`` is empty if the program cannot load any of the files."""

    program: str
    files: Sequence[tuple[str, str]]  # (file, folder)
    how: str = ""
    prompt: str = ""
    negative: str = ""
    code: str = ""


@dataclass(frozen=True)
class Export:
    """The exported files of one checkpoint, and an example prompt for them."""

    method: str
    facts: Mapping[str, Any]
    files: Mapping[str, Sequence[str]]  # format → paths below the export folder
    prompt: str  # one of the evaluation's prompts, with [name] in it
    trigger: bool  # whether a prompt must contain the name

    @property
    def stem(self) -> str:
        """The name of its files, without a suffix."""
        return file_name(str(self.facts["name"]))

    @property
    def folder(self) -> str:
        """The export folder, relative to the project's root."""
        return f"artifacts/{self.method}/export"

    def find(self, name: str) -> list[str]:
        """The exported paths that match ``name``: a file, a pattern, or a folder (``name/``); empty if none does."""
        paths = [path for group in self.files.values() for path in group]
        if name.endswith("/"):
            return [name] if any(path.startswith(name) for path in paths) else []
        return [path for path in paths if fnmatchcase(path, name)]

    @property
    def family(self) -> Family:
        """The family of the base; SD 1.x if the facts do not contain it."""
        return FAMILIES[self.facts.get("family", SD1.name)]

    @property
    def words(self) -> list[str]:
        """The learned words that have separate files."""
        return list(self.facts.get("words", [self.facts["name"]]))


def rows(export: Export) -> Iterator[Row]:
    """One row for each program: all of PROGRAMS, then others that load a file of these formats."""
    encoders = len(export.family.text_encoders)
    uses = [use for form in export.files for use in USES.get(form, ())]
    own = {use.program for use in uses if use.encoders == encoders}
    fitting = [use for use in uses if use.encoders == (encoders if use.program in own else 0)]
    possible = [row for use in fitting if (row := _row(use, export))]
    for program in dict.fromkeys((*PROGRAMS, *(row.program for row in possible))):
        yield from [row for row in possible if row.program == program] or [Row(program, ())]


def _row(use: Use, export: Export) -> Row | None:
    """The row of a use, with its files; None if a file was not exported."""
    files: list[tuple[str, str]] = []
    for pattern, folder in use.files:
        names = dict.fromkeys(pattern.format(stem=export.stem, word=file_name(word)) for word in export.words)
        for name in names:
            paths = export.find(name)
            if not paths:
                return None
            files += [(path, folder) for path in paths]
    values = {"stem": export.stem, "method": export.method, "export": export.folder}
    prompt = _prompt(use, export)
    code = _code(use, export, prompt, use.negative.format(**values)) if use.code else ""
    return Row(use.program, files, use.how.format(**values), prompt, use.negative.format(**values), code)


def _prompt(use: Use, export: Export) -> str:
    """An example prompt, in the program's syntax."""
    name = str(export.facts["name"]) if export.trigger else ""
    if use.word:
        for word in export.words:
            name = name.replace(word, use.word.format(file_name(word)))
    text = fill(export.prompt, name)
    return f"{text} {use.tag.format(stem=export.stem)}".strip()


def _code(use: Use, export: Export, prompt: str, negative: str) -> str:
    """Python that draws with diffusers, from the root of the project."""
    base = str(export.facts.get("base", ""))
    kind, load = "DiffusionPipeline", "from_pretrained"
    if base.endswith((".safetensors", ".ckpt")):
        kind, load = export.family.index["_class_name"], "from_single_file"
    values = {"export": export.folder, "stem": export.stem, "prompt": repr(prompt)}
    values |= {"words": repr([file_name(word) for word in export.words])}
    values |= {"noise_level": str(export.facts.get("noise_level", 0))}
    body = use.code.format(**values)
    lines = [f"from diffusers import {kind}", ""]
    if "pipe = " in body:
        lines[0] = "from diffusers import DiffusionPipeline"
    else:
        lines.append(f'pipe = {kind}.{load}("{base}")')
    lines.append(body)
    if "pipe(" not in body:
        negative_argument = f", negative_prompt={negative!r}" if negative else ""
        lines.append(f'pipe({prompt!r}{negative_argument}).images[0].save("{export.stem}.png")')
    return "\n".join(lines)
