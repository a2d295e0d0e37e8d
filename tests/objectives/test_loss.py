"""The detection loss: what must cost more than what, and where gradients go."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from data.boxes import nms
from data.sample import Faces
from objectives.assignment import AssignmentSettings, assign_faces
from objectives.average_precision import Detections, evaluate_detections
from objectives.box_losses import IOU_LOSSES
from objectives.loss import Losses, LossSettings, detection_loss, quality_focal
from search_spaces.heads import STRIDES, decode_boxes, detection_scores, level_points

SIZE = 128
FACES = torch.tensor([[[8.0, 8, 20, 22], [40, 50, 80, 94], [100, 20, 124, 44]]])


def random_levels(images: int, *, seed: int = 0) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(images, 6, SIZE // s, SIZE // s, generator=random) for s in STRIDES]


def levels_that_say(faces: Tensor, *, shift: float = 0.0) -> list[Tensor]:
    """Points near a face predict its box, moved by `shift` px; those it is assigned are sure."""
    levels = [torch.zeros(1, 6, SIZE // s, SIZE // s) for s in STRIDES]
    points, strides = level_points(levels)
    centres, sizes = (faces[0, :, :2] + faces[0, :, 2:]) / 2, faces[0, :, 2:] - faces[0, :, :2]
    nearest = (points[:, None] - centres).norm(dim=-1).argmin(1)
    codes = torch.zeros(len(points), 6)
    codes[:, 2:4] = (centres[nearest] + shift - points) / strides[:, None]
    codes[:, 4:] = (sizes[nearest] / strides[:, None]).log()
    wanted = torch.ones(faces.shape[:2], dtype=torch.bool)
    boxes, logits, _ = decode_boxes(levels_of(codes))
    owner = assign_faces(levels, boxes, logits, faces, wanted, settings=AssignmentSettings())
    codes[:, :2] = torch.where(owner[0, :, None] >= 0, 9.0, -9.0)
    return levels_of(codes)


def levels_of(codes: Tensor) -> list[Tensor]:
    """(N, 6) as three levels of one image."""
    sizes = [SIZE // s for s in STRIDES]
    parts = torch.split(codes, [size**2 for size in sizes])
    return [part.T.reshape(1, 6, n, n) for part, n in zip(parts, sizes, strict=True)]


def loss_of(levels: list[Tensor], faces: Tensor, *, ignored: tuple[int, ...] = ()) -> Losses:
    ignore = torch.zeros(faces.shape[:2], dtype=torch.bool)
    ignore[:, list(ignored)] = True
    return detection_loss(levels, faces, ~ignore, ignore)


def test_the_defaults_give_the_losses_they_gave_before_there_were_kinds() -> None:
    wanted = torch.tensor([[True, True, False], [True, True, True]])
    ignore = torch.tensor([[False, False, True], [False, False, False]])
    loss = detection_loss(random_levels(2), FACES.expand(2, 3, 4), wanted, ignore)
    assert loss.positives == 6
    parts = [loss.total.item(), loss.classification.item(), loss.quality.item(), loss.box.item()]
    before = [40.855690002441406, 34.82325744628906, 0.8097420334815979, 1.125511884689331]
    assert parts == pytest.approx(before, rel=1e-6)


def test_total_is_the_weighted_sum() -> None:
    settings = LossSettings(class_weight=2.0, quality_weight=3.0, box_weight=5.0)
    wanted = torch.ones(FACES.shape[:2], dtype=torch.bool)
    loss = detection_loss(random_levels(1), FACES, wanted, ~wanted, settings=settings)
    torch.testing.assert_close(
        loss.total, 2 * loss.classification + 3 * loss.quality + 5 * loss.box
    )


def test_further_from_the_truth_costs_more() -> None:
    losses = [loss_of(levels_that_say(FACES, shift=s), FACES) for s in (0.0, 2.0, 4.0, 8.0)]
    totals = [loss.total.item() for loss in losses]
    assert totals == sorted(totals)
    assert totals[0] == pytest.approx(0, abs=1e-3)
    assert totals[-1] < loss_of(random_levels(1), FACES).total


def test_missing_a_face_and_inventing_one_both_cost() -> None:
    right = loss_of(levels_that_say(FACES), FACES)
    missing = loss_of(levels_that_say(FACES[:, :2]), FACES)
    invented = loss_of(levels_that_say(FACES), FACES[:, :2])
    assert missing.total > right.total
    assert invented.classification > right.classification


def test_gradient_reaches_every_level_and_every_output() -> None:
    levels = [level.requires_grad_() for level in random_levels(2)]
    faces = torch.tensor([[[50.0, 50, 58, 58], [20, 20, 60, 62], [0, 0, 120, 120]]]).expand(2, 3, 4)
    torch.autograd.backward(loss_of(levels, faces).total)
    for level in levels:
        assert level.grad is not None
        assert level.grad.isfinite().all()
        assert (level.grad[:, 0] != 0).all()  # every point is told whether it is a face
    touched = torch.cat(
        [g.flatten(2) for g in (level.grad for level in levels) if g is not None], 2
    )
    positive = (touched[:, 2:] != 0).any(1)
    assert torch.equal(positive, touched[:, 1] != 0)  # quality is judged where boxes are
    assert positive.any(1).all()


@pytest.mark.parametrize("faces", [torch.zeros(2, 1, 4), FACES.expand(2, 3, 4)])
def test_a_batch_without_wanted_faces_still_teaches(faces: Tensor) -> None:
    levels = [level.requires_grad_() for level in random_levels(2)]
    none = torch.zeros(faces.shape[:2], dtype=torch.bool)
    loss = detection_loss(levels, faces, none, none)
    torch.autograd.backward(loss.total)
    assert loss.total.isfinite()
    assert [part.item() for part in (loss.positives, loss.box, loss.quality)] == [0, 0, 0]
    for level in levels:
        assert level.grad is not None
        assert (level.grad[:, 0] > 0).all()
        assert (level.grad[:, 1:] == 0).all()


def test_a_sure_prediction_in_an_ignored_region_costs_nothing() -> None:
    quiet, sure = levels_that_say(FACES[:, :2]), levels_that_say(FACES)
    assert loss_of(sure, FACES, ignored=(2,)).classification < 0.01
    assert loss_of(sure, FACES[:, :2]).classification > 1
    torch.testing.assert_close(
        loss_of(sure, FACES, ignored=(2,)).box, loss_of(quiet, FACES, ignored=(2,)).box
    )


def test_every_ignored_region_of_an_image_counts() -> None:
    assert loss_of(levels_that_say(FACES), FACES, ignored=(1, 2)).classification < 0.01


def test_a_prediction_covered_by_an_ignored_region_costs_nothing_wherever_its_point_lies() -> None:
    levels = levels_that_say(FACES[:, :2])
    levels[0][0, :2, 15, 1] = 8.0  # a point far from the third face ...
    point = torch.tensor([1.5 * 8, 15.5 * 8])
    levels[0][0, 2:4, 15, 1] = (torch.tensor([112.0, 32.0]) - point) / 8  # ... says it is there
    levels[0][0, 4:, 15, 1] = math.log(24 / 8)
    assert loss_of(levels, FACES[:, :2]).classification > 0.1
    assert loss_of(levels, FACES, ignored=(2,)).classification < 0.01


def test_a_point_in_an_ignored_region_costs_nothing_whatever_its_box() -> None:
    levels = levels_that_say(FACES[:, :2])
    levels[0][0, :2, 4, 13] = 8.0  # at (108, 36), in the third face ...
    levels[0][0, 4:, 4, 13] = 3.0  # ... with a box far larger than it
    assert loss_of(levels, FACES[:, :2]).classification > 0.1
    assert loss_of(levels, FACES, ignored=(2,)).classification < 0.01


def test_the_fit_of_a_box_is_a_target_and_not_a_way_to_a_lower_loss() -> None:
    levels = [level.requires_grad_() for level in random_levels(1)]
    wanted = torch.ones(FACES.shape[:2], dtype=torch.bool)
    settings = LossSettings(box_weight=0.0, least_target=0.0)
    loss = detection_loss(levels, FACES, wanted, ~wanted, settings=settings)
    torch.autograd.backward(loss.total)
    assert all(level.grad is not None and (level.grad[:, 2:] == 0).all() for level in levels)


def test_a_wanted_face_inside_an_ignored_region_is_still_learned() -> None:
    faces = torch.cat([torch.tensor([[[0.0, 0, SIZE, SIZE]]]), FACES], 1)
    loss = loss_of(random_levels(1), faces, ignored=(0,))
    alone = loss_of(random_levels(1), FACES)
    assert torch.equal(loss.positives, alone.positives)
    torch.testing.assert_close(loss.box, alone.box)
    assert 0 < loss.classification < alone.classification


def test_a_batch_is_its_images_weighted_by_their_positives() -> None:
    levels = random_levels(4)
    faces = torch.rand(4, 5, 4, generator=torch.Generator().manual_seed(1)) * 60
    faces[..., 2:] += faces[..., :2] + 4
    wanted = torch.tensor(
        [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]
    ).bool()
    ignore = torch.tensor(
        [[0, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]
    ).bool()
    together = detection_loss(levels, faces, wanted, ignore)
    alone = [
        detection_loss(
            [level[i : i + 1] for level in levels],
            faces[i : i + 1],
            wanted[i : i + 1],
            ignore[i : i + 1],
        )
        for i in range(4)
    ]
    assert together.positives == sum(loss.positives for loss in alone)
    for part in ("total", "classification", "quality", "box"):
        parts = [getattr(loss, part) * loss.positives.clamp(min=1) for loss in alone]
        whole = getattr(together, part) * together.positives.clamp(min=1)
        torch.testing.assert_close(torch.stack(parts).sum(), whole)


def test_padding_and_the_order_of_faces_change_nothing() -> None:
    levels = random_levels(1)
    wanted = torch.tensor([[True, True, False]])
    plain = detection_loss(levels, FACES, wanted, ~wanted)
    padded = torch.cat([torch.zeros(1, 2, 4), FACES.flip(1)], 1)
    rows = torch.tensor([[False, False, False, True, True]])
    ignored = torch.tensor([[False, False, True, False, False]])
    other = detection_loss(levels, padded, rows, ignored)
    torch.testing.assert_close(other.total, plain.total)


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_wild_outputs_give_finite_losses_and_gradients(scale: float) -> None:
    levels = [(level * scale).requires_grad_() for level in random_levels(1)]
    loss = loss_of(levels, FACES)
    torch.autograd.backward(loss.total)
    assert loss.total.isfinite()
    assert all(level.grad is not None and level.grad.isfinite().all() for level in levels)


def test_half_precision_levels_are_judged_in_single() -> None:
    levels = [level.bfloat16() for level in random_levels(1)]
    loss = loss_of(levels, FACES)
    assert loss.total.dtype == torch.float32
    assert torch.equal(loss.total, loss_of([level.float() for level in levels], FACES).total)


def test_quality_focal_is_least_at_its_target_and_cross_entropy_without_focus() -> None:
    probability = torch.linspace(0.01, 0.99, 99)
    logits, target = probability.logit(), torch.tensor(0.7).expand(99)
    values = quality_focal(logits, target, focus=2.0)
    assert values.argmin() == 69
    assert float(values[69]) == pytest.approx(0, abs=1e-9)
    entropy = -(0.7 * probability.log() + 0.3 * (1 - probability).log())
    torch.testing.assert_close(quality_focal(logits, target, focus=0.0), entropy)


def with_settings(settings: LossSettings) -> Losses:
    wanted = torch.ones(FACES.shape[:2], dtype=torch.bool)
    return detection_loss(random_levels(1), FACES, wanted, ~wanted, settings=settings)


def test_bce_is_focal_loss_without_focus() -> None:
    unfocused = with_settings(LossSettings(focus=0.0))
    assert torch.equal(with_settings(LossSettings(class_kind="bce")).total, unfocused.total)
    assert unfocused.classification > with_settings(LossSettings()).classification


def test_the_kind_of_box_loss_changes_the_box_loss_alone() -> None:
    losses = [with_settings(LossSettings(box_kind=k)) for k in ("eiou", "diou", "giou", "iou")]
    assert len({loss.box.item() for loss in losses}) == len(losses) == len(IOU_LOSSES)
    assert all(torch.equal(losses[0].classification, loss.classification) for loss in losses)
    assert losses[0].box > losses[1].box > losses[3].box  # each adds to the one after


def test_offsets_from_anchors_are_refused_where_there_are_none() -> None:
    with pytest.raises(ValueError, match="box_kind must be one of eiou, diou, giou, iou without"):
        with_settings(LossSettings(box_kind="smooth_l1"))


def test_ignored_regions_looked_at_in_parts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    faces = torch.rand(3, 6, 4, generator=torch.Generator().manual_seed(1)) * 60
    faces[..., 2:] += faces[..., :2] + 4
    ignore = torch.tensor([[0, 1, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0]]).bool()
    whole = detection_loss(random_levels(3), faces, ~ignore, ignore)
    monkeypatch.setattr("objectives.loss.PAIRS_AT_ONCE", 700)  # two regions at a time
    parts = detection_loss(random_levels(3), faces, ~ignore, ignore)
    assert torch.equal(whole.total, parts.total)
    assert whole.total < detection_loss(random_levels(3), faces, ~ignore, ~ignore & ignore).total


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("box_weight", -1.0, "at least 0"),
        ("focus", math.nan, "at least 0"),
        ("coordinate_weight", -0.1, "at least 0"),
        ("no_object_weight", -0.1, "at least 0"),
        ("negative_ratio", 0, "at least 1"),
        ("least_target", 2.0, "from 0 to 1"),
        ("ignored_coverage", -0.5, "from 0 to 1"),
        ("match_iou", 0.0, "in 0..1, 0 excluded"),
        ("match_iou", 1.5, "in 0..1, 0 excluded"),
        ("box_kind", "ciou", "one of eiou, diou, giou, iou, smooth_l1"),
        ("class_kind", "hinge", "one of focal, bce"),
    ],
)
def test_bad_settings_are_refused(name: str, value: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be {rule}, got {value}"):
        replace(LossSettings(), **{name: value})


def test_fifty_steps_on_free_outputs_find_all_faces() -> None:
    levels = [torch.zeros(1, 6, SIZE // s, SIZE // s) for s in STRIDES]
    for level in levels:
        level[:, 0] = -4
        level.requires_grad_()
    optimizer = torch.optim.Adam(levels, lr=0.3)
    for _ in range(50):
        optimizer.zero_grad()
        torch.autograd.backward(loss_of(levels, FACES).total)
        optimizer.step()
    boxes, class_logits, quality_logits = decode_boxes([level.detach() for level in levels])
    scores = detection_scores(class_logits, quality_logits)[0].numpy()
    boxes_xyxy = boxes[0].numpy()
    kept = nms(boxes_xyxy, scores, iou_threshold=0.4, max_boxes=100)
    report = evaluate_detections(
        [Detections(boxes_xyxy[kept], scores[kept])], [Faces.of(FACES[0].numpy())], resamples=1
    )
    assert report.ap == 1
    assert scores[kept[:3]].min() > 0.5 > scores[kept[3:]].max(initial=0)
