from dataclasses import replace

import pytest
import torch

from data.errors import UserError
from nas.batch_size import automatic_batch_size, crowded_batch, largest_batch
from nas.recipe import Recipe
from tests.tiny_training import FIT, tiny_network


class Device:
    """Has memory for so many images; remembers what was tried."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.tried: list[int] = []

    def __call__(self, images: int) -> None:
        self.tried.append(images)
        if images > self.room:
            raise torch.OutOfMemoryError(f"{images} images")


@pytest.mark.parametrize("room", [1, 2, 5, 8, 9, 31, 32, 100])
@pytest.mark.parametrize("start", [1, 8, 12, 64])
def test_it_fits_and_twice_as_much_does_not(room: int, start: int) -> None:
    device = Device(room)
    size, reason = largest_batch(device, start, 128)
    assert size <= room
    assert min(tried for tried in [*device.tried, 129] if tried > size) > min(room, 128)
    assert reason.startswith(f"batch size {size}: ")
    assert len(device.tried) == len(set(device.tried))


def test_the_reason_names_what_did_not_fit() -> None:
    assert largest_batch(Device(40), 8, 128)[1].endswith("the largest that fits, 64 did not")
    assert largest_batch(Device(10), 32, 128)[1] == "batch size 8: 16 did not fit"
    assert largest_batch(Device(1000), 8, 64) == (
        64,
        "batch size 64: fits, and twice as many would be over the most, 64",
    )


def test_no_room_for_one_image_is_the_users_to_put_right() -> None:
    with pytest.raises(UserError, match=r"out of memory with one image; use a smaller image_size"):
        largest_batch(Device(0), 16, 64)


def test_a_start_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"start must be in 1\.\.64, got 0"):
        largest_batch(Device(8), 0, 64)


def test_on_the_cpu_it_is_the_recipes() -> None:
    size, reason = automatic_batch_size(tiny_network(), Recipe(fit=replace(FIT, batch_size=3)))
    assert (size, reason) == (3, "batch size 3: the recipe's, on the CPU")


def test_a_crowd_lies_in_the_picture() -> None:
    batch = crowded_batch(2, 64)
    assert batch.wanted.all()
    assert batch.boxes_xyxy.min() >= 0
    assert batch.boxes_xyxy.max() <= 64
    assert (batch.boxes_xyxy[..., 2:] > batch.boxes_xyxy[..., :2]).all()


@pytest.mark.gpu
def test_on_cuda_a_batch_is_found_that_fits() -> None:
    recipe = Recipe(fit=replace(FIT, batch_size=512))
    network = tiny_network().cuda()
    size, reason = automatic_batch_size(network, recipe)
    assert size >= 1
    assert str(size) in reason
