"""How good a network in training is, on images that it does not train on."""

from typing import Any

import numpy as np
import torch

from data.crops import Window, cut
from data.errors import UserError
from data.progress import Progress, silent
from data.sample import Faces, ImageSource
from nas.inference import detect_images
from objectives.average_precision import evaluate_detections
from search_spaces.face_network import FaceNetwork


class Validation:
    """Average precision on whole images, scaled to squares and held in memory.

    image_size: side of the squares, pixels; an image's longer side fills it, the rest is padded.

    Raises:
        UserError: the images hold no face to be found.
    """

    def __init__(
        self,
        source: ImageSource,
        *,
        image_size: int,
        device: torch.device,
        seed: int,
        progress: Progress = silent,
    ) -> None:
        self.images = np.empty((len(source), image_size, image_size, 3), dtype=np.uint8)
        self.faces: list[Faces] = []
        self._device = device
        self._seed = seed
        for i in range(len(source)):
            sample = source.load(i)
            square = cut(sample, Window(0, 0, max(sample.image.shape[:2])), size=image_size)
            self.images[i] = square.image
            self.faces.append(square.faces)
            progress("hold out", i + 1, len(source))
        if all(one.ignore.all() for one in self.faces):
            raise UserError(
                f"no face to be found at {image_size} px in {source.description}; "
                "add images, train on larger ones, or use --set validate_every=0"
            )

    def __call__(self, network: FaceNetwork) -> dict[str, Any]:
        """`ap` at IoU 0.5, its interval, AP by face height, recall. The network is in eval mode."""
        found = detect_images(
            network, self.images, device=self._device, batch_size=4, max_boxes=300
        )
        report = evaluate_detections(found, self.faces, seed=self._seed, resamples=50)
        return {
            "ap": report.ap,
            "ap_interval": list(report.interval),
            "recall": report.recall,
            **{f"ap_{name}": stratum.ap for name, stratum in report.strata.items()},
        }
