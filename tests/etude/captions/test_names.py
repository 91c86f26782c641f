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
    "DSC_0042 fox.jpg": "fox",
    "red_fox_0001.png": "red fox",
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
    "fox２.png": "fox",  # a full-width digit
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
    "DALL·E 2024-01-31 14.22.33 - a cat.png": "a cat",  # one word is enough behind " - "
    "final_fantasy.png": "final fantasy",
    "line_art_cat.png": "line art cat",
    "sample_of_fabric.png": "sample of fabric",
    "test_tube.png": "test tube",
    "test_01_fox.png": "fox",
    "red barn 1234.png": "red barn",
    "barn 1972.png": "barn",
    "sam_smith.png": "sam smith",
    "gemini constellation.png": "gemini constellation",
    "canon in front of the castle.png": "canon in front of the castle",
    "fotos de un gato.png": "fotos de un gato",
    "猫の写真.png": "猫の写真",
    "शेर.png": "शेर",  # its vowels are marks on letters
    "cafe\u0301 noir.png": "café noir",  # as macOS writes é
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
Photo 12.jpg | IMG_0001 (Edited).jpg | IMG_0042 2.HEIC | IMG_0042-1.jpg | DSC_0042_edit.jpg | image_123986.jpg
image-asset.jpeg | Image 1.png | picture-1234.jpg | pic_01.png | unnamed (1).png | download.jpeg | file.png
file_00000000abcd1234.png | Untitled.png | untitled_01.png | Unbenannt.png | Scan0001.jpg | scan_2024_01.tif
CCF01312024.jpg | 00001.png | 00001-1.png | frame00001.png | frame-123.jpg | video_frame_0042.png | clip_0001.png
thumb_0001.jpg | output_0001.png | output (3).png | result_01.png | sample_0.png | test_01.png | grid-0003.png
xyz_grid-0001-123456.png | img2img_00001.png | txt2img_20240131_123.png | inpaint_00002_.png | upscaled_00001.png
ComfyUI_00001_ (1).png | AnimateDiff_00003.gif | flux_00001_.png | SDXL_00012_.png | SD3_00001_.png
z-image_00001_.png | MJ_00012.png | OIG3.png | OIG.1234abcd.jpg | Leonardo_123456.jpg | generated_01.png
Gemini_Generated_Image_x8y7z6.png | ChatGPT Image 31. Jan. 2024, 14_22_33.png | Photo-1.jpeg
Photo 31-01-2024, 14 22 33.jpg | 2024-01-31 14.22.33.jpg | 20240131142233.jpg | 1706712345678.jpg
1706712345.123456.jpg | C3F2A1B0-1234-4ABC-9DEF-0123456789AB.JPG | 64-IMG_1234.jpg | IMG_1234~2.jpg
IMG-1234~photo.JPG | IMG_20240131_142233_1.jpg | IMG_20240131_142233-01.jpeg | IMG_20240131_142233_Bokeh.jpg
20240131_142233-COLLAGE.jpg | 20240131_142233-ANIMATION.gif | PXL_20240131_142233123.NIGHT.jpg
PXL_20240131_142233123~2.jpg | PXL_20240131_142233123.RAW-01.MP.COVER.jpg | PORTRAIT_20240131.jpg
Burst_Cover_GIF_Action_20240131142233.gif | SmartSelect_20240131-142233_Chrome.jpg
Screenshot_2024-01-31-14-22-33-123_com.instagram.android.jpg | Screenshot_20240131_142233_Gallery.jpg
Screenshot (12).png | Screenshot-1.png | Screen_Shot.png | Bildschirmfoto.png
Screenshot from 2024-01-31 14-22-33.png | Snip_01.png | Capture_2024.PNG
WhatsApp Image 2024-01-31 at 2.22.33 PM (1).jpeg | WhatsApp-Image-2024-01-31-at-14.22.33.jpg
signal-attachment-2024-01-31-142233.jpg | Telegram Desktop.jpg | photo_1@31-01-2024_14-22-33.jpg
received_1234567890123456.webp | messenger_1234.jpg | fb_1234567890.jpg | IG_20240131.jpg | insta_0042.png
Instagram post - 1.png | tiktok_7123456789.jpg | snap_20240131.jpg | viber_image_2024-01-31_14-22-33-123.jpg
Viber image 2024-01-31.jpg | zalo_1234.jpg | LINE_ALBUM_20240131_1.jpg | KakaoTalk_Photo_2024-01-31-14-22-33.jpeg
QQ图片20240131142233.jpg | Weixin Image_20240131.jpg | discord_unknown.png | maxresdefault (1).jpg | 0.jpg | 1 (12).jpg
1 (1).png | a (3).jpg | DSC_1234-Edit.jpg | DSC_1234-Pano.jpg | DSCF1234_resized.JPG | _DSF1234.jpg
DSC0001-Verbessert-RR.jpg | IMG_1234_1024x1024.jpg | 6P4A1234.jpg | 5D3_1234.jpg | YI000123.jpg | GX010042.jpg
GPTempDownload.jpg | DJI_20240131142233_0001_D.JPG | HNI_0001.JPG | PSX_20240131_142233.jpg | EffectiveImages.jpg
Edit_1.png | Edited Photo.jpg | New_Image.png | My photo.jpg | cropped-123.png | crop_0001.png | aug_0_1234.png
rotated_01.png | flipped_0042.png | 0001_flip.png | face_0001.png | train_0001.jpg | val_0001.jpg
n01440764_10026.JPEG | ILSVRC2012_val_00000001.JPEG | COCO_train2014_000000000009.jpg | 000000000009.jpg
celeba_000001.jpg | 00000.png | ffhq_00001.png | pixiv_12345678_p0.png | 12345678_p0.png
illust_12345678_20240131.png | konachan_123456.jpg | sample_0123456789abcdef0123456789abcdef.jpg | rule34_1234567.jpg
yande.re 123456.jpg | tumblr_oabc12defg1u3vwxyo1_1280.png | large.jpg | original.jpg | full.jpg | preview.jpg
IMG_0001_small.jpg | pexels-photo-1234567.jpeg | photo-1501234567890-abcdef123456.jpg
istockphoto-123456789-612x612.jpg | GettyImages-1234567890.jpg | shutterstock_1234567.jpg | dreamstime_xl_12345678.jpg
depositphotos_12345678-stock-photo.jpg | alamy-2ABC123.jpg | iStock-123456789.jpg | stock-photo-123456789.jpg
AdobeStock_123456789_Preview.jpeg | 360_F_123456789_abc.jpg | s-l1600.jpg | 61abcDEfGHL._AC_SL1500_.jpg
il_1588xN.1234567890_abcd.jpg | IMG.jpg | photo.jpg | snapshot.png | webcam_2024.jpg | cam1_2024-01-31.jpg
camera1_0001.jpg | Raspi_0001.jpg | still_0001.png | vlcsnap-2024-01-31-14h22m33s123.png | mpv-shot0001.jpg
shot0001.png | bandicam 2024-01-31 14-22-33-123.jpg | Minecraft_2024-01-31_14.22.33.png | 20240131142233_1.jpg
ScreenShot00012.png | HighresScreenshot00001.png | render_0001.png | 0001.exr | Camera_01_0001.png
Untitled_Artwork.png | Untitled_Artwork 3.png | Illustration.png | krita_0001.png
Gemini_Generated_Image_abc.png | telegram-cloud-photo-size-2-5.jpg | Screenshot_20240101-1201_com.android.chrome.png
Screenshot_20240131_142233_Samsung Internet.jpg | Midjourney_abc.png | Adobe_Express_20240131_1422330_1.png
Firefly_123.jpg | Adobe Scan 31 Jan 2024.jpg | Canon_EOS_R5.jpg | mask_01.png | stock-photo-12345.jpg | Foto_01.jpg
Bild (2).jpg | zdjęcie_1.jpg | фото_1.jpg | 写真_1.jpg | 图片1.png | 사진_1.jpg | ohne Titel.png | sans titre.png
無題.png | Без имени.png | www.example.com_12.jpg | IMG_1234 - Kopie.jpg
nightcafe_1234.png | barn 1234.png | Captura de pantalla (4).png
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
