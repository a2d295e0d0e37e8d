"""What holds for the loss of every kind of head."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from objectives.grid_loss import grid_loss
from objectives.loss import Losses, LossSettings, detection_loss
from objectives.multibox import multibox_loss
from objectives.network_loss import LOSSES, network_loss
from search_spaces.codes import AnchorCode, AnchorFreeCode, BoxCode, GridCode

SIZE = 128
PARTS = ("total", "classification", "quality", "box")


@dataclass(frozen=True, slots=True)
class Kind:
    """A code and the channels of its levels."""

    code: BoxCode
    channels: tuple[int, ...]

    def levels(self, images: int) -> list[Tensor]:
        random = torch.Generator().manual_seed(0)
        return [
            torch.randn(images, channels, SIZE // stride, SIZE // stride, generator=random)
            for channels, stride in zip(self.channels, self.code.strides, strict=True)
        ]


KINDS = {
    "anchor-free": Kind(AnchorFreeCode(), (6, 6, 6)),
    "landmarks": Kind(AnchorFreeCode(), (16, 16, 16)),
    "anchors": Kind(AnchorCode((8, 16, 32), ((16.0, 24.0), (48.0,), (96.0,))), (12, 6, 6)),
    "oblong": Kind(AnchorCode((16, 32), ((24.0,), (60.0,)), (0.7, 1.4), extras=10), (32, 32)),
    "grid": Kind(GridCode(stride=32, unit=128.0), (10,)),
}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)

FACES = torch.rand(4, 5, 4, generator=torch.Generator().manual_seed(1)) * 60
FACES[..., 2:] += FACES[..., :2] + 4
WANTED = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
IGNORE = torch.tensor([[0, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()


def loss_of(kind: Kind, levels: Sequence[Tensor], settings: LossSettings | None = None) -> Losses:
    images = len(levels[0])
    targets = FACES[:images], WANTED[:images], IGNORE[:images]
    return network_loss(kind.code, levels, *targets, settings=settings)


def assert_same(one: Losses, other: Losses) -> None:
    for part in (*PARTS, "positives"):
        torch.testing.assert_close(getattr(one, part), getattr(other, part), msg=part)


def test_every_code_has_its_own_loss() -> None:
    targets = FACES, WANTED, IGNORE
    free, anchors, grid = (KINDS[name] for name in ("anchor-free", "anchors", "grid"))
    assert isinstance(anchors.code, AnchorCode)
    assert isinstance(grid.code, GridCode)
    losses = (
        (free, detection_loss(free.levels(4), *targets)),
        (anchors, multibox_loss(anchors.code, anchors.levels(4), *targets)),
        (grid, grid_loss(grid.code, grid.levels(4), *targets)),
    )
    assert LOSSES.keys() == {type(kind.code) for kind, _ in losses}
    for kind, direct in losses:
        assert_same(loss_of(kind, kind.levels(4)), direct)


def test_a_code_without_a_loss_is_refused() -> None:
    class CircleCode(GridCode):
        pass

    grid = KINDS["grid"]
    with pytest.raises(ValueError, match=r"code must be one of .*GridCode, got CircleCode"):
        loss_of(replace(grid, code=CircleCode(stride=32)), grid.levels(4))


@kinds
def test_a_batch_is_its_images_weighted_by_their_positives(kind: Kind) -> None:
    levels = kind.levels(4)
    together = loss_of(kind, levels)
    alone = [
        network_loss(
            kind.code, [level[i:j] for level in levels], FACES[i:j], WANTED[i:j], IGNORE[i:j]
        )
        for i, j in pairwise(range(5))
    ]
    assert together.positives == sum(loss.positives for loss in alone)
    for part in PARTS:
        parts = [getattr(loss, part) * loss.positives.clamp(min=1) for loss in alone]
        whole = getattr(together, part) * together.positives.clamp(min=1)
        torch.testing.assert_close(torch.stack(parts).sum(), whole)


@kinds
def test_padding_and_the_order_of_faces_change_nothing(kind: Kind) -> None:
    levels = kind.levels(4)
    order = torch.tensor([5, 4, 2, 0, 6, 1, 3])
    faces, wanted, ignore = (
        torch.cat([values, torch.zeros_like(values[:, :2])], 1)[:, order]
        for values in (FACES, WANTED, IGNORE)
    )
    assert_same(network_loss(kind.code, levels, faces, wanted, ignore), loss_of(kind, levels))


@kinds
@pytest.mark.parametrize("faces", [0, 3])
def test_images_without_faces_teach_that_there_are_none(kind: Kind, faces: int) -> None:
    levels = [level.requires_grad_() for level in kind.levels(2)]
    boxes, none = FACES[:2, :faces], torch.zeros(2, faces, dtype=torch.bool)
    loss = network_loss(kind.code, levels, boxes, none, none)
    assert [part.item() for part in (loss.positives, loss.box, loss.quality)] == [0, 0, 0]
    assert loss.classification > 0
    torch.autograd.backward(loss.total)
    _, scores = kind.code.decode([level.detach() for level in levels])
    less = [level.detach() - 0.1 * g for level in levels if (g := level.grad) is not None]
    assert len(less) == len(levels)
    change = kind.code.decode(less)[1] - scores
    assert change.max() <= 0
    assert (change.amin(1) < 0).all()  # in both images


@kinds
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_levels_are_judged_in_single(kind: Kind, dtype: torch.dtype) -> None:
    levels = [level.to(dtype) for level in kind.levels(4)]
    loss = loss_of(kind, levels)
    assert loss.total.dtype == torch.float32
    assert torch.equal(loss.total, loss_of(kind, [level.float() for level in levels]).total)


@kinds
@pytest.mark.parametrize("scale", [0.0, 1e2, 1e4])
def test_wild_outputs_give_finite_losses_and_gradients(kind: Kind, scale: float) -> None:
    levels = [(level * scale).requires_grad_() for level in kind.levels(4)]
    loss = loss_of(kind, levels)
    torch.autograd.backward(loss.total)
    assert loss.total.isfinite()
    assert all(level.grad is not None and level.grad.isfinite().all() for level in levels)


@kinds
def test_steps_down_the_gradient_lead_down(kind: Kind) -> None:
    levels = [level.requires_grad_() for level in kind.levels(4)]
    optimizer = torch.optim.Adam(levels, lr=0.1)
    first = loss_of(kind, levels).total.item()
    for _ in range(30):
        optimizer.zero_grad()
        torch.autograd.backward(loss_of(kind, levels).total)
        optimizer.step()
    assert loss_of(kind, levels).total < first / 2


@kinds
def test_boxes_of_a_wanted_face_need_not_be_ignored(kind: Kind) -> None:
    levels = kind.levels(4)
    ignored = network_loss(kind.code, levels, FACES, WANTED, IGNORE)
    judged = network_loss(kind.code, levels, FACES, WANTED, torch.zeros_like(IGNORE))
    assert ignored.classification < judged.classification
    assert torch.equal(ignored.box, judged.box)


@pytest.mark.parametrize("kind", [KINDS["anchors"], KINDS["oblong"]], ids=["anchors", "oblong"])
def test_heads_with_anchors_take_every_kind_of_box_loss(kind: Kind) -> None:
    settings = [LossSettings(box_kind=k) for k in ("eiou", "diou", "giou", "iou", "smooth_l1")]
    boxes = {loss_of(kind, kind.levels(4), s).box.item() for s in settings}
    assert len(boxes) == len(settings)
