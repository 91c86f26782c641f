from __future__ import annotations

from etude.core.beside.repeats import repeated_folders, repeats_of


def test_folders_with_repeats_and_a_prompt_are_found_by_their_names() -> None:
    names = ["10_sks dog/a.png", "deep/1_dog/b.png", "2024_holiday/c.png", "sub/d.png", "3_e.png", "100_x/y/f.png"]
    assert repeated_folders(names) == ["100_x", "10_sks dog", "1_dog"]


def test_a_picture_counts_as_often_as_its_nearest_folder_says_and_the_larger_number_of_equal_ones() -> None:
    assert repeats_of(["10_sks dog/a.png"]) == repeats_of(["2_x/10_sks dog/deep/a.png"]) == 10
    assert repeats_of(["a.png"]) == repeats_of(["2024_holiday/3_a.png"]) == repeats_of(["01_dog/a.png"]) == 1
    assert repeats_of(["1_dog/a.png", "10_sks dog/b.png", "c.png"]) == 10
    assert repeats_of(["0_dog/a.png"]) == 0
