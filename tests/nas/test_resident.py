"""Crops on the device give the batches that the processor would have cut."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data.augment import LIGHT, OFF, AugmentSettings
from data.loader import ShardLoader
from data.shards import ShardSet, open_shards
from nas.fitting import FitSettings, images_to_tensor
from nas.resident import ResidentLoader, crops_on, light_batches
from search_spaces.network import build
from tests.tiny_training import SMALLEST, fitted, tiny_shards

CPU = torch.device("cpu")
CUDA = pytest.param("cuda", marks=pytest.mark.gpu)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    _, folder = tiny_shards(tmp_path_factory.mktemp("shards"))
    return open_shards(folder)


def loader_of(shards: ShardSet, *, image_size: int, augment: AugmentSettings | None) -> ShardLoader:
    return ShardLoader(shards, batch_size=5, image_size=image_size, seed=3, augment=augment)


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("augment", [None, OFF, LIGHT])
@pytest.mark.parametrize("image_size", [32, 64])
def test_batches_are_those_of_the_loader(
    shards: ShardSet, device: str, augment: AugmentSettings | None, image_size: int
) -> None:
    loader = loader_of(shards, image_size=image_size, augment=augment)
    resident = ResidentLoader(loader, torch.from_numpy(shards.images).to(device))
    assert resident.batches_per_epoch == loader.batches_per_epoch
    mirrored = 0
    for step in range(6):
        expected, batch = loader.batch(step), resident.batch(step)
        assert isinstance(batch.images, torch.Tensor)
        assert batch.images.device.type == device
        assert batch.images.dtype == torch.uint8
        assert np.array_equal(batch.images.cpu().numpy(), expected.images)
        for name in ("boxes_xyxy", "wanted", "ignore"):
            assert np.array_equal(getattr(batch, name), getattr(expected, name))
        mirrored += sum(picture.view.mirrored for picture in loader.pictures(step))
    assert (mirrored > 0) == (augment is LIGHT)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_a_fit_learns_the_same_from_them(shards: ShardSet, device: str) -> None:
    settings = FitSettings(steps=2, batch_size=2, image_size=64)
    there = torch.from_numpy(shards.images).to(device)
    results = []
    for crops in (None, there):
        torch.manual_seed(0)
        network = build(SMALLEST).to(device)
        batches = light_batches(shards, settings, seed=0, crops=crops)
        results.append(fitted(network, batches, settings).state_dict())
    for one, other in zip(*(result.values() for result in results), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("changes", [{"zoom": 1.1}, {"brightness": 0.1}, {"contrast": 1.1}])
def test_crops_that_would_have_to_be_drawn_anew_are_refused(
    shards: ShardSet, changes: dict[str, float]
) -> None:
    loader = loader_of(shards, image_size=64, augment=replace(LIGHT, **changes))
    with pytest.raises(ValueError, match="augment must leave scale and light alone"):
        ResidentLoader(loader, torch.from_numpy(shards.images))


def test_crops_lie_on_a_device_that_has_room_for_them(shards: ShardSet) -> None:
    meta = torch.device("meta")  # any device that is not the processor
    size = shards.images.nbytes
    assert crops_on(CPU, shards) is None
    assert crops_on(meta, shards, free_bytes=lambda _: 2 * size - 1) is None
    crops = crops_on(meta, shards, free_bytes=lambda _: 2 * size)
    assert crops is not None
    assert crops.shape == shards.images.shape
    assert crops.device == meta


@pytest.mark.gpu
def test_cuda_tells_its_free_memory(shards: ShardSet) -> None:
    crops = crops_on(torch.device("cuda"), shards)
    assert crops is not None
    assert images_to_tensor(crops[:2], torch.device("cuda")).shape == (2, 3, 64, 64)
