"""Captions from the words of a file's name, where these describe the picture.

Cameras, phones and programs name files, too. They write numbers, dates and codes, with words of their own around them.
So a caption needs a word that the language has (CLIP's tokenizer reads it in two pieces at most) and that no program
writes. Beside a date, a long number or a code it needs two such words in a row: one may be the program's name. A name
of which this is not sure gives no caption.
"""

from __future__ import annotations

import gzip
import re
from functools import cache
from pathlib import Path, PurePosixPath

VOCABULARY = Path(__file__).parents[1] / "base/configs/clip_merges.txt.gz"  # a dep of *caption*
# A1111's rule: leading digits and dashes are a serial number. Not so in "3d render" and "4k".
NUMBER = re.compile(r"^(?!\d+[a-zA-Z])[-\d]+\s*")
COPY = re.compile(r"\s*(\(\d+\)|\bcopy( \d+)?)\s*$", re.IGNORECASE)  # "name (1)", "name copy 2"
CODE = "\0"  # stands for what a program wrote
CODES = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"  # a UUID
    r"|(?<!\d)\d{2,4}[-._]\d{1,2}[-._]\d{2,4}(?!\d)"  # a date, or a time of day
    r"|(?<!\d)\d{1,2}[.:]\d{2}(?:[.:]\d{2})?(?!\d)",
    re.IGNORECASE,
)
LONG = 6  # digits from which on a number is a date or an id
COUNTER = re.compile(r"0\d{3,}")  # programs count so, at the end of a name: frame_0001
BETWEEN = re.compile(r"[\s_\-+.,;~@=&()\[\]{}]+")
GLUED = re.compile(r"(?P<before>\d{0,2})(?P<word>[^\W\d_]+(?:['’][^\W\d_]+)*)(?P<after>\d{0,2})")
SHORTEST = 3  # letters of a word that describes

# Words of devices, programs and sites, and of what was done with a file. At the ends of a name they are left out.
PROGRAM_WORDS = frozenset({
    "img", "imag", "imgp", "dsc", "dscn", "dscf", "dcim", "dcp", "csc", "cimg", "hpim", "pict", "pxl", "mvimg", "vid",
    "mov", "gopr", "gopro", "dji", "pano", "burst", "sam", "sdc", "kic", "win", "lrm", "pro", "auto", "hdr", "vhdr",
    "iphone", "ipad", "ios", "android", "whatsapp", "signal", "telegram", "fb", "messenger", "insta", "snapchat",
    "tiktok", "line", "wechat", "kakaotalk", "imgur", "flickr", "pixiv", "danbooru", "gelbooru", "pixabay",
    "gettyimages", "getty", "istock", "istockphoto", "shutterstock", "adobestock", "freepik", "alamy", "wallhaven",
    "comfyui", "dall", "dalle", "midjourney", "chatgpt", "gemini", "generated", "photoroom", "snapseed", "vsco",
    "picsart", "facetune", "inshot", "capcut", "canva", "photoshop", "lightroom", "camscanner", "received", "sent",
    "inbound", "spoiler", "unknown", "untitled", "unnamed", "download", "downloaded", "upload", "uploaded", "export",
    "exported", "cropped", "crop", "edited", "edit", "effects", "resized", "resize", "scaled", "upscaled", "upscale",
    "rotated", "flipped", "flip", "mirrored", "compressed", "converted", "orig", "original", "final", "copy", "temp",
    "tmp", "out", "output", "result", "sample", "grid", "seed", "batch", "test", "dataset", "file", "files",
    "default", "thumb", "thumbnail", "preview", "placeholder", "attachment", "mp", "mv", "at", "am", "pm", "jpg",
    "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "heic", "jan", "feb", "mar", "apr", "jun", "jul", "aug",
    "sep", "sept", "oct", "nov", "dec",
})  # fmt: skip
# They name the kind of file, or a site, alone: "a photo of a fox" describes, "photo 12" does not.
FILE_WORDS = frozenset({
    "image", "images", "photo", "photos", "pic", "pics", "picture", "pictures", "screenshot", "screenshots", "screen",
    "shot", "shots", "scan", "scanned", "scans", "capture", "clip", "video", "frame", "frames", "page", "slide",
    "layer", "layers", "artboard", "group", "asset", "rectangle", "component", "document", "doc", "collage", "size",
    "design", "project", "post", "bitmap", "clipboard", "profile", "avatar", "banner", "icon", "cover", "creation",
    "facebook", "instagram", "twitter", "pinterest", "reddit", "tumblr", "discord", "snapshot", "snip", "webcam",
    "camera", "still", "artwork", "illustration", "desktop", "large", "medium", "small", "full",
})  # fmt: skip
# Words between words: alone they say nothing.
STOP_WORDS = frozenset({
    "the", "and", "from", "with", "for", "not", "this", "that", "are", "was", "its", "his", "her", "our", "new",
    "old", "all", "you", "your", "by", "of", "on", "in",
})  # fmt: skip
SAYS_NOTHING = PROGRAM_WORDS | FILE_WORDS | STOP_WORDS
# With these words the others are the photographer's name.
PHOTOGRAPHER = frozenset({"pexels", "unsplash"})


def words_of_name(source: str) -> str | None:
    """``sub/0007-red_fox-2.jpg`` → ``red fox``; None where none describe: ``IMG-20240131-WA0001.jpg``."""
    stem = COPY.sub("", NUMBER.sub("", PurePosixPath(source).stem))
    words = [word for word in BETWEEN.split(CODES.sub(f" {CODE} ", stem)) if word]
    if not PHOTOGRAPHER.isdisjoint(map(str.lower, words)):
        return None
    runs: list[list[str]] = [[]]
    for word in words:
        if _is_code(word) or (word is words[-1] and COUNTER.fullmatch(word)):
            runs.append([])
        else:
            runs[-1].append(word)
    least = 1 if len(runs) == 1 else 2
    telling = [run for run in map(_trimmed, runs) if _describes(run, least)]
    return " ".join(word for run in telling for word in run) or None


def _is_code(word: str) -> bool:
    """Whether a program wrote it: what CODES found, a long number, letters and digits mixed as in no word."""
    digits = sum(character.isdigit() for character in word)
    if word == CODE or digits >= LONG:
        return True
    return 0 < digits < len(word) and not GLUED.fullmatch(word)


def _trimmed(run: list[str]) -> list[str]:
    """Without numbers, signs and programs' words at its ends, and without a number glued to its last word."""

    def is_left_out(word: str) -> bool:
        return word.lower() in PROGRAM_WORDS or not any(map(str.isalpha, word))

    while run and is_left_out(run[-1]):
        run = run[:-1]
    while run and is_left_out(run[0]):
        run = run[1:]
    glued = GLUED.fullmatch(run[-1]) if run else None
    return [*run[:-1], glued["before"] + glued["word"]] if glued and glued["after"] else run


def _describes(run: list[str], least: int) -> bool:
    """Whether ``least`` of the words describe; words that CLIP does not know do, where no code is: two of them."""
    words = [found["word"].lower() for word in run if (found := GLUED.fullmatch(word))]
    words = [word for word in words if word not in SAYS_NOTHING]
    known = [word for word in words if _is_known(word)]
    if least > 1:
        return len(known) >= least
    foreign = [word for word in words if not word.isascii()]  # scripts without spaces say something with one word
    return bool(known or foreign) or sum(len(word) > 1 for word in words) > 1


def _is_known(word: str) -> bool:
    """Whether the language has it: CLIP's tokenizer has it whole, or in two pieces: ``cock`` and ``tail``."""
    begins, ends = _vocabulary()
    cuts = range(SHORTEST, len(word) - SHORTEST + 1)
    return (len(word) >= SHORTEST and word in ends) or any(word[:cut] in begins and word[cut:] in ends for cut in cuts)


@cache
def _vocabulary() -> tuple[frozenset[str], frozenset[str]]:
    """The pieces of CLIP's tokenizer that begin or continue a word, and those that end one or are a whole word."""
    lines = gzip.decompress(VOCABULARY.read_bytes()).decode("utf-8").splitlines()[1:]
    pieces = [line.replace(" ", "") for line in lines]
    begins = frozenset(piece for piece in pieces if not piece.endswith("</w>"))
    return begins, frozenset(piece.removesuffix("</w>") for piece in pieces if piece.endswith("</w>"))
