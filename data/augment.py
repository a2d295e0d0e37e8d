"""Random changes of a training picture that leave its faces faces: place, size, light, colour."""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from data.crops import PADDING_BGR, View, faces_in_view
from data.sample import Faces


@dataclass(frozen=True, slots=True)
class AugmentSettings:
    """How strongly training pictures are changed.

    flip_share: share of pictures mirrored left to right.
    zoom: pictures are scaled by at most this factor or its inverse (log-uniform, so that faces
        grow as often as they shrink); 1 is off. Loaders of full-size images do not use it.
    brightness: grey levels are shifted by up to this share of 255.
    contrast, colour: grey levels, or single channels, are scaled by at most this factor or its
        inverse; 1 is off.
    """

    flip_share: float = 0.5
    zoom: float = 1.4
    brightness: float = 0.15
    contrast: float = 1.4
    colour: float = 1.15

    def __post_init__(self) -> None:
        for name in ("flip_share", "brightness"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in 0..1, got {getattr(self, name)}")
        for name in ("zoom", "contrast", "colour"):
            if not 1 <= getattr(self, name) <= 10:
                raise ValueError(f"{name} must be in 1..10, got {getattr(self, name)}")

    @property
    def keeps_light(self) -> bool:
        """Whether brightness, contrast and colour stay as they are."""
        return self.brightness == 0 and self.contrast == self.colour == 1


OFF = AugmentSettings(flip_share=0, zoom=1, brightness=0, contrast=1, colour=1)
"""Nothing is changed; a picture smaller than the image is still cut at a random place."""


LIGHT = AugmentSettings(zoom=1, brightness=0, contrast=1, colour=1)
"""Mirroring alone: short fits see each picture a few times only, and learn faster without more."""


def draw_view(
    image_size: int, *, size: int, settings: AugmentSettings, rng: np.random.Generator
) -> View:
    """A random view, `size` px wide, of a square image: inside it, or with it inside the view."""
    scale = _factor(settings.zoom, rng)
    room = size - image_size * scale
    x, y = np.round(rng.uniform(min(room, 0), max(room, 0), 2))  # whole pixels: sharp at scale 1
    return View(scale, (float(x), float(y)), size, bool(rng.random() < settings.flip_share))


def show(image: NDArray[np.uint8], faces: Faces, view: View, *, out: NDArray[np.uint8]) -> Faces:
    """Draw the image as seen in the view into `out` (size, size, 3); gives the faces in it."""
    cv2.warpAffine(
        image,
        view.matrix(),
        (view.size, view.size),
        dst=out,
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=PADDING_BGR,
    )
    return faces_in_view(faces, view)


def draw_light(settings: AugmentSettings, rng: np.random.Generator) -> NDArray[np.uint8] | None:
    """A random change of brightness, contrast and colour: the new level of each old one.

    Shape (256, 3); None where none changes.
    """
    contrast = _factor(settings.contrast, rng)
    shift = 255 * rng.uniform(-settings.brightness, settings.brightness)
    colours = [_factor(settings.colour, rng) for _ in range(3)]
    if settings.keeps_light:  # after the draws: what follows them is the same in all settings
        return None
    levels = np.arange(256.0)
    levels = (levels - 127.5) * contrast + 127.5 + shift
    table: NDArray[np.uint8] = np.clip(np.round(levels[:, None] * colours), 0, 255).astype(np.uint8)
    return table


def change_light(image: NDArray[np.uint8], table: NDArray[np.uint8] | None) -> None:
    """Give the pixels of one image (H, W, 3) their new levels, in place; None: leave them."""
    if table is not None:
        cv2.LUT(image, table[None], dst=image)


def _factor(most: float, rng: np.random.Generator) -> float:
    """Between 1 / most and most, log-uniform."""
    return float(math.exp(rng.uniform(-1, 1) * math.log(most)))
