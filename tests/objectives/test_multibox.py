"""Heads with anchors: which anchor answers for which face, and what is a negative."""

import math

import pytest
import torch
from torch import Tensor

from data.boxes import box_cxcywh_to_xyxy, pairwise_iou, points_in_boxes
from objectives.loss import Losses, LossSettings
from objectives.multibox import boxes_to_offsets, match_anchors, multibox_loss, silenced_anchors
from search_spaces.codes import AnchorCode

SIZE = 128
CODE = AnchorCode((8, 16, 32), sizes=((16.0, 32.0), (64.0,), (90.0, 120.0)), extras=2)
OBLONG = AnchorCode((16, 32), sizes=((12.0, 40.0), (50.0,)), ratios=(0.5, 1.0, 1.7))
FACES = torch.tensor([[[8.0, 8, 20, 22], [40, 50, 80, 94], [100, 20, 124, 44]]])
SURE = 9.0


def blank_levels(images: int = 1, *, code: AnchorCode = CODE, size: int = SIZE) -> list[Tensor]:
    channels = [code.anchors_of(i) * code.numbers for i in range(len(code.strides))]
    return [
        torch.zeros(images, c, size // s, size // s)
        for c, s in zip(channels, code.strides, strict=True)
    ]


def random_levels(images: int, *, seed: int = 0) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(x.shape, generator=random) for x in blank_levels(images)]


def levels_of(numbers: Tensor) -> list[Tensor]:
    """(N, K) as levels of one image: the inverse of CODE.split."""
    levels, start = [], 0
    for index, blank in enumerate(blank_levels()):
        anchors, cells = CODE.anchors_of(index), blank[0, 0].numel()
        part = numbers[start : start + anchors * cells].view(anchors, cells, CODE.numbers)
        levels.append(part.transpose(1, 2).reshape(blank.shape))
        start += anchors * cells
    return levels


def random_faces(images: int, count: int, *, seed: int) -> Tensor:
    """Faces of 3 to 110 pixels and all shapes, some partly outside."""
    random = torch.Generator().manual_seed(seed)
    size = 3 + torch.rand(images, count, 2, generator=random).pow(2) * 110
    centre = torch.rand(images, count, 2, generator=random) * SIZE
    return box_cxcywh_to_xyxy(torch.cat([centre, size], -1))


def every(faces: Tensor) -> Tensor:
    return torch.ones(faces.shape[:2], dtype=torch.bool)


def matched(faces: Tensor, *, code: AnchorCode = CODE, match_iou: float = 0.35) -> Tensor:
    levels = blank_levels(len(faces), code=code)
    return match_anchors(code, levels, faces, every(faces), match_iou=match_iou)


def overlaps(faces: Tensor, *, code: AnchorCode = CODE) -> Tensor:
    """IoU of every face with every anchor, (B, F, N)."""
    anchors = box_cxcywh_to_xyxy(code.anchors_cxcywh(blank_levels(code=code)))
    return pairwise_iou(faces, anchors.expand(len(faces), -1, 4))


def counts(owner: Tensor, faces: int) -> Tensor:
    """Anchors of each face, (B, F)."""
    return (owner[..., None] == torch.arange(faces)).sum(1)


def right_numbers(*, shift: float = 0.0) -> Tensor:
    """(N, K) that say FACES, moved by `shift` pixels, and are sure of it."""
    owner = matched(FACES)[0]
    anchors = CODE.anchors_cxcywh(blank_levels())
    numbers = torch.zeros(len(anchors), CODE.numbers)
    numbers[:, 2:6] = boxes_to_offsets(FACES[0, owner] + shift, anchors)
    numbers[:, 1] = torch.where(owner >= 0, SURE, -SURE)
    return numbers


def loss_of(
    levels: list[Tensor],
    faces: Tensor = FACES,
    *,
    ignored: tuple[int, ...] = (),
    settings: LossSettings | None = None,
) -> Losses:
    ignore = torch.zeros(faces.shape[:2], dtype=torch.bool)
    ignore[:, list(ignored)] = True
    return multibox_loss(CODE, levels, faces, ~ignore, ignore, settings=settings)


def face_gradient(levels: list[Tensor], loss: Losses) -> Tensor:
    """Of the face logits, (B, N)."""
    torch.autograd.backward(loss.total)
    gradients = [level.grad for level in levels if level.grad is not None]
    assert len(gradients) == len(levels)
    return CODE.split(gradients)[..., 1]


def test_offsets_and_boxes_are_inverse() -> None:
    anchors = CODE.anchors_cxcywh(blank_levels())
    boxes = random_faces(1, len(anchors), seed=0)[0]
    offsets = boxes_to_offsets(boxes, anchors)
    torch.testing.assert_close(CODE.offsets_to_boxes(offsets, anchors), boxes, atol=1e-3, rtol=1e-4)


def stretched_faces(images: int, *, match_iou: float) -> Tensor:
    """Faces as high as an anchor and as wide as one that it matches can be: the furthest reach."""
    centre = torch.rand(images, 2, generator=torch.Generator().manual_seed(0)) * SIZE
    centre[:, 1] = 60
    size = torch.tensor([32 / match_iou * 0.999, 32.0]).expand(images, 2)
    return box_cxcywh_to_xyxy(torch.cat([centre, size], 1))[:, None]


@pytest.mark.parametrize("code", [CODE, OBLONG])
@pytest.mark.parametrize("match_iou", [0.05, 0.35, 0.6, 1.0])
def test_a_lone_face_has_its_best_anchor_and_all_that_overlap_it_enough(
    code: AnchorCode, match_iou: float
) -> None:
    faces = torch.cat([random_faces(200, 1, seed=0), stretched_faces(200, match_iou=match_iou)])
    positive = matched(faces, code=code, match_iou=match_iou) == 0
    iou = overlaps(faces, code=code)[:, 0]
    enough = iou >= match_iou
    assert (positive | ~enough).all()
    extra = positive & ~enough
    assert (extra.sum(1) == (~enough.any(1)).long()).all()
    best = iou.where(extra, -1).amax(1)
    alone = extra.any(1)
    assert (best[alone] >= iou.amax(1)[alone] - 1e-3).all()


def test_an_anchor_that_overlaps_several_faces_answers_for_the_one_it_overlaps_most() -> None:
    faces = random_faces(8, 12, seed=1)
    owner, iou = matched(faces), overlaps(faces)
    best = iou.amax(1)
    own = iou.gather(1, owner.clamp(min=0)[:, None])[:, 0]
    settled = (owner >= 0) & (best >= 0.35)
    assert ((best >= 0.35) <= (owner >= 0)).all()
    lesser = (settled & (own < best - 1e-3)).sum(1)
    assert (lesser < 12).all()  # only anchors that are some face's only or best one
    assert settled.sum() > 10 * lesser.sum()


@pytest.mark.parametrize("seed", range(3))
def test_every_face_has_an_anchor(seed: int) -> None:
    faces = random_faces(3, 40, seed=seed)
    assert counts(matched(faces), 40).min() >= 1


def test_every_face_of_a_crowd_has_an_anchor_however_small() -> None:
    grid = torch.cartesian_prod(torch.arange(6), torch.arange(6)) * 5 + 40.0
    crowd = torch.cat([grid, grid + 4], 1)[None]  # 36 faces over some 16 cells
    assert counts(matched(crowd), 36).min() >= 1
    same = torch.tensor([60.0, 60, 66, 66]).expand(1, 50, 4)
    assert counts(matched(same), 50).min() >= 1


def test_faces_outside_have_an_anchor() -> None:
    corners = torch.tensor([[-30.0, 50], [SIZE + 20, 20], [60, -40], [-9, SIZE + 9]])
    faces = torch.cat([corners, corners + 8], 1)[None]
    assert counts(matched(faces), 4).min() >= 1


def test_no_face_takes_anothers_best_anchor() -> None:
    anchor = torch.tensor([52.0, 52, 68, 68])  # that of 16 pixels at (60, 60)
    better, worse = anchor + 1, anchor + torch.tensor([0.0, 0, 5, 5])
    owner = matched(torch.stack([worse, better])[None], match_iou=0.9)
    alone = matched(better[None, None], match_iou=0.9)
    assert torch.equal(owner[0] == 1, alone[0] == 0)
    assert (owner == 0).sum() == 1


def test_the_nearest_anchor_has_a_face_smaller_than_all() -> None:
    centre = torch.tensor([61.0, 59.0])
    face = torch.cat([centre - 2, centre + 2])[None, None]
    chosen = CODE.anchors_cxcywh(blank_levels())[matched(face)[0] == 0]
    assert chosen.tolist() == [[60.0, 60.0, 16.0, 16.0]]


def test_crowds_compared_in_parts_are_matched_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    faces = random_faces(3, 20, seed=2)
    whole = matched(faces)
    monkeypatch.setattr("objectives.multibox.PAIRS_AT_ONCE", 3000)
    assert torch.equal(matched(faces), whole)


def test_further_from_the_truth_costs_more() -> None:
    for kind in ("eiou", "smooth_l1"):
        settings = LossSettings(box_kind=kind)
        shifts = (0.0, 0.5, 2.0, 8.0)
        levels = [levels_of(right_numbers(shift=shift)) for shift in shifts]
        totals = [loss_of(x, settings=settings).total.item() for x in levels]
        assert totals == sorted(totals)
        assert totals[0] == pytest.approx(0, abs=3e-3)


def test_doubting_any_anchor_costs_more() -> None:
    right, owner = right_numbers(), matched(FACES)[0]
    right_loss = loss_of(levels_of(right))
    least = right_loss.classification + 0.9 * SURE / right_loss.positives
    for anchor in (*range(0, len(right), 37), *(owner >= 0).nonzero().flatten().tolist()):
        doubting = right.clone()
        doubting[anchor, 1] *= -1
        assert loss_of(levels_of(doubting)).classification > least, anchor


@pytest.mark.parametrize("ratio", [1, 3, 7])
def test_the_hardest_anchors_are_negatives_in_the_ratio_asked_for(ratio: int) -> None:
    faces = torch.cat([FACES, FACES + 2])
    wanted = torch.tensor([[True, True, True], [False, False, False]])
    levels = [level.requires_grad_() for level in random_levels(2)]
    settings = LossSettings(negative_ratio=ratio)
    loss = multibox_loss(CODE, levels, faces, wanted, ~every(faces), settings=settings)
    numbers = CODE.split(levels)
    doubt = numbers[..., 1] - numbers[..., 0]
    gradient = face_gradient(levels, loss)
    pushed = gradient > 0  # down
    assert torch.equal(gradient[0] < 0, matched(FACES)[0] >= 0)
    assert loss.positives == (gradient < 0).sum()
    assert pushed.sum(1).tolist() == [ratio * loss.positives, ratio]
    for image in range(2):
        others = ~pushed[image] & ~(gradient[image] < 0)
        assert doubt[image][pushed[image]].min() >= doubt[image][others].max()


def test_ignored_regions_are_no_negatives() -> None:
    numbers = right_numbers()
    invented = loss_of(levels_of(numbers), FACES[:, :2]).classification
    assert invented > 1
    assert loss_of(levels_of(numbers), FACES, ignored=(2,)).classification < 0.01


def test_what_ignored_regions_silence() -> None:
    faces = random_faces(20, 6, seed=3)
    ignore = torch.arange(6) < torch.arange(20)[:, None] % 7
    levels = blank_levels(20)
    silenced = silenced_anchors(CODE, levels, faces, ignore, match_iou=0.35)
    anchors = CODE.anchors_cxcywh(levels)
    inside = points_in_boxes(anchors[:, :2], faces) & ignore[:, None]
    overlap = (overlaps(faces) >= 0.35) & ignore[..., None]
    expected = inside.any(2) | overlap.any(1)
    assert (silenced >= expected).all()
    assert ((silenced & ~expected).sum(1) <= ignore.sum(1)).all()  # the best anchors of small ones
    tiny = torch.tensor([[[61.0, 61, 64, 64]]])  # too small to hold an anchor's centre
    silenced = silenced_anchors(CODE, blank_levels(), tiny, every(tiny), match_iou=0.35)
    assert anchors[silenced[0]].tolist() == [[60.0, 60.0, 16.0, 16.0]]


def test_a_wanted_face_inside_an_ignored_region_is_still_learned() -> None:
    faces = torch.cat([torch.tensor([[[0.0, 0, SIZE, SIZE]]]), FACES], 1)
    loss, alone = loss_of(random_levels(1), faces, ignored=(0,)), loss_of(random_levels(1))
    assert torch.equal(loss.positives, alone.positives)
    torch.testing.assert_close(loss.box, alone.box)
    assert 0 < loss.classification < alone.classification


def test_landmarks_get_no_gradient_and_boxes_only_that_of_positives() -> None:
    levels = [level.requires_grad_() for level in random_levels(1)]
    torch.autograd.backward(loss_of(levels).total)
    gradient = CODE.split([level.grad for level in levels if level.grad is not None])[0]
    assert (gradient[:, 6:] == 0).all()
    assert torch.equal((gradient[:, 2:6] != 0).any(1), matched(FACES)[0] >= 0)


def test_values_worked_out_by_hand() -> None:
    code = AnchorCode((8,), sizes=((8.0,),))  # 2 x 2 anchors that touch
    level = torch.zeros(1, 6, 2, 2)
    face = torch.tensor([[[0.0, 0, 8, 8]]])  # the first of them
    none = ~every(face)
    settings = LossSettings(negative_ratio=2)
    loss = multibox_loss(code, [level], face, every(face), none, settings=settings)
    assert loss.positives == 1
    assert loss.classification.item() == pytest.approx((1 + 2) * math.log(2))
    assert loss.quality == loss.box == 0
    loss = multibox_loss(code, [level], face, every(face), none)  # only 3 negatives to be had
    assert loss.total.item() == pytest.approx((1 + 3) * math.log(2))
    loss = multibox_loss(code, [level], face, none, none, settings=settings)
    assert loss.total.item() == pytest.approx(2 * math.log(2))  # 2 for no positive
    level[0, 2, 0, 0] = 10.0  # dx: 10 * 0.1 * 8 = 8 pixels to the right, where 16 x 8 is around
    loss = multibox_loss(code, [level], face, every(face), none)
    assert loss.box.item() == pytest.approx(1 + 8**2 / (16**2 + 8**2))
    settings = LossSettings(box_kind="smooth_l1")
    loss = multibox_loss(code, [level], face, every(face), none, settings=settings)
    assert loss.box.item() == pytest.approx(10 - 0.5)
