"""Grid heads: which cell and box answer for which face, and what they cost."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from objectives.grid_loss import PAPER_CELLS, cell_owners, grid_loss
from objectives.loss import Losses, LossSettings
from search_spaces.codes import GridCode

SIZE = 128
CODE = GridCode(stride=32, boxes=2, unit=128.0)
PAPERS = LossSettings(least_target=0.0)
FACES = torch.tensor([[[8.0, 8, 20, 22], [40, 50, 80, 94], [100, 20, 124, 44]]])
CELLS = [0, 2 * 4 + 1, 1 * 4 + 3]  # their centres: (14, 15), (60, 72), (112, 32)


def random_level(images: int) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randn(images, 10, 4, 4, generator=random)


def level_of(numbers: Tensor) -> Tensor:
    """Numbers (boxes, N, 5) as the level of one image: the inverse of CODE.split."""
    return numbers.transpose(1, 2).reshape(1, 10, 4, 4)


def right_numbers(*, shift: float = 0.0) -> Tensor:
    """(2, 16, 5): the first box of each face's cell says it, moved by `shift` px, and is sure."""
    numbers = torch.zeros(2, 16, 5)
    numbers[1, :, 2:4] = 0.1  # the second says something small
    for face, cell in zip(FACES[0], CELLS, strict=True):
        centre, size = (face[:2] + face[2:]) / 2 + shift, face[2:] - face[:2]
        inside = centre / 32 - torch.tensor([cell % 4, cell // 4])
        numbers[0, cell, :2] = inside
        numbers[0, cell, 2:4] = (size / 128).sqrt()
        numbers[0, cell, 4] = 1
    return numbers


def loss_of(
    level: Tensor,
    faces: Tensor = FACES,
    *,
    ignored: tuple[int, ...] = (),
    settings: LossSettings | None = None,
) -> Losses:
    ignore = torch.zeros(faces.shape[:2], dtype=torch.bool)
    ignore[:, list(ignored)] = True
    return grid_loss(CODE, [level], faces, ~ignore, ignore, settings=settings)


def owners(faces: Tensor) -> Tensor:
    wanted = torch.ones(faces.shape[:2], dtype=torch.bool)
    return cell_owners(CODE, [torch.zeros(len(faces), 10, 4, 4)], faces, wanted)


def test_a_face_belongs_to_the_cell_of_its_centre() -> None:
    owner = owners(FACES)[0]
    assert owner[CELLS].tolist() == [0, 1, 2]
    assert (owner >= 0).sum() == 3


def test_a_face_outside_belongs_to_the_nearest_cell() -> None:
    corners = torch.tensor([[-30.0, 50], [SIZE + 20, 20]])
    owner = owners(torch.cat([corners, corners + 8], 1)[None])[0]
    assert owner[[4, 3]].tolist() == [0, 1]


def test_the_largest_face_of_a_cell_is_the_one_learned() -> None:
    sizes = torch.tensor([6.0, 20, 11, 19])
    faces = torch.stack([50 - sizes, 50 - sizes, 50 + sizes, 50 + sizes], 1)[None]
    assert set(owners(faces)[0].tolist()) == {-1, 1}
    alone, crowd = loss_of(random_level(1), faces[:, 1:2]), loss_of(random_level(1), faces)
    assert torch.equal(alone.total, crowd.total)
    assert torch.equal(crowd.total, loss_of(random_level(1), faces.flip(1)).total)


def test_right_numbers_cost_least() -> None:
    right = right_numbers()
    least = loss_of(level_of(right)).total
    assert least.item() == pytest.approx(0, abs=1e-6)
    random = torch.Generator().manual_seed(0)
    for _ in range(20):
        changed = right + torch.randn(right.shape, generator=random) * 0.3
        assert loss_of(level_of(changed)).total > least
    totals = [loss_of(level_of(right_numbers(shift=s))).total.item() for s in (0.0, 1.0, 2.0, 4.0)]
    assert totals == sorted(totals)


def test_missing_a_face_and_inventing_one_both_cost() -> None:
    right, wrong = right_numbers(), right_numbers()
    wrong[0, CELLS[1], 4] = 0
    assert loss_of(level_of(wrong)).quality > loss_of(level_of(right)).quality + 0.3
    wrong = right_numbers()
    wrong[0, 15, 4] = 1
    invented = loss_of(level_of(wrong))
    assert invented.classification > loss_of(level_of(right)).classification + 0.3


def test_a_confidence_is_learned_as_fast_from_none_as_from_doubt() -> None:
    """Its slope is its error, however small the confidence is."""
    slopes = []
    for confidence in (0.0, 0.5):
        numbers = right_numbers()
        numbers[0, CELLS, 4] = confidence
        level = level_of(numbers).requires_grad_()
        torch.autograd.backward(loss_of(level).quality)
        assert level.grad is not None
        slopes.append(CODE.split([level.grad]).flatten(2, 3)[0, 0, CELLS, 4])
    torch.testing.assert_close(slopes[0], 2 * slopes[1])
    assert (slopes[0] < -0.6).all()  # of three faces


def test_a_box_that_does_not_fit_yet_is_as_sure_as_the_least_target() -> None:
    numbers = right_numbers(shift=3.0)
    iou, surest = (loss_of(level_of(numbers), settings=s).quality for s in (PAPERS, None))
    assert iou > 0.01
    assert surest == 0
    numbers[0, CELLS, 4] = 0.9
    settings = LossSettings(least_target=0.9)
    assert loss_of(level_of(numbers), settings=settings).quality < 1e-6
    assert loss_of(level_of(right_numbers()), settings=settings).quality < 1e-6  # IoU 1 counts


def test_empty_cells_count_alike_in_a_coarse_and_a_fine_grid() -> None:
    face = torch.tensor([[[40.0, 40, 60, 60]]])
    wanted = torch.ones(1, 1, dtype=torch.bool)
    losses = [
        grid_loss(
            GridCode(stride=stride),
            [torch.full((1, 10, SIZE // stride, SIZE // stride), 0.3)],
            face,
            wanted,
            ~wanted,
        ).classification.item()
        for stride in (16, 8, 4)
    ]
    assert losses == pytest.approx([2 * PAPER_CELLS * 0.09] * 3, rel=0.02)


def test_the_box_that_overlaps_most_is_responsible() -> None:
    right = right_numbers()
    swapped = loss_of(level_of(right.flip(0)))
    torch.testing.assert_close(swapped.total, loss_of(level_of(right)).total)
    level = level_of(right).requires_grad_()
    torch.autograd.backward(loss_of(level).total)
    assert level.grad is not None
    touched = (CODE.split([level.grad]).flatten(2, 3)[0, ..., 2:4] != 0).any(-1)
    assert not touched[1].any()


def test_while_no_box_overlaps_the_nearest_numbers_are_responsible() -> None:
    level = torch.zeros(1, 2, 5, 16)
    level[0, 0, 2:4] = -0.2
    level[0, 1, 2:4] = 0.01
    level[0, 0, 0:2] = 1.0
    level = level.reshape(1, 10, 4, 4).requires_grad_()
    face = torch.tensor([[[40.0, 40, 44, 44]]])  # in the middle of cell 5's first quarter
    loss = loss_of(level, face)
    torch.autograd.backward(loss.total)
    assert level.grad is not None
    touched = (CODE.split([level.grad])[0, ..., 2:4] != 0).any(-1).flatten(1)
    assert touched.nonzero().tolist() == [[1, 5]]


def test_the_overlap_is_a_target_and_not_a_way_to_a_lower_loss() -> None:
    level = level_of(right_numbers(shift=2.0)).requires_grad_()
    settings = replace(PAPERS, coordinate_weight=0.0)
    torch.autograd.backward(loss_of(level, settings=settings).total)
    assert level.grad is not None
    gradient = CODE.split([level.grad])
    assert (gradient[..., :4] == 0).all()
    assert (gradient[..., 4] != 0).sum() == len(CELLS)


def test_an_untrained_head_is_moved() -> None:
    level = torch.zeros(1, 10, 4, 4, requires_grad=True)  # boxes without width and height
    torch.autograd.backward(loss_of(level).total)
    assert level.grad is not None
    sizes = CODE.split([level.grad])[..., 2:4].flatten(2, 3)[0, 0, CELLS]
    assert (sizes < 0).all()


def test_confidences_in_ignored_regions_cost_nothing() -> None:
    right = right_numbers()
    assert loss_of(level_of(right), FACES[:, :2]).classification > 0.3
    assert loss_of(level_of(right), ignored=(2,)).classification == 0
    everywhere = torch.cat([torch.tensor([[[0.0, 0, SIZE, SIZE]]]), FACES], 1)
    loss, alone = loss_of(random_level(1), everywhere, ignored=(0,)), loss_of(random_level(1))
    assert loss.classification == 0
    assert torch.equal(loss.positives, alone.positives)
    torch.testing.assert_close([loss.box, loss.quality], [alone.box, alone.quality])


def test_every_confidence_outside_ignored_regions_is_judged() -> None:
    region = torch.tensor([[[30.0, 30, 90, 60]]])  # the middles of cells 5 and 6
    level = random_level(1).requires_grad_()
    torch.autograd.backward(loss_of(level, region, ignored=(0,)).total)
    assert level.grad is not None
    silent = (CODE.split([level.grad])[0, ..., 4] == 0).flatten(1)
    assert silent.nonzero().tolist() == [[0, 5], [0, 6], [1, 5], [1, 6]]


def test_values_worked_out_by_hand() -> None:
    code = GridCode(stride=32, boxes=1, unit=64.0)
    level = torch.zeros(1, 5, 1, 2)  # two cells: centre in the middle, no size, confidence 1/2
    level[0, [0, 1, 4]] = 0.5
    level[0, 2:4, 0, 0] = 0.5  # 16 x 16 pixels around (16, 16)
    face = torch.tensor([[[16.0, 8, 32, 24]]])  # 16 x 16 around (24, 16): IoU 1/3
    wanted = torch.ones(1, 1, dtype=torch.bool)
    loss = grid_loss(code, [level], face, wanted, ~wanted, settings=PAPERS)
    assert loss.positives == 1
    assert loss.box.item() == pytest.approx((24 / 32 - 1 / 2) ** 2)
    assert loss.quality.item() == pytest.approx((1 / 2 - 1 / 3) ** 2)
    assert loss.classification.item() == pytest.approx(49 / 2 * 1 / 4)
    assert loss.total.item() == pytest.approx(5 / 16 + 1 / 36 + 49 / 16)
    level[0, 2, 0, 0] = math.sqrt(0.5)  # twice as wide: 32 x 16, IoU 1/2
    loss = grid_loss(code, [level], face, wanted, ~wanted, settings=PAPERS)
    assert loss.box.item() == pytest.approx(1 / 16 + (math.sqrt(0.5) - 0.5) ** 2)
    assert loss.quality.item() == pytest.approx(0)
    settings = replace(PAPERS, coordinate_weight=2.0, no_object_weight=3.0)
    weighed = grid_loss(code, [level], face, wanted, ~wanted, settings=settings)
    torch.testing.assert_close(weighed.total, 2 * loss.box + 3 * loss.classification)
