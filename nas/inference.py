"""What a torch network finds in images, and the batch-norm statistics it needs for that."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from data.boxes import nms
from nas.fitting import images_to_tensor
from objectives.average_precision import LEAST_SCORE, NMS_IOU, Detections
from search_spaces.face_network import FaceNetwork


def recalibrate(
    network: nn.Module,
    images: NDArray[np.uint8],
    *,
    device: torch.device,
    batch_size: int = 16,
) -> None:
    """Replace all batch-norm statistics by their plain averages over the images.

    images: (N, S, S, 3) uint8, BGR. Weights that moved, or were inherited from a supernet, need
    statistics of their own (Yu et al., BigNAS, arXiv:2003.11142, section 3.4).
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all batches seen
    network.train()
    with torch.no_grad():
        for start in range(0, len(images), batch_size):
            network(images_to_tensor(images[start : start + batch_size], device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def detect_images(
    network: FaceNetwork,
    images: NDArray[np.uint8],
    *,
    device: torch.device,
    batch_size: int = 16,
    max_boxes: int = 100,
) -> list[Detections]:
    """What the network finds in images of one size, scores over LEAST_SCORE, after NMS.

    images: (N, H, W, 3) uint8, BGR, H and W multiples of 32. The network is left in eval mode.
    """
    network.eval()
    found: list[Detections] = []
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            levels = network(images_to_tensor(images[start : start + batch_size], device))
            boxes, scores = network.code.decode(levels)
            found += [
                select_detections(b, s, max_boxes=max_boxes)
                for b, s in zip(boxes.cpu().numpy(), scores.cpu().numpy(), strict=True)
            ]
    return found


def select_detections(
    boxes_xyxy: NDArray[np.float32], scores: NDArray[np.float32], *, max_boxes: int
) -> Detections:
    """The best boxes of one image: over the score threshold, then NMS."""
    over = np.flatnonzero(scores > LEAST_SCORE)
    best = over[np.argsort(-scores[over], kind="stable")[: 4 * max_boxes]]
    kept = nms(boxes_xyxy[best], scores[best], iou_threshold=NMS_IOU, max_boxes=max_boxes)
    return Detections(boxes_xyxy[best][kept], scores[best][kept])
