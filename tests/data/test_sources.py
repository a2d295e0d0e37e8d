from pathlib import Path

import numpy as np
import pytest

from data.errors import UserError
from data.sources import open_source, ready_to_train
from data.synthetic import SyntheticSource
from tests.data.drawn_faces import DrawnFaces


def test_without_a_folder_faces_are_drawn_a_fifth_as_many_for_validation() -> None:
    assert len(open_source(None, "train", synthetic_images=23, seed=0)) == 23
    assert len(open_source(None, "val", synthetic_images=23, seed=0)) == 4
    assert len(open_source(None, "val", synthetic_images=1, seed=0)) == 1


def test_the_seed_and_the_split_decide_what_is_drawn() -> None:
    def first_image(split: str, seed: int) -> bytes:
        return open_source(None, split, synthetic_images=5, seed=seed).load(0).image.tobytes()

    assert first_image("train", 0) == first_image("train", 0)
    assert len({first_image(split, seed) for split in ("train", "val") for seed in (0, 1)}) == 4


def test_an_unknown_split_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"unknown split 'vall'; known: train, val\. Did you mean"):
        open_source(None, "vall", synthetic_images=5, seed=0)


def test_a_folder_that_is_not_there_is_the_users_to_put_right(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        open_source(tmp_path / "nowhere", "train", synthetic_images=5, seed=0)
    with pytest.raises(UserError, match=str(tmp_path)):
        open_source(tmp_path, "train", synthetic_images=5, seed=0)


@pytest.mark.real
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_folder_of_real_images_is_opened(wider_root: Path, split: str) -> None:
    source = open_source(wider_root, split, synthetic_images=5, seed=0)
    assert split in source.description
    assert len(source) > 0


def test_drawn_images_are_held_in_memory_and_stay_the_same() -> None:
    source = SyntheticSource(count=3, image_size=64)
    heard: list[tuple[str, int, int]] = []
    held = ready_to_train(source, workers=1, progress=lambda *step: heard.append(step))
    assert (len(held), held.description) == (3, source.description)
    assert held.fingerprint() == source.fingerprint()
    for index in range(3):
        one, other = held.load(index), source.load(index)
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.faces.boxes_xyxy, other.faces.boxes_xyxy)
        assert held.load(index) is one
    assert heard == [("draw", done, 3) for done in (1, 2, 3)]


def test_images_from_a_disk_are_not_held() -> None:
    source = DrawnFaces()
    assert ready_to_train(source, workers=1) is source
