import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.augment import AugmentSettings
from data.loader import (
    BatchSource,
    FullSizeLoader,
    FullSizeSettings,
    ShardLoader,
    join_batches,
    part_of_batch,
    prefetched,
    rows_of_batch,
)
from data.sample import Batch
from data.shards import ShardSet, ShardSettings, prepare_shards
from tests.data.drawn_faces import DrawnFaces

SOURCE = DrawnFaces(count=10)
Make = Callable[..., ShardLoader | FullSizeLoader]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    folder: Path = tmp_path_factory.mktemp("shards")
    settings = ShardSettings(image_size=96, full_size=320)
    return prepare_shards(SOURCE, folder, settings, workers=1)


@pytest.fixture(params=["shards", "full size"])
def make(request: pytest.FixtureRequest, shards: ShardSet) -> Make:
    """Makes either loader; the settings given replace those of a small sound one."""

    def loader(**changes: Any) -> ShardLoader | FullSizeLoader:
        settings: dict[str, Any] = {"batch_size": 4, "image_size": 64, "seed": 0, "augment": None}
        if request.param == "shards":
            return ShardLoader(shards, **(settings | changes))
        return FullSizeLoader(SOURCE, **(settings | changes))

    return loader


def assert_equal(one: Batch, other: Batch) -> None:
    for field in dataclasses.fields(Batch):
        assert np.array_equal(getattr(one, field.name), getattr(other, field.name)), field.name


def test_a_batch_depends_on_the_seed_and_the_step_alone(make: Make) -> None:
    one, same, other = (make(seed=seed, augment=AugmentSettings()) for seed in (0, 0, 1))
    one.batch(0)
    assert_equal(one.batch(7), same.batch(7))
    assert not np.array_equal(one.batch(7).images, one.batch(8).images)
    assert not np.array_equal(one.batch(7).images, other.batch(7).images)


def test_batches_are_full_and_well_formed(make: Make) -> None:
    loader: BatchSource = make(augment=AugmentSettings())
    for step in range(loader.batches_per_epoch):
        batch = loader.batch(step)
        assert batch.images.shape == (4, 64, 64, 3)
        assert batch.images.dtype == np.uint8
        assert batch.boxes_xyxy.shape[:2] == batch.wanted.shape == batch.ignore.shape
        assert not (batch.wanted & batch.ignore).any()
        boxes = batch.boxes_xyxy[batch.wanted]
        assert (boxes >= 0).all()
        assert (boxes <= 64).all()
        assert (boxes[:, 3] - boxes[:, 1] >= 4).all()


@pytest.mark.parametrize("batch_size", [1, 4, 7, 23])
def test_an_epoch_visits_every_image_once(make: Make, batch_size: int) -> None:
    loader = make(batch_size=batch_size)
    count = len(loader.shards) if isinstance(loader, ShardLoader) else len(loader.source)
    row = np.concatenate([loader.indices(step) for step in range(3 * loader.batches_per_epoch)])
    first, second = row[:count], row[count : 2 * count]
    assert sorted(first) == sorted(second) == list(range(count))
    assert first.tolist() != second.tolist()


def test_without_augmentation_whole_crops_come_as_they_are(shards: ShardSet) -> None:
    loader = ShardLoader(shards, batch_size=5, image_size=96, seed=0, augment=None)
    batch = loader.batch(0)
    for row, index in enumerate(loader.indices(0)):
        faces = shards.faces(int(index))
        assert np.array_equal(batch.images[row], shards.images[index])
        assert np.array_equal(batch.boxes_xyxy[row, : len(faces)], faces.boxes_xyxy)
        assert batch.wanted[row].sum() == (~faces.ignore).sum()


def test_augmented_faces_are_still_on_their_boxes(make: Make) -> None:
    loader = make(augment=AugmentSettings(brightness=0, contrast=1, colour=1))
    faces = 0
    for step in range(10):
        batch = loader.batch(step)
        for row, face in zip(*np.nonzero(batch.wanted), strict=True):
            x1, y1, x2, y2 = batch.boxes_xyxy[row, face]
            assert batch.images[row, int(y1 + y2) // 2, int(x1 + x2) // 2, 2] > 150
            faces += 1
    assert faces > 20


def test_mosaic_faces_are_still_on_their_boxes() -> None:
    views = FullSizeSettings(mosaic_share=1.0)
    augment = AugmentSettings(brightness=0, contrast=1, colour=1)
    loader = full_size(views, augment=augment, image_size=128)
    centres = []
    for step in range(10):
        batch = loader.batch(step)
        for row, face in zip(*np.nonzero(batch.wanted), strict=True):
            x1, y1, x2, y2 = batch.boxes_xyxy[row, face]
            assert batch.images[row, int(y1 + y2) // 2, int(x1 + x2) // 2, 2] > 150
            centres.append(((x1 + x2) / 2 > 64, (y1 + y2) / 2 > 64))
    assert len(set(centres)) == 4  # there are faces in all four corners


def full_size(views: FullSizeSettings, **changes: Any) -> FullSizeLoader:
    settings: dict[str, Any] = {"batch_size": 4, "image_size": 64, "seed": 0, "augment": None}
    return FullSizeLoader(SOURCE, **(settings | changes), views=views)


def sides_of_faces(loader: FullSizeLoader) -> float:
    """The mean height of all faces to be found, pixels."""
    batches = [loader.batch(step) for step in range(20)]
    heights = [batch.boxes_xyxy[batch.wanted][:, [1, 3]] for batch in batches]
    return float(np.diff(np.concatenate(heights)).mean())


def test_larger_squares_and_mosaics_have_smaller_faces() -> None:
    near, far = (FullSizeSettings(short_sides=(side, side)) for side in (0.4, 0.8))
    assert 1.5 < sides_of_faces(full_size(near)) / sides_of_faces(full_size(far)) < 2.5
    tiled = dataclasses.replace(near, mosaic_share=1.0)
    assert sides_of_faces(full_size(near)) > 1.2 * sides_of_faces(full_size(tiled))


def test_small_faces_are_ignored_and_not_dropped() -> None:
    usual, strict = (full_size(FullSizeSettings(ignore_under_px=least)) for least in (4, 12))
    changed = 0
    for step in range(10):
        one, other = usual.batch(step), strict.batch(step)
        assert np.array_equal(one.boxes_xyxy, other.boxes_xyxy)
        is_small = one.boxes_xyxy[..., 3] - one.boxes_xyxy[..., 1] < 12
        assert np.array_equal(other.wanted, one.wanted & ~is_small)
        assert np.array_equal(other.ignore | other.wanted, one.ignore | one.wanted)
        changed += int((one.wanted & is_small).sum())
    assert changed > 5


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"short_sides": (2.0, 1.0)}, "two rising positive numbers"),
        ({"short_sides": (0.0, 1.0)}, "two rising positive numbers"),
        ({"background_share": 1.5}, r"in 0\.\.1"),
        ({"mosaic_share": -0.1}, r"in 0\.\.1"),
        ({"ignore_under_px": 3.0}, "at least 4"),
    ],
)
def test_views_out_of_range_are_refused(change: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be {rule}"):
        FullSizeSettings(**change)


@pytest.mark.parametrize("mosaic_share", [0.0, 0.5])
def test_full_size_pictures_are_one_row_whatever_the_batch(mosaic_share: float) -> None:
    views = FullSizeSettings(mosaic_share=mosaic_share)
    wide, narrow = (full_size(views, batch_size=size, augment=AugmentSettings()) for size in (6, 2))
    assert_equal(wide.batch(1), join_batches([narrow.batch(step) for step in (3, 4, 5)]))


def test_a_part_of_a_batch_is_its_rows(make: Make) -> None:
    loader = make(augment=AugmentSettings())
    whole = loader.batch(3)
    parts = [part_of_batch(loader, 3, rows) for rows in (range(1), range(1, 3), range(3, 4))]
    assert_equal(join_batches(parts), whole)
    assert np.array_equal(rows_of_batch(whole, range(1, 3)).images, whole.images[1:3])


def test_threads_share_a_large_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.loader.PART_ROWS", 3)
    loader = full_size(FullSizeSettings(), batch_size=8)
    for step, batch in enumerate(prefetched(loader, range(4), workers=2)):
        assert_equal(batch, loader.batch(step))


def test_prefetched_batches_are_the_same_in_the_same_order(make: Make) -> None:
    loader = make(augment=AugmentSettings())
    steps = [5, 0, 1, 9, 9, 2, 3]
    ahead = list(prefetched(loader, steps, workers=2))
    assert len(ahead) == len(steps)
    for step, batch in zip(steps, ahead, strict=True):
        assert_equal(batch, loader.batch(step))


def test_prefetching_can_stop_early_and_passes_errors_on(make: Make) -> None:
    batches = prefetched(make(), iter(range(10**9)), workers=2)
    next(batches)
    del batches
    with pytest.raises(ValueError, match="step must be at least 0"):
        list(prefetched(make(), [0, -1], workers=1))
    with pytest.raises(ValueError, match="workers must be at least 1"):
        prefetched(make(), [0], workers=0)


@pytest.mark.parametrize(
    "change", [{"batch_size": 0}, {"image_size": 65}, {"image_size": 0}, {"seed": -1}]
)
def test_settings_out_of_range_are_refused(make: Make, change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be"):
        make(**change)


def test_pictures_larger_than_the_crops_are_refused(shards: ShardSet) -> None:
    with pytest.raises(ValueError, match="at most the shards' 96, got 128"):
        ShardLoader(shards, batch_size=1, image_size=128, seed=0, augment=None)


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 image, got 0"):
        FullSizeLoader(DrawnFaces(count=0), batch_size=1, image_size=64, seed=0, augment=None)
