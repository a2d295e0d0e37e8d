"""What wrong boxes cost."""

import pytest
import torch
from torch import Tensor

from objectives.box_losses import IOU_LOSSES, eiou_loss, offset_loss

MOST = {"eiou": 4.0, "diou": 2.0, "giou": 2.0, "iou": 1.0}

every_kind = pytest.mark.parametrize("kind", sorted(IOU_LOSSES))


def random_boxes(count: int, *, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    corner = torch.randn(count, 2, generator=random) * 40
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=random).pow(3) * 90], 1)


@every_kind
def test_equal_boxes_cost_nothing_and_others_within_the_range(kind: str) -> None:
    loss, a, b = IOU_LOSSES[kind], random_boxes(500, seed=0), random_boxes(500, seed=1)
    torch.testing.assert_close(loss(b, b), torch.zeros(500), atol=1e-5, rtol=0)
    costs = loss(a, b)
    assert 0 < costs.min() < costs.max() <= MOST[kind]
    torch.testing.assert_close(costs, loss(b, a))


@every_kind
def test_further_apart_costs_more_and_pulls_but_for_plain_iou(kind: str) -> None:
    face = torch.tensor([50.0, 50, 60, 62])
    shifts = torch.tensor([0.0, 1, 3, 8, 20, 60])
    boxes = (face + shifts[:, None]).requires_grad_()
    costs = IOU_LOSSES[kind](boxes, face)
    torch.autograd.backward(costs.sum())
    apart = 4  # from here on boxes do not overlap
    assert (costs[:apart].diff() > 0).all()
    assert boxes.grad is not None
    pulled = (boxes.grad[apart:].sum(1) > 0).all() and (costs[apart - 1 :].diff() > 0).all()
    assert pulled == (kind != "iou")


@every_kind
def test_boxes_without_an_area_or_far_away_give_finite_gradients(kind: str) -> None:
    points = torch.tensor(
        [[5.0, 5, 5, 5], [5, 5, 5, 9], [-1e5, -1e5, 1e5, 1e5], [1e5, 1e5, 2e5, 2e5]]
    )
    boxes = points.clone().requires_grad_()
    face = torch.tensor([5.0, 5, 9, 9])
    costs = IOU_LOSSES[kind](torch.cat([boxes, boxes]), torch.cat([face.expand(4, 4), points]))
    torch.autograd.backward(costs.sum())
    assert costs.isfinite().all()
    assert boxes.grad is not None
    assert boxes.grad.isfinite().all()


def test_sizes_pull_in_eiou() -> None:
    face = torch.tensor([50.0, 50, 60, 62])
    sizes = torch.tensor([1.0, 2, 4, 8])[:, None] * torch.tensor([-5.0, -6, 5, 6])
    assert (eiou_loss(sizes + torch.tensor([55.0, 56, 55, 56]), face).diff() > 0).all()


def test_values_worked_out_by_hand() -> None:
    # Squares of side 2, moved by (1, 1): they share 1 of 7; the square around both has side 3.
    a, b = torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 1, 3, 3])
    expected = {"iou": 6 / 7, "giou": 6 / 7 + 2 / 9, "diou": 6 / 7 + 2 / 18, "eiou": 6 / 7 + 2 / 18}
    for kind, cost in expected.items():
        assert IOU_LOSSES[kind](a, b).item() == pytest.approx(cost), kind
    # A square and two of it side by side: centres 1 apart, widths 2, and 4 x 2 is around both.
    wide = torch.tensor([0.0, 0, 4, 2])
    expected = {
        "iou": 1 / 2,
        "giou": 1 / 2,
        "diou": 1 / 2 + 1 / 20,
        "eiou": 1 / 2 + 1 / 20 + 4 / 16,
    }
    for kind, cost in expected.items():
        assert IOU_LOSSES[kind](a, wide).item() == pytest.approx(cost), kind


def test_offsets_cost_half_their_square_and_from_one_on_their_size_less_a_half() -> None:
    offsets = torch.tensor([[0.5, -2.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    costs = offset_loss(offsets, torch.zeros(2, 4))
    assert costs.tolist() == pytest.approx([0.125 + 1.5 + 0.5, 0])
