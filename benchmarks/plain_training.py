"""Training as RetinaFace's well-known training script does it, for comparison with ours.

The kind of work is that of biubug6/Pytorch_Retinaface (train.py, data_augment.py, MultiBoxLoss,
box_utils.py): pictures are prepared one by one in NumPy and become float32 there, tensors are in
the usual contiguous order, faces are matched with all anchors image by image, negatives are
ranked by two sorts of all anchors. Landmarks are left out of the targets and of the loss, as ours
has none; the network's own landmark layers stay in.

Shape letters: B images, S image size, N anchors, F faces of an image.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from data.boxes import box_areas, box_cxcywh_to_xyxy, clip_boxes, flip_boxes
from data.sample import ImageSource
from search_spaces.zoo.mobilenet_v1 import BGR_MEAN
from search_spaces.zoo.retinaface import RETINAFACE_CODE, RetinaFace

Picture = NDArray[np.uint8]
Boxes = NDArray[np.float32]
PlainBatch = tuple[Tensor, list[Tensor]]
"""Images (B, 3, S, S) float32, colours' mean subtracted, and boxes (F, 4) of each, in pixels."""
Mark = Callable[[str], None]
"""Called where a part of the work ends, with its name."""

CROP_TRIES = 250
MATCH_IOU, LEAST_IOU = 0.35, 0.2
NEGATIVE_RATIO = 7
BOX_WEIGHT = 2.0
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 1e-3, 0.9, 5e-4
INTERPOLATIONS = (
    cv2.INTER_LINEAR,
    cv2.INTER_CUBIC,
    cv2.INTER_AREA,
    cv2.INTER_NEAREST,
    cv2.INTER_LANCZOS4,
)


@dataclass(frozen=True, slots=True, eq=False)
class PlainPictures(Dataset[tuple[Tensor, Tensor]]):
    """Prepared pictures of a source, and their faces. What is drawn depends on (seed, index)."""

    source: ImageSource
    image_size: int
    seed: int

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Image (3, S, S) float32 and boxes (F, 4) float32, in its pixels."""
        rng = np.random.default_rng((self.seed, index))
        sample = self.source.load(index)
        picture, boxes, is_whole = crop(
            sample.image, sample.faces.boxes_xyxy[~sample.faces.ignore], rng
        )
        picture = distort(picture, rng)
        if is_whole:
            picture = pad_to_square(picture)
        scale = self.image_size / picture.shape[1]
        if rng.random() < 0.5:
            boxes = flip_boxes(boxes, width=picture.shape[1])
            picture = picture[:, ::-1]
        image = resize(picture, self.image_size, rng)
        return torch.from_numpy(image), torch.from_numpy(boxes * np.float32(scale))


def crop(image: Picture, boxes: Boxes, rng: np.random.Generator) -> tuple[Picture, Boxes, bool]:
    """A random square with at least one face in full, the faces whose centres it has, and False.

    Where none is found after many tries: the image and boxes as they are, and True.
    """
    height, width = image.shape[:2]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    for _ in range(CROP_TRIES if len(boxes) else 0):
        share = 1.0 if rng.random() <= 0.2 else rng.uniform(0.3, 1.0)
        side = int(share * min(width, height))
        x, y = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
        inside = (boxes[:, :2] >= (x, y)) & (boxes[:, 2:] <= (x + side, y + side))
        if not inside.all(1).any():
            continue
        kept = ((centres > (x, y)) & (centres < (x + side, y + side))).all(1)
        moved = boxes[kept] - np.array([x, y, x, y], dtype=np.float32)
        cut = clip_boxes(moved, width=side, height=side)
        return image[y : y + side, x : x + side], cut, False
    return image, boxes, True


def distort(image: Picture, rng: np.random.Generator) -> Picture:
    """Random brightness, contrast, saturation and hue; contrast comes first or last."""
    image = image.copy()
    contrast_first = rng.random() < 0.5
    if rng.random() < 0.5:
        _change(image, shift=rng.uniform(-32, 32))
    if contrast_first and rng.random() < 0.5:
        _change(image, factor=rng.uniform(0.5, 1.5))
    colours = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2HSV), dtype=np.uint8)
    if rng.random() < 0.5:
        _change(colours[:, :, 1], factor=rng.uniform(0.5, 1.5))
    if rng.random() < 0.5:
        colours[:, :, 0] = (colours[:, :, 0].astype(int) + rng.integers(-18, 19)) % 180
    image = np.asarray(cv2.cvtColor(colours, cv2.COLOR_HSV2BGR), dtype=np.uint8)
    if not contrast_first and rng.random() < 0.5:
        _change(image, factor=rng.uniform(0.5, 1.5))
    return image


def _change(image: Picture, *, factor: float = 1.0, shift: float = 0.0) -> None:
    """Scale and shift grey levels in place, by way of float64."""
    levels = image.astype(float) * factor + shift
    levels[levels < 0] = 0
    levels[levels > 255] = 255
    image[:] = levels


def pad_to_square(image: Picture) -> Picture:
    """The image at the top left of a square of the mean colour."""
    height, width = image.shape[:2]
    square = np.empty((max(height, width), max(height, width), 3), dtype=np.uint8)
    square[:] = np.array(BGR_MEAN, dtype=np.uint8)
    square[:height, :width] = image
    return square


def resize(image: Picture, size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """(3, size, size) by a random interpolation, the mean colour subtracted."""
    how = INTERPOLATIONS[rng.integers(len(INTERPOLATIONS))]
    resized = cv2.resize(image, (size, size), interpolation=how).astype(np.float32)
    resized -= np.array(BGR_MEAN, dtype=np.float32)
    return resized.transpose(2, 0, 1)


def plain_batches(
    pictures: PlainPictures, indices: Sequence[list[int]], *, workers: int
) -> Iterable[PlainBatch]:
    """The batches of these pictures; with 0 workers each is made when it is asked for."""
    return DataLoader(
        pictures, batch_sampler=indices, num_workers=workers, collate_fn=_put_together
    )


def _put_together(items: list[tuple[Tensor, Tensor]]) -> PlainBatch:
    return torch.stack([image for image, _ in items]), [boxes for _, boxes in items]


def plain_numbers(network: RetinaFace, images: Tensor) -> Tensor:
    """What the network says of images without their mean colour. (B, 3, S, S) -> (B, N, 16)."""
    maps = [network.backbone.stem(images)]
    for stage in network.backbone.stages:
        maps.append(stage(maps[-1]))
    pyramid = network.neck(tuple(maps[1:]))
    features = tuple(look(x) for look, x in zip(network.context, pyramid, strict=True))
    return RETINAFACE_CODE.split(network.predict(features))


def match_image(boxes_xyxy: Tensor, anchors_cxcywh: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets (N, 4) and labels (N,) of all anchors for the faces (F, 4) of one image."""
    labels = torch.zeros(len(anchors_cxcywh), dtype=torch.long, device=anchors_cxcywh.device)
    overlaps = _overlaps(boxes_xyxy, box_cxcywh_to_xyxy(anchors_cxcywh))
    if len(boxes_xyxy) == 0 or not (overlaps.max(1).values >= LEAST_IOU).any():
        return torch.zeros_like(anchors_cxcywh), labels
    best_overlap, best_anchor = overlaps.max(1)
    overlap, face = overlaps.max(0)
    overlap[best_anchor[best_overlap >= LEAST_IOU]] = 2.0
    for index in range(len(best_anchor)):
        face[best_anchor[index]] = index
    labels[overlap >= MATCH_IOU] = 1
    matched = boxes_xyxy[face]
    centres = (matched[:, :2] + matched[:, 2:]) / 2 - anchors_cxcywh[:, :2]
    sizes = (matched[:, 2:] - matched[:, :2]) / anchors_cxcywh[:, 2:]
    offsets = torch.cat([centres / (0.1 * anchors_cxcywh[:, 2:]), sizes.log() / 0.2], 1)
    return offsets, labels


def _overlaps(one: Tensor, other: Tensor) -> Tensor:
    """IoU of each box with each, (F, 4), (N, 4) -> (F, N)."""
    low = torch.max(one[:, None, :2], other[None, :, :2])
    high = torch.min(one[:, None, 2:], other[None, :, 2:])
    sides = (high - low).clamp(min=0)
    shared = sides[..., 0] * sides[..., 1]
    both: Tensor = box_areas(one)[:, None] + box_areas(other)[None, :] - shared
    return shared / both


def plain_loss(numbers: Tensor, anchors_cxcywh: Tensor, faces: Sequence[Tensor]) -> Tensor:
    """SSD's loss with hard negatives (Liu et al., arXiv:1512.02325, section 2.2).

    numbers: (B, N, 16). faces: boxes (F, 4) of each image.
    """
    offsets_to_learn = torch.zeros_like(numbers[..., :4])
    labels = torch.zeros(numbers.shape[:2], dtype=torch.long, device=numbers.device)
    for image, boxes in enumerate(faces):
        offsets_to_learn[image], labels[image] = match_image(boxes, anchors_cxcywh)
    positive = labels > 0
    class_logits, offsets = numbers[..., :2], numbers[..., 2:6]

    chosen = positive[..., None].expand_as(offsets)
    box = functional.smooth_l1_loss(
        offsets[chosen].view(-1, 4), offsets_to_learn[chosen].view(-1, 4), reduction="sum"
    )
    every = class_logits.reshape(-1, 2)
    wrong = every.logsumexp(1, keepdim=True) - every.gather(1, labels.view(-1, 1))
    wrong = wrong.detach().view(labels.shape)
    wrong[positive] = 0
    ranks = wrong.sort(1, descending=True).indices.sort(1).indices
    counts = (NEGATIVE_RATIO * positive.sum(1, keepdim=True)).clamp(max=labels.shape[1] - 1)
    judged = positive | (ranks < counts)
    classification = functional.cross_entropy(
        class_logits[judged].view(-1, 2), labels[judged], reduction="sum"
    )
    count = max(float(positive.sum()), 1.0)
    return BOX_WEIGHT * box / count + classification / count


class PlainTraining:
    """A network in training by the plain loop."""

    def __init__(self, network: RetinaFace, *, image_size: int, device: torch.device) -> None:
        self.network = network.to(device).train()
        self.device = device
        self.optimizer = torch.optim.SGD(
            network.parameters(), LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        )
        self.anchors_cxcywh = RETINAFACE_CODE.anchors_cxcywh(
            [
                torch.empty(1, 1, image_size // stride, image_size // stride, device=device)
                for stride in RETINAFACE_CODE.strides
            ]
        )

    def train(self, batches: Iterable[PlainBatch], mark: Mark) -> float:
        """One step a batch; the last loss."""
        value = float("nan")
        for images, faces in batches:
            mark("data")
            images = images.to(self.device)
            faces = [boxes.to(self.device) for boxes in faces]
            numbers = plain_numbers(self.network, images)
            mark("forward")
            self.optimizer.zero_grad()
            loss = plain_loss(numbers, self.anchors_cxcywh, faces)
            mark("loss")
            loss.backward()  # type: ignore[no-untyped-call]
            mark("backward")
            self.optimizer.step()
            value = loss.item()
            mark("optimizer")
        return value
