import dataclasses

import numpy as np
import pytest

from data.augment import OFF, AugmentSettings, change_light, draw_light, draw_view, show
from data.crops import PADDING_BGR, View
from tests.data.drawn_faces import drawn

SAMPLE = drawn([(40, 50, 70, 90)], width=128, height=128)


def test_off_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    out = np.empty_like(SAMPLE.image)
    faces = show(
        SAMPLE.image, SAMPLE.faces, draw_view(128, size=128, settings=OFF, rng=rng), out=out
    )
    change_light(out, draw_light(OFF, rng))
    assert np.array_equal(out, SAMPLE.image)
    assert np.array_equal(faces.boxes_xyxy, SAMPLE.faces.boxes_xyxy)


def test_off_still_cuts_smaller_pictures_at_random_places() -> None:
    rng = np.random.default_rng(0)
    views = [draw_view(128, size=64, settings=OFF, rng=rng) for _ in range(20)]
    assert len({view.shift for view in views}) > 10
    for view in views:
        out = np.empty((64, 64, 3), dtype=np.uint8)
        show(SAMPLE.image, SAMPLE.faces, view, out=out)
        x, y = (-int(shift) for shift in view.shift)
        assert np.array_equal(out, SAMPLE.image[y : y + 64, x : x + 64])


def test_boxes_stay_on_their_faces() -> None:
    rng = np.random.default_rng(1)
    seen = 0
    for _ in range(100):
        out = np.empty((96, 96, 3), dtype=np.uint8)
        view = draw_view(128, size=96, settings=AugmentSettings(), rng=rng)
        faces = show(SAMPLE.image, SAMPLE.faces, view, out=out)
        bright = out[..., 2] > 170
        if not len(faces):
            assert bright.sum() < 100  # at most the blurred edge of a face out of view
            continue
        rows, columns = np.nonzero(bright)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert np.abs(faces.boxes_xyxy[0] - found).max() <= 1.5
        seen += 1
    assert seen > 50


def test_faces_grow_as_often_as_they_shrink() -> None:
    rng = np.random.default_rng(0)
    scales = [
        draw_view(128, size=128, settings=AugmentSettings(), rng=rng).scale for _ in range(999)
    ]
    assert abs(np.log(scales).mean()) < 0.02
    assert min(scales) > 1 / 1.4
    assert max(scales) < 1.4


def test_zooming_out_pads_with_a_flat_colour() -> None:
    out = np.empty((128, 128, 3), dtype=np.uint8)
    show(SAMPLE.image, SAMPLE.faces, View(0.5, (32.0, 32.0), 128), out=out)
    assert (out[:30] == PADDING_BGR).all()


def test_light_changes_pixels_and_depends_on_the_seed_alone() -> None:
    def lit(seed: int) -> list[int]:
        image = SAMPLE.image.copy()
        change_light(image, draw_light(AugmentSettings(), np.random.default_rng(seed)))
        values: list[int] = image[60, 50].tolist()
        return values

    assert lit(0) == lit(0)
    assert len({tuple(lit(seed)) for seed in range(20)}) > 15


def test_light_alone_leaves_grey_grey() -> None:
    grey = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    settings = dataclasses.replace(AugmentSettings(), colour=1)
    change_light(grey, draw_light(settings, np.random.default_rng(3)))
    assert (grey[..., 0] == grey[..., 1]).all()
    assert (grey[..., 0] == grey[..., 2]).all()
    assert (np.diff(grey[:, 0, 0].astype(int)) >= 0).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [("flip_share", 1.1), ("brightness", -0.1), ("zoom", 0.9), ("contrast", 0), ("colour", 11)],
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be in"):
        dataclasses.replace(AugmentSettings(), **{name: value})
