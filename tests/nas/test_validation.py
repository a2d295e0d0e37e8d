import numpy as np
import pytest

from data.errors import UserError
from data.sample import Faces, Sample
from data.sources import SubsetSource, hold_out
from nas.validation import Validation
from tests.data.drawn_faces import DrawnFaces
from tests.tiny_training import CPU, tiny_network

SOURCE = DrawnFaces(count=4, width=96, height=64)


class Empty:
    """One image without a face."""

    description = "an empty image"

    def fingerprint(self) -> str:
        return "0"

    def __len__(self) -> int:
        return 1

    def load(self, index: int) -> Sample:
        return Sample(np.zeros((64, 64, 3), np.uint8), Faces.of(np.zeros((0, 4))), str(index))


def test_images_fill_squares_and_keep_their_faces() -> None:
    validation = Validation(SOURCE, image_size=192, device=CPU, seed=0)
    assert validation.images.shape == (4, 192, 192, 3)
    for index, faces in enumerate(validation.faces):
        wanted = SOURCE.load(index).faces
        assert np.allclose(faces.boxes_xyxy, 2 * wanted.boxes_xyxy)


def test_a_network_is_judged_the_same_every_time() -> None:
    validation = Validation(SOURCE, image_size=64, device=CPU, seed=0)
    network = tiny_network().eval()
    first = validation(network)
    assert 0 <= first["ap"] <= 1
    assert first["ap_interval"][0] <= first["ap_interval"][1]
    assert validation(network) == first


def test_images_without_faces_are_refused() -> None:
    with pytest.raises(UserError, match=r"no face to be found at 64 px .* validate_every=0"):
        Validation(Empty(), image_size=64, device=CPU, seed=0)


def test_what_is_held_out_is_not_trained_on() -> None:
    kept, held = hold_out(SOURCE, 0.25, most=10, seed=0)
    assert sorted((*kept.indices, *held.indices)) == [0, 1, 2, 3]
    assert (len(kept), len(held)) == (3, 1)
    assert isinstance(held, SubsetSource)
    assert np.array_equal(held.load(0).image, SOURCE.load(held.indices[0]).image)
    assert len({SOURCE.fingerprint(), kept.fingerprint(), held.fingerprint()}) == 3
    assert len(hold_out(SOURCE, 0.75, most=2, seed=0)[1]) == 2
    assert hold_out(SOURCE, 0.25, most=10, seed=0)[1].indices == held.indices
    with pytest.raises(UserError, match="at least 2 images"):
        hold_out(Empty(), 0.25, most=10, seed=0)
