"""Words in the names of files that say nothing about the picture, by where they come from."""

from __future__ import annotations

# Codes of devices, suffixes, and technical words for what was done with a file: left out at the ends of a name.
FILE_CODES = frozenset({
    "img", "imag", "imgp", "dsc", "dscn", "dscf", "dcim", "dcp", "csc", "cimg", "hpim", "pict", "pxl", "mvimg", "vid",
    "gopr", "sdc", "kic", "lrm", "hdr", "vhdr", "mp", "mv", "jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff",
    "heic", "tmp", "temp", "orig", "cropped", "resized", "upscaled", "upscale", "thumbnail", "img2img", "txt2img",
})  # fmt: skip
# Programs and sites whose names have no other meaning. A word next to one may belong to it: "telegram cloud".
PROGRAMS = frozenset({
    "ios", "whatsapp", "telegram", "fb", "insta", "snapchat", "tiktok", "snaptik", "wechat", "weixin", "kakaotalk",
    "imgur", "flickr", "pixiv", "danbooru", "gelbooru", "konachan", "pixabay", "gettyimages", "getty", "istock",
    "istockphoto", "shutterstock", "adobestock", "freepik", "alamy", "bigstock", "canstockphoto", "dreamstime",
    "depositphotos", "wallhaven", "comfyui", "invokeai", "novelai", "sdxl", "dall", "dalle", "midjourney", "chatgpt",
    "ideogram", "craiyon", "generated", "stablediffusion", "photoroom", "snapseed", "vsco", "picsart", "facetune",
    "faceapp", "inshot", "capcut", "canva", "photoshop", "lightroom", "camscanner", "beautyplus", "remini", "vlcsnap",
    "bandicam", "deviantart", "nightcafe", "recraft",
})  # fmt: skip
# Programs, makers and devices whose names are also ordinary words: "gemini constellation", "signal tower", "old canon".
ALSO_WORDS = frozenset({
    "adobe", "firefly", "gemini", "leonardo", "grok", "flux", "bing", "creator", "creation", "creations", "messenger",
    "signal", "line", "discord", "viber", "iphone", "ipad", "android", "gopro", "dji", "canon", "nikon", "olympus",
    "fujifilm", "lumix", "eos", "sony", "kodak", "leica", "samsung", "xiaomi", "redmi", "huawei", "nokia", "motorola",
    "epson", "sam", "win", "pano", "burst", "pexels", "unsplash", "pixel", "pro", "mini", "ultra", "default",
    "stable", "diffusion", "facebook", "instagram", "twitter", "pinterest", "reddit", "tumblr",
})  # fmt: skip
# What was done with a file. After a description they are removed; before one they belong to it: "final fantasy".
EDITS = frozenset({
    "edited", "edit", "final", "copy", "original", "crop", "resize", "scaled", "rotated", "flipped", "flip",
    "mirrored", "compressed", "converted", "export", "exported", "preview", "thumb", "sample", "effects", "upload",
    "uploaded", "download", "downloaded", "output", "out", "result", "test", "at", "am", "pm", "jan", "feb", "mar",
    "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec",
})  # fmt: skip
# They only name the kind of file, its place, or a page: "a photo of a fox" describes, "photo 12" does not.
FILE_WORDS = frozenset({
    "image", "images", "photo", "photos", "pic", "pics", "picture", "pictures", "screen", "shot", "shots", "scan",
    "scanned", "scans", "capture", "clip", "video", "movie", "mov", "frame", "frames", "page", "slide", "layer",
    "layers", "artboard", "group", "asset", "rectangle", "component", "document", "doc", "collage", "size", "design",
    "project", "post", "bitmap", "clipboard", "profile", "avatar", "banner", "icon", "cover", "snapshot", "snip",
    "webcam", "camera", "still", "artwork", "illustration", "desktop", "large", "medium", "small", "full", "mask",
    "masks", "stock", "item", "data", "dataset", "batch", "seed", "grid", "file", "files", "placeholder",
    "attachment", "received", "sent", "inbound", "spoiler", "unknown", "untitled", "unnamed", "train", "val",
    "wallpaper",
    # German, Dutch and the Nordic languages, French, Spanish, Portuguese and Italian, Polish, Czech, Hungarian, Turkish
    "bild", "bilder", "grafik", "kamera", "projekt", "écran", "d'écran", "d’écran", "pantalla", "tela", "projet",
    "proyecto", "projeto", "progetto", "foto", "fotos", "datei", "dokument", "seite", "unbenannt", "titel", "ohne",
    "maske", "afbeelding", "afbeeldingen", "beeld", "naamloos", "billede", "billeder", "bilde", "kuva", "namnlös",
    "nimetön", "titre", "sans", "numérisation", "imagen", "imágenes", "fotografía", "título", "titulo", "sin",
    "captura", "imagem", "imagens", "sem", "immagine", "immagini", "titolo", "senza", "scansione", "zdjęcie",
    "zdjęcia", "obraz", "skan", "tytułu", "bez", "obrázek", "fotka", "názvu", "kép", "fénykép", "névtelen", "resim",
    "fotoğraf", "görüntü", "adsız",
    # Russian and Ukrainian, Chinese, Japanese, Korean, Arabic, Hindi
    "фото", "фотография", "изображение", "картинка", "рисунок", "скан", "документ", "имени", "без", "безымянный",
    "зображення", "знімок", "图片", "圖片", "照片", "相片", "图像", "影像", "无标题", "未命名", "写真", "画像",
    "名称未設定", "無題", "スキャン", "イメージ", "사진", "이미지", "그림", "제목", "없음", "캡처", "프로젝트", "새",
    "新しいプロジェクト", "صورة", "चित्र", "फोटो",
})  # fmt: skip
# A picture of a screen. Next to a date, such a name contains the program on the screen, not what it showed.
SCREENSHOTS = frozenset({
    "screenshot", "screenshots", "screencapture", "bildschirmfoto", "schermafbeelding", "skärmavbild", "skärmbild",
    "skjermbilde", "skærmbillede", "schermata", "smartselect", "スクリーンショット", "屏幕截图", "屏幕快照", "截屏",
    "截图", "螢幕擷取畫面", "螢幕快照", "스크린샷", "снимок", "скриншот",
})  # fmt: skip
# Words that connect others: alone they say nothing.
STOP_WORDS = frozenset({
    "the", "and", "from", "with", "for", "not", "this", "that", "are", "was", "its", "his", "her", "our", "new",
    "old", "all", "you", "your", "by", "of", "on", "in",
})  # fmt: skip
# Next to these words, the others are the photographer's name.
PHOTOGRAPHER = frozenset({"pexels", "unsplash"})

ALWAYS_CUT = FILE_CODES | PROGRAMS
CUT_BEHIND = ALWAYS_CUT | EDITS  # removed at the end of a name
CUT_BEFORE = CUT_BEHIND | ALSO_WORDS  # removed at its beginning, if it has a code or a program's name
SAYS_NOTHING = ALWAYS_CUT | ALSO_WORDS | EDITS | FILE_WORDS | SCREENSHOTS | STOP_WORDS
NO_DESCRIPTION = SAYS_NOTHING - STOP_WORDS
