"""A tiny ImageSource for tests: bright rectangles for faces on dark images."""

from dataclasses import dataclass

import numpy as np

from data.sample import Faces, Sample

FACE_BGR = (20, 120, 250)
BACKGROUND_BGR = (60, 40, 30)


def drawn(boxes_xyxy: list[tuple[int, int, int, int]], *, width: int, height: int) -> Sample:
    """An image with faces at exactly these boxes."""
    image = np.empty((height, width, 3), dtype=np.uint8)
    image[:] = BACKGROUND_BGR
    for x1, y1, x2, y2 in boxes_xyxy:
        image[y1:y2, x1:x2] = FACE_BGR
    return Sample(image, Faces.of(np.array(boxes_xyxy, dtype=np.float32)), "drawn")


@dataclass(frozen=True, slots=True)
class DrawnFaces:
    """Images of 0 to 5 faces of 6 to 40 px; image i tells its number in its name."""

    count: int = 10
    width: int = 320
    height: int = 240
    seed: int = 0

    @property
    def description(self) -> str:
        return f"{self.count} drawn images"

    def fingerprint(self) -> str:
        return f"{self.count} {self.width} {self.height} {self.seed}"

    def __len__(self) -> int:
        return self.count

    def load(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, index))
        boxes = []
        for _ in range(index % 6):
            side = int(rng.integers(6, 41))
            x, y = (int(rng.integers(0, most - side)) for most in (self.width, self.height))
            boxes.append((x, y, x + side, y + side))
        sample = drawn(boxes, width=self.width, height=self.height)
        return Sample(sample.image, sample.faces, f"drawn/{index}")
