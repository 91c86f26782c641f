import pytest

from etude.captions.names import words_of_name


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("red fox.png", "red fox"),
        ("red_fox-in+the.snow.jpg", "red fox in the snow"),
        ("sub/deep/noto-otter-on-a-red-background.png", "noto otter on a red background"),
        ("00012-3456789-a red fox.png", "a red fox"),
        ("0007-red_fox-2.jpg", "red fox"),
        ("-12 fox", "fox"),
        ("fox (1).jpeg", "fox"),
        ("fox copy 3.png", "fox"),
        ("3d-render of a fox.png", "3d render of a fox"),
        ("IMG_2931 fox.JPG", "fox"),
        ("a photo of a fox.png", "a photo of a fox"),
        ("user_a_red_fox_8f3b1c9e-4b1d-4c55-9a0e-0123456789ab.png", "user a red fox"),
        ("Öl auf Leinwand.png", "Öl auf Leinwand"),
        ("狐.png", "狐"),
        ("car 1980 red.jpg", "car 1980 red"),
    ],
)
def test_the_words_of_a_name_are_its_caption(source: str, words: str) -> None:
    assert words_of_name(source) == words


@pytest.mark.parametrize(
    "source",
    [
        "0001.png",
        "000123-45.png",
        "IMG_2931.JPG",
        "DSC01234.jpg",
        "DSC_0001-2.jpg",
        "PXL_20240101_101010123.MP.jpg",
        "9f86d081884c7d65.png",
        "8f3b1c9e-4b1d-4c55-9a0e-0123456789ab.webp",
        "Screenshot 2024-01-01 at 10.10.10 AM.png",
        "WhatsApp Image 2024-01-01 at 10.10.10.jpeg",
        "image (3).png",
        "photo_2.jpg",
        "a.png",
        "x7.png",
        "__.png",
        "1920x1080.png",
    ],
)
def test_names_that_say_nothing_give_no_caption(source: str) -> None:
    assert words_of_name(source) is None
