import pytest
import torch

from data.boxes import box_cxcywh_to_xyxy
from search_spaces.codes import (
    CENTRE_VARIANCE,
    SIZE_VARIANCE,
    AnchorCode,
    AnchorFreeCode,
    BoxCode,
    GridCode,
)
from search_spaces.heads import position_centres

ANCHORS = AnchorCode(strides=(8, 16), sizes=((16.0, 32.0), (64.0,)), ratios=(1.0, 2.0), extras=3)


def random_levels(code: BoxCode, channels: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, count, 64 // stride, 96 // stride, generator=generator)
        for count, stride in zip(channels, code.strides, strict=True)
    ]


@pytest.mark.parametrize(
    ("code", "channels", "predictions"),
    [
        (AnchorFreeCode(), (6, 6, 6), 96 + 24 + 6),
        (ANCHORS, (36, 18), 96 * 4 + 24 * 2),
        (GridCode(stride=32, boxes=2), (10,), 6 * 2),
    ],
)
def test_every_code_gives_corners_and_shares(
    code: BoxCode, channels: tuple[int, ...], predictions: int
) -> None:
    boxes, scores = code.decode(random_levels(code, channels))
    assert boxes.shape == (2, predictions, 4)
    assert scores.shape == (2, predictions)
    assert (boxes[..., 2:] >= boxes[..., :2]).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    positions = [(64 // stride) * (96 // stride) for stride in code.strides]
    assert sum(code.anchors_of(i) * count for i, count in enumerate(positions)) == predictions


@pytest.mark.parametrize(
    ("code", "numbers"),
    [
        (AnchorFreeCode(), [0.0] * 6),
        (AnchorCode((8, 16, 32), ((16.0,),) * 3), [0.0] * 6),
        (GridCode(stride=32, boxes=1), [0.5, 0.5, 0.2, 0.2, 0.0]),
    ],
)
def test_a_prediction_without_offset_is_centred_on_its_position(
    code: BoxCode, numbers: list[float]
) -> None:
    levels = [
        torch.tensor(numbers)[None, :, None, None].expand(1, -1, 64 // stride, 96 // stride)
        for stride in code.strides
    ]
    boxes, _ = code.decode(levels)
    centres = [
        position_centres(level, stride).flatten(0, 1)
        for level, stride in zip(levels, code.strides, strict=True)
    ]
    torch.testing.assert_close((boxes[0, :, :2] + boxes[0, :, 2:]) / 2, torch.cat(centres))


@pytest.mark.parametrize(
    ("code", "channels"),
    [(AnchorFreeCode(), (6, 6, 6)), (ANCHORS, (36, 18)), (GridCode(32), (10,))],
)
def test_an_image_alone_decodes_as_in_a_batch(code: BoxCode, channels: tuple[int, ...]) -> None:
    levels = random_levels(code, channels)
    boxes, scores = code.decode(levels)
    alone_boxes, alone_scores = code.decode([level[1:] for level in levels])
    torch.testing.assert_close(alone_boxes[0], boxes[1])
    torch.testing.assert_close(alone_scores[0], scores[1])


def test_offsets_of_zero_are_the_anchors() -> None:
    levels = [torch.zeros(1, 36, 8, 12), torch.zeros(1, 18, 4, 6)]
    boxes, scores = ANCHORS.decode(levels)
    torch.testing.assert_close(boxes[0], box_cxcywh_to_xyxy(ANCHORS.anchors_cxcywh(levels)))
    assert (scores == 0.5).all()


def test_offsets_count_in_variances_of_the_anchor() -> None:
    anchors = torch.tensor([[40.0, 60, 20, 10]])
    offsets = torch.tensor([[[1.0, -2, 0, 0], [0, 0, 3, -1]]]).transpose(0, 1)
    (moved,), (grown,) = ANCHORS.offsets_to_boxes(offsets, anchors)
    torch.testing.assert_close((moved[:2] + moved[2:]) / 2, torch.tensor([42.0, 58]))
    sides = (grown[2:] - grown[:2]).log() - anchors[0, 2:].log()
    torch.testing.assert_close(sides, torch.tensor([0.6, -0.2]))
    assert (CENTRE_VARIANCE, SIZE_VARIANCE) == (0.1, 0.2)


def test_anchors_have_their_areas_and_ratios_in_the_order_of_the_channels() -> None:
    levels = [torch.zeros(1, 36, 1, 1), torch.zeros(1, 18, 1, 1)]
    anchors = ANCHORS.anchors_cxcywh(levels)
    assert anchors[:, :2].tolist() == [[4, 4]] * 4 + [[8, 8]] * 2
    areas = anchors[:, 2] * anchors[:, 3]
    torch.testing.assert_close(areas.sqrt(), torch.tensor([16.0, 16, 32, 32, 64, 64]))
    torch.testing.assert_close(anchors[:, 3] / anchors[:, 2], torch.tensor([1.0, 2, 1, 2, 1, 2]))


def test_a_face_logit_moves_its_own_anchor_only() -> None:
    levels = [torch.zeros(1, 36, 8, 12), torch.zeros(1, 18, 4, 6)]
    levels[0][0, 9 * 2 + 1, 3, 5] = 4.0  # anchor 2 of the first level, row 3, column 5
    _, scores = ANCHORS.decode(levels)
    assert scores[0].argmax() == 2 * 96 + 3 * 12 + 5
    assert (scores[0] > 0.5).sum() == 1


def test_a_grid_box_is_where_its_cell_is() -> None:
    code = GridCode(stride=32, boxes=2, unit=100)
    level = torch.zeros(1, 10, 2, 3)
    level[0, 5:9, 1, 2] = torch.tensor([0.5, 0.75, 0.3, 0.5])  # second box: w and h are roots
    boxes, _ = code.decode([level])
    width, height = 9.0, 25.0
    expected = [80 - width / 2, 56 - height / 2, 80 + width / 2, 56 + height / 2]
    torch.testing.assert_close(boxes[0, 6 + 5], torch.tensor(expected))


def test_a_grid_score_is_the_confidence_cut_to_a_share() -> None:
    level = torch.zeros(1, 10, 1, 2)
    level[0, 4, 0] = torch.tensor([-0.3, 0.4])
    level[0, 9, 0] = torch.tensor([1.7, 0.0])
    _, scores = GridCode(stride=32, boxes=2).decode([level])
    torch.testing.assert_close(scores, torch.tensor([[0.0, 0.4, 1.0, 0.0]]))


def test_impossible_codes_are_refused() -> None:
    with pytest.raises(ValueError, match="one tuple a stride"):
        AnchorCode(strides=(8, 16), sizes=((16.0,),))
    with pytest.raises(ValueError, match="positive"):
        AnchorCode(strides=(8,), sizes=((0.0,),))
    with pytest.raises(ValueError, match="positive"):
        GridCode(stride=0)
