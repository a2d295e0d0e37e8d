"""Heads of every kind, and their numbers read back as boxes, points and scores."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from search_spaces.architecture import NO_LAYER, TOWER_LAYERS, Head
from search_spaces.attention import ATTENTION
from search_spaces.heads import (
    CODE_CHANNELS,
    HEAD_LAYERS,
    LANDMARK_CHANNELS,
    LARGEST_LOG_SIZE,
    PRIOR_FACE_SHARE,
    STRIDES,
    AnchorFreeHead,
    decode_boxes,
    decode_landmarks,
    detection_scores,
    level_points,
)
from tests.search_spaces.contracts import (
    assert_batched_equals_single,
    assert_gradient_reaches_every_parameter,
    noise,
    pyramid,
    shapes,
)

WIDTH = 16

every_form = pytest.mark.parametrize(
    ("sharing", "depth", "attention"),
    list(itertools.product(("shared", "per_level"), (0, 1, 2), ATTENTION)),
)


def make(
    sharing: str,
    depth: int,
    attention: str = "none",
    *,
    layer: str = "depthwise",
    landmarks: bool = False,
) -> AnchorFreeHead:
    torch.manual_seed(0)
    head = Head(sharing, layer if depth else NO_LAYER, depth, 32 if depth else 0, attention)
    return AnchorFreeHead(WIDTH, head, landmarks=landmarks)


def test_every_layer_has_a_name() -> None:
    assert tuple(HEAD_LAYERS) == TOWER_LAYERS


def blank_levels(height: int = 64, width: int = 96, channels: int = CODE_CHANNELS) -> list[Tensor]:
    """What an image of these sides gives where the network says nothing."""
    return [torch.zeros(1, channels, height // s, width // s) for s in STRIDES]


@pytest.mark.parametrize("layer", TOWER_LAYERS)
@pytest.mark.parametrize("sharing", ["shared", "per_level"])
def test_every_layer(sharing: str, layer: str) -> None:
    head, levels = make(sharing, 2, layer=layer), pyramid(WIDTH, sides=(12, 20))
    assert shapes(head(levels)) == [(2, CODE_CHANNELS, *x.shape[2:]) for x in levels]
    assert_gradient_reaches_every_parameter(head, levels)
    assert_batched_equals_single(head, levels)


@pytest.mark.parametrize("layer", TOWER_LAYERS)
def test_the_first_channels_are_a_narrower_layer(layer: str) -> None:
    """Where the other weights are zero; the supernet relies on it."""
    wide, narrow = HEAD_LAYERS[layer](16, 64).eval(), HEAD_LAYERS[layer](16, 32).eval()
    with torch.no_grad():
        for own, whole in zip(narrow.parameters(), wide.parameters(), strict=True):
            leading = tuple(slice(n) for n in own.shape)
            own.copy_(whole[leading])
            whole.zero_()
            whole[leading] = own
    x = noise(2, 16, 6, 5)
    torch.testing.assert_close(wide(x)[:, :32], narrow(x))


@every_form
def test_every_head(sharing: str, depth: int, attention: str) -> None:
    head, levels = make(sharing, depth, attention), pyramid(WIDTH, sides=(12, 20))
    expected = [(2, CODE_CHANNELS, *x.shape[2:]) for x in levels]
    assert shapes(head(levels)) == expected
    assert_gradient_reaches_every_parameter(head, levels)
    assert_batched_equals_single(head, levels)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_levels_share_a_tower_or_have_their_own(depth: int) -> None:
    def outputs_differ(sharing: str) -> bool:
        same = noise(1, WIDTH, 4, 4)
        first, *others = make(sharing, depth).eval()([same, same, same])
        return any(not torch.equal(first, other) for other in others)

    def parameters(sharing: str) -> int:
        return sum(p.numel() for p in make(sharing, depth).parameters())

    assert not outputs_differ("shared")
    assert outputs_differ("per_level")
    assert parameters("per_level") == 3 * parameters("shared")


@pytest.mark.parametrize("sharing", ["shared", "per_level"])
def test_faces_are_rare_before_training(sharing: str) -> None:
    levels = make(sharing, 1).eval()(pyramid(WIDTH))
    _, class_logits, quality_logits = decode_boxes(levels)
    assert class_logits.sigmoid().mean().item() == pytest.approx(PRIOR_FACE_SHARE, rel=0.2)
    assert quality_logits.sigmoid().mean().item() == pytest.approx(0.5, abs=0.05)


def test_points_are_the_centres_of_cells_row_by_row() -> None:
    points, strides = level_points(blank_levels(32, 64))
    eights = [(x, y) for y in (4, 12, 20, 28) for x in (4, 12, 20, 28, 36, 44, 52, 60)]
    sixteens = [(x, y) for y in (8, 24) for x in (8, 24, 40, 56)]
    expected = [*eights, *sixteens, (16, 16), (48, 16)]
    assert points.tolist() == [list(point) for point in expected]
    assert strides.tolist() == [8] * 32 + [16] * 8 + [32] * 2


def test_points_need_three_levels() -> None:
    with pytest.raises(ValueError, match="zip"):
        level_points(blank_levels()[:2])


def test_empty_codes_are_boxes_of_one_stride_around_their_points() -> None:
    levels = blank_levels()
    boxes_xyxy, _, _ = decode_boxes(levels)
    points, strides = level_points(levels)
    half = strides[:, None] / 2
    torch.testing.assert_close(boxes_xyxy[0], torch.cat([points - half, points + half], 1))


@pytest.mark.parametrize(
    ("level", "row", "column", "code", "box"),
    [
        # stride 8, point 12, 20: centre 16, 18 and size 16, 32
        (0, 2, 1, (0.5, -0.25, math.log(2), math.log(4)), (8, 2, 24, 34)),
        # stride 16, point 56, 24: centre 56, 40 and size 16, 8
        (1, 1, 3, (0, 1, 0, math.log(0.5)), (48, 36, 64, 44)),
        # stride 32, point 16, 48: centre -16, 48 and size 32, 96
        (2, 1, 0, (-1, 0, 0, math.log(3)), (-32, 0, 0, 96)),
    ],
)
def test_a_code_written_by_hand_is_the_expected_box(
    level: int, row: int, column: int, code: tuple[float, ...], box: tuple[float, ...]
) -> None:
    levels = blank_levels(64, 96)
    levels[level][0, :, row, column] = torch.tensor([1.5, -2.5, *code])
    boxes_xyxy, class_logits, quality_logits = decode_boxes(levels)
    position = sum(x[0, 0].numel() for x in levels[:level])
    position += row * levels[level].shape[3] + column
    assert class_logits.nonzero().tolist() == [[0, position]]
    assert class_logits[0, position] == 1.5
    assert quality_logits[0, position] == -2.5
    torch.testing.assert_close(boxes_xyxy[0, position], torch.tensor(box, dtype=torch.float32))


def test_boxes_of_every_code_are_finite_and_the_right_way_round() -> None:
    for scale in (1.0, 1e3, 1e6):
        boxes_xyxy, _, _ = decode_boxes([x + scale * noise(*x.shape) for x in blank_levels()])
        assert torch.isfinite(boxes_xyxy).all()
        assert (boxes_xyxy[..., 2:] >= boxes_xyxy[..., :2]).all()
        widths = boxes_xyxy[..., 2] - boxes_xyxy[..., 0]
        if scale == 1:
            assert widths.max() <= 32 * math.exp(LARGEST_LOG_SIZE)


def test_decoding_is_in_float32_and_per_image() -> None:
    levels = [noise(3, CODE_CHANNELS, *x.shape[2:]) for x in blank_levels()]
    whole = decode_boxes(levels)
    for image in range(3):
        single = decode_boxes([x[image : image + 1] for x in levels])
        for a, b in zip(whole, single, strict=True):
            assert torch.equal(a[image : image + 1], b)
    halves = decode_boxes([x.bfloat16() for x in levels])
    assert {x.dtype for x in halves} == {torch.float32}


def test_landmarks_are_offsets_in_strides() -> None:
    levels = blank_levels(32, 32, CODE_CHANNELS + LANDMARK_CHANNELS)
    offsets = [[1, 0], [0, 1], [-1, 0], [0, -1], [0.5, 0.25]]
    levels[1][0, CODE_CHANNELS:, 1, 0] = torch.tensor(offsets).flatten()
    landmarks = decode_landmarks(levels)
    points, _ = level_points(levels)
    assert landmarks.shape == (1, 16 + 4 + 1, 5, 2)
    expected = [[24, 24], [8, 40], [-8, 24], [8, 8], [16, 28]]
    assert landmarks[0, 16 + 2].tolist() == expected
    others = [i for i in range(21) if i != 18]
    assert torch.equal(landmarks[0, others], points[others, None].expand(-1, 5, -1))


@pytest.mark.parametrize("sharing", ["shared", "per_level"])
def test_landmarks_are_optional(sharing: str) -> None:
    levels = pyramid(WIDTH)
    with_landmarks = make(sharing, 1, landmarks=True).eval()(levels)
    assert {x.shape[1] for x in with_landmarks} == {CODE_CHANNELS + LANDMARK_CHANNELS}
    assert decode_boxes(with_landmarks)[0].shape[2] == 4
    assert decode_landmarks(with_landmarks).shape[2:] == (5, 2)
    without = make(sharing, 1).eval()(levels)
    with pytest.raises(ValueError, match="levels must have 16 channels for landmarks, got 6"):
        decode_landmarks(without)


def test_scores_are_geometric_means() -> None:
    class_logits, quality_logits = noise(2, 50) * 20, noise(2, 50, seed=1) * 20
    scores = detection_scores(class_logits, quality_logits)
    assert scores.min() >= 0
    assert scores.max() <= 1
    assert torch.equal(scores, detection_scores(quality_logits, class_logits))
    logits = torch.tensor([0.9, 0.4]).logit()
    assert detection_scores(logits[0], logits[1]).item() == pytest.approx(0.6)
    assert detection_scores(logits[0], logits[0]).item() == pytest.approx(0.9)
