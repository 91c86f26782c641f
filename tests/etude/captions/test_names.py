"""Which names describe a picture: those that people give, and those of cameras, phones, programs and sites."""

import pytest

from etude.captions.names import words_of_name

DESCRIBING = {
    "red fox.png": "red fox",
    "red_fox-in+the.snow.jpg": "red fox in the snow",
    "sub/deep/noto-otter-on-a-red-background.png": "noto otter on a red background",
    "00012-3456789-a red fox.png": "a red fox",
    "0007-red_fox-2.jpg": "red fox",
    "0007-red_fox-3.png": "red fox",
    "-12 fox": "fox",
    "fox (1).jpeg": "fox",
    "fox copy 3.png": "fox",
    "3d-render of a fox.png": "3d render of a fox",
    "3d render.png": "3d render",
    "IMG_2931 fox.JPG": "fox",
    "a photo of a fox.png": "a photo of a fox",
    "user_a_red_fox_8f3b1c9e-4b1d-4c55-9a0e-0123456789ab.png": "user a red fox",
    "Öl auf Leinwand.png": "Öl auf Leinwand",
    "狐.png": "狐",
    "car 1980 red.jpg": "car 1980 red",
    "a red fox in snow.png": "a red fox in snow",
    "DALL·E 2024-01-31 14.22.33 - a red fox.png": "a red fox",
    "DALL·E 2024-01-31 14.22.33 - a red fox in snow.png": "a red fox in snow",
    "00042-0-a red fox in snow.png": "a red fox in snow",
    "fox2.png": "fox",
    "cat01.jpg": "cat",
    "Dog.1.jpg": "Dog",
    "1girl.png": "1girl",
    "1girl solo red hair.png": "1girl solo red hair",
    "red fox_edited.jpg": "red fox",
    "red fox HDR.jpg": "red fox",
    "20240131_fox.jpg": "fox",
    "red-fox-1234567_1280.jpg": "red fox",
    "Default_a_red_fox_in_snow_0_8f3b1c9e-4b1d-4c55-9a0e-0123456789ab.jpg": "a red fox in snow",
    "__hatsune_miku_vocaloid_drawn_by_one__0123456789abcdef0123456789abcdef.jpg": "hatsune miku vocaloid drawn by one",
    "Anna at the beach.jpg": "Anna at the beach",
    "sunset over lake 003.jpg": "sunset over lake",
    "my dog rex.jpg": "my dog rex",
    "Fuchs im Schnee.jpg": "Fuchs im Schnee",
    "Fuchs_im_Schnee_02.jpg": "Fuchs im Schnee",
    "un renard dans la neige.jpg": "un renard dans la neige",
    "лиса в снегу.jpg": "лиса в снегу",
    "portrait of a woman.webp": "portrait of a woman",
    "old man's hands.jpg": "old man's hands",
    "noto-owl.png": "noto owl",
    "picture of two owls.png": "picture of two owls",
    "night city 4k.png": "night city 4k",
    "the red barn (2).jpg": "the red barn",
    "grandma-kitchen-1972.jpg": "grandma kitchen",
    "green_vase_front_view.png": "green vase front view",
    "vase-top.png": "vase top",
    "blue teapot, side.png": "blue teapot side",
    "otter_07.png": "otter",
    "tree frog on leaf 12.jpg": "tree frog on leaf",
    "Screenshot of a game.png": "Screenshot of a game",
    "2024-01-31 red fox in garden.jpg": "red fox in garden",
    "watercolor_landscape_sample.png": "watercolor landscape",
    "Rex and Bella 2023-07-01.jpg": "Rex and Bella",
    "golden retriever puppy-1.png": "golden retriever puppy",
}
SILENT = """
0001.png | 000123-45.png | IMG_2931.JPG | DSC01234.jpg | DSC_0001-2.jpg | PXL_20240101_101010123.MP.jpg
9f86d081884c7d65.png | 8f3b1c9e-4b1d-4c55-9a0e-0123456789ab.webp | Screenshot 2024-01-01 at 10.10.10 AM.png
WhatsApp Image 2024-01-01 at 10.10.10.jpeg | image (3).png | photo_2.jpg | a.png | x7.png | __.png | 1920x1080.png
IMG-20240131-WA0001.jpg | VID-20240131-WA0001.jpg | FB_IMG_1706712345678.jpg | image0.jpeg | frame_0001.png
ComfyUI_00012_.png | ComfyUI_temp_qxzvb_00001_.png | e621_1234567_abc.png | received_1234567890.jpeg
Resized_20240131_142233.jpg | IMG_1234_edited.jpg | IMG_E1234.JPG | IMG_20240131_142233_HDR.jpg
PXL_20240131_142233.PORTRAIT.jpg | Snapchat-123456789.jpg | Instagram_1.jpg | Untitled design (1).png
lv_0_20240131.jpg | Screenshot_20240131-142233_Instagram.jpg | b1946ac92492d2347c6235b4d2611184.jpg
danbooru_5551234_abcdef0123456789.jpg | n02085620_7.JPEG | video-thumb.jpg | gettyimages-1234567-612x612.jpg
pexels-photo-12345.jpeg | unsplash-xYz12AbC.jpg | pexels-john-doe-1234567.jpg | john-doe-xYz12AbC-unsplash.jpg
Photo on 31-01-2024 at 14.22.jpg | Screen Shot 2024-01-31 at 2.22.33 PM.png | Image from iOS.jpg | FullSizeRender.jpg
IMG_1234-EFFECTS.jpg | IMG_1234-COLLAGE.jpg | signal-2024-01-31-142233.jpg | signal-2024-01-31-14-22-33-123.jpg
telegram-cloud-photo-size-4-5433614312345678901-y.jpg | photo_5438902713_y.jpg | photo_2024-01-31_14-22-33.jpg
inbound1234567890.jpg | B612_20240131_142233_123.jpg | SNOW_20240131_142233_123.jpg
Picsart_24-01-31_14-22-33-123.jpg | PicsArt_01-31-02.22.33.jpg | InShot_20240131_142233123.jpg
Facetune_31-01-2024-14-22-33.jpg | Polish_20240131_142233123.jpg | LINE_1234567890.jpg
KakaoTalk_20240131_142233123.jpg | mmexport1706712345678.jpg | wx_camera_1706712345678.jpg
Messenger_creation_8f3b1c9e-4b1d-4c55-9a0e-0123456789ab.jpeg | 12345678_p0_master1200.jpg | FabCdEfXgAA1_2b.jpg
aB3dE5f.jpg | wallhaven-abc123.jpg | 12345678_10203040506_1234567890_n.jpg | 4567890123_abcdef1234_o.jpg
Photo Jan 31, 2 22 33 PM.jpg | P_20240131_142233_vHDR_Auto.jpg | IMG_20240131_142233_BURST001_COVER.jpg
00000IMG_00000_BURST20240131142233123_COVER.jpg | MVIMG_20200101_101010.jpg | PANO_20240131_142233.jpg | CSC_0001.jpg
_DSC1234.jpg | _MG_1234.jpg | IMGP1234.jpg | GOPR0001.jpg | G0010001.jpg | DJI_0001.jpg | SAM_0001.jpg | SDC10001.jpg
HPIM1234.jpg | PICT0001.jpg | CIMG0001.jpg | 100_1234.jpg | P1010001.jpg | R0001234.jpg | L1000123.jpg
WIN_20240131_14_22_33_Pro.jpg | CamScanner 01-31-2024 14.22.jpg | Scan_20240131.jpg | Scan 12.png | Slide1.png
Picture1.png | Clipboard01.jpg | Capture.png | Untitled-1.png | New Project (1).png | Layer 1.png | Artboard 1.png
Asset 1@2x.png | maxresdefault.jpg | hqdefault.jpg | thumbnail.png | avatar.png | unnamed.jpg | download (1).jpg
00012-3141592653.png | grid-0001.png | tmpabcd1234.png | 2024-01-31_14-22-33_1234.png | SPOILER_image.png
unknown.png | Gemini_Generated_Image_abc123def456.png | ChatGPT Image Jan 31, 2024, 02_22_33 PM.png
txt2img-00012.png | AnimateDiff_00001.png | 20240131_142233.jpg | 20240131_142233(0).jpg | out-0001.png | flip.1.png
shutterstock_1234567890.jpg | AdobeStock_123456789.jpeg | istockphoto-1234567-612x612.jpg
Bildschirmfoto 2024-01-31 um 14.22.33.png | Capture d’écran 2024-01-31 142233.png
Captura de pantalla 2024-01-31 142233.png | スクリーンショット 2024-01-31 14.22.33.png | 微信图片_20240131142233.jpg
Schermafbeelding 2024-01-31 om 14.22.33.png | image_2024-01-31_142233.png | IMG_20240131.jpg
LRM_EXPORT_20240131_142233.jpg | XT2A1234.jpg | DSC_0001_01.jpg | Snapseed.jpg | collage_20240131.jpg
tumblr_abc123def_1280.jpg | pinterest_12.jpg | OIG.abcD12eF.jpg
"""


@pytest.mark.parametrize(("source", "words"), DESCRIBING.items())
def test_the_words_of_a_name_are_its_caption(source: str, words: str) -> None:
    assert words_of_name(source) == words


@pytest.mark.parametrize("source", [name for line in SILENT.split("\n") for name in line.split(" | ") if name])
def test_names_that_say_nothing_give_no_caption(source: str) -> None:
    assert words_of_name(source) is None


@pytest.mark.parametrize("word", ["beetroot", "computer", "paperclip", "scooter", "twitter owl"])
def test_a_word_that_clip_reads_in_two_pieces_describes_too(word: str) -> None:
    assert words_of_name(f"{word}.png") == word


@pytest.mark.parametrize("name", ["qxzvbk", "maxresdefault", "abdefgh", "ztrk"])
def test_letters_that_are_no_word_give_no_caption(name: str) -> None:
    assert words_of_name(f"{name}.png") is None
