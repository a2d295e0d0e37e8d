import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from data.boxes import pairwise_iou
from nas.inference import detect_images, recalibrate, select_detections
from objectives.average_precision import LEAST_SCORE, NMS_IOU
from search_spaces.codes import AnchorFreeCode
from search_spaces.face_network import FaceNetwork
from tests.tiny_training import CPU, equal_weights, tiny_network, weights_of

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)


class BrightCells(FaceNetwork):
    """Calls every cell a face, the more certainly the bluer it is; its boxes all have one code."""

    def __init__(self) -> None:
        super().__init__("bright", AnchorFreeCode())

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(functional.avg_pool2d(images[:, :1], s) for s in self.code.strides)

    def predict(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        logits = [blue / 16 - 8 for blue in features]
        ones = [torch.ones_like(logit).repeat(1, 4, 1, 1) for logit in logits]
        return tuple(torch.cat([x, x, one], 1) for x, one in zip(logits, ones, strict=True))


def norms_of(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def test_recalibrated_statistics_are_the_plain_averages_over_batches() -> None:
    network = tiny_network()
    seen: dict[nn.Module, list[Tensor]] = {norm: [] for norm in norms_of(network)}
    for norm in seen:
        norm.register_forward_pre_hook(lambda module, inputs: seen[module].append(inputs[0]))
    recalibrate(network, IMAGES, device=CPU, batch_size=4)
    for norm in norms_of(network):
        means = torch.stack([x.mean((0, 2, 3)) for x in seen[norm]])
        variances = torch.stack([x.var((0, 2, 3)) for x in seen[norm]])
        assert len(means) == 2
        assert norm.running_mean is not None
        assert norm.running_var is not None
        torch.testing.assert_close(norm.running_mean, means.mean(0), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(norm.running_var, variances.mean(0), rtol=1e-4, atol=1e-4)


def test_recalibration_forgets_what_was_before_and_changes_nothing_else() -> None:
    network, worn = tiny_network(), tiny_network()
    for number, norm in enumerate(norms_of(worn)):
        assert norm.running_mean is not None
        norm.running_mean.fill_(100)
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.fill_(7)
        norm.momentum = 0.01 * (number + 1)
    before = {name: value.clone() for name, value in network.named_parameters()}
    for one in (network, worn):
        recalibrate(one, IMAGES, device=CPU)
        assert not one.training
    assert equal_weights(weights_of(network), weights_of(worn))
    assert equal_weights(before, dict(network.named_parameters()))
    momenta = [norm.momentum for norm in norms_of(worn)]
    assert momenta == [0.01 * (number + 1) for number in range(len(momenta))]


def test_one_at_a_time_finds_what_a_batch_finds() -> None:
    network = BrightCells()
    together = detect_images(network, IMAGES, device=CPU)
    for number, found in enumerate(together):
        (alone,) = detect_images(network, IMAGES[number : number + 1], device=CPU)
        assert np.array_equal(alone.boxes_xyxy, found.boxes_xyxy)
        assert np.array_equal(alone.scores, found.scores)
        assert len(found.scores) > 0


def test_what_is_bright_is_found_and_what_is_dark_is_not() -> None:
    images = np.zeros((2, 64, 64, 3), dtype=np.uint8)
    images[1, 16:24, 40:48, 0] = 255
    dark, bright = detect_images(BrightCells().train(), images, device=CPU)
    assert len(dark.scores) == 0
    x1, y1, x2, y2 = bright.boxes_xyxy[0]
    assert x1 < 44 < x2
    assert y1 < 20 < y2


def test_the_network_is_left_in_eval_mode() -> None:
    network = tiny_network().train()
    detect_images(network, IMAGES[:1], device=CPU)
    assert not network.training


def test_selected_boxes_are_likely_apart_ordered_and_not_too_many() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 90, (300, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 30, (300, 2))], 1).astype(np.float32)
    scores = rng.uniform(0, 1, 300).astype(np.float32)
    found = select_detections(boxes, scores, max_boxes=1000)
    assert (found.scores > LEAST_SCORE).all()
    assert (np.diff(found.scores) <= 0).all()
    iou = pairwise_iou(found.boxes_xyxy, found.boxes_xyxy)
    assert (iou[~np.eye(len(iou), dtype=bool)] <= NMS_IOU).all()
    few = select_detections(boxes, scores, max_boxes=5)
    assert np.array_equal(few.boxes_xyxy, found.boxes_xyxy[:5])


def test_nothing_over_the_threshold_gives_nothing() -> None:
    found = select_detections(
        np.zeros((3, 4), np.float32), np.full(3, LEAST_SCORE, np.float32), max_boxes=5
    )
    assert found.boxes_xyxy.shape == (0, 4)
    assert found.scores.shape == (0,)
