"""Which points answer for which faces."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from data.boxes import points_in_boxes
from objectives.assignment import AssignmentSettings, assign_faces, positions_inside
from search_spaces.heads import STRIDES, decode_boxes, level_points

SIZE = 128


def blank_levels(images: int = 1, *, size: int = SIZE) -> list[Tensor]:
    """What an untrained network says: no faces, boxes of one stride."""
    return [torch.zeros(images, 6, size // s, size // s) for s in STRIDES]


def random_faces(images: int, count: int, *, seed: int, least: float = 4) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    size = least + torch.rand(images, count, 2, generator=random).pow(3) * (SIZE / 2)
    corner = torch.rand(images, count, 2, generator=random) * (SIZE - size)
    return torch.cat([corner, corner + size], -1)


def assigned(
    levels: list[Tensor],
    faces: Tensor,
    wanted: Tensor | None = None,
    settings: AssignmentSettings | None = None,
) -> Tensor:
    predicted, logits, _ = decode_boxes(levels)
    return assign_faces(
        levels,
        predicted,
        logits,
        faces,
        torch.ones(faces.shape[:2], dtype=torch.bool) if wanted is None else wanted,
        settings=AssignmentSettings() if settings is None else settings,
    )


def counts(owner: Tensor, faces: int) -> Tensor:
    """Points of each face, (B, F)."""
    return (owner[..., None] == torch.arange(faces)).sum(1)


@pytest.mark.parametrize("seed", range(4))
def test_every_face_gets_a_point_and_none_too_many(seed: int) -> None:
    faces = random_faces(3, 30, seed=seed)
    torch.manual_seed(seed)
    levels = [level + torch.randn_like(level) for level in blank_levels(3)]
    points = counts(assigned(levels, faces), 30)
    assert points.min() >= 1
    assert points.max() <= AssignmentSettings().most_positives


def test_faces_smaller_than_a_cell_get_a_point_wherever_they_lie() -> None:
    for shift in range(0, 16, 3):
        corner = torch.tensor([40.0 + shift, 41.0 + shift])
        face = torch.cat([corner, corner + 2])[None, None]
        assert (assigned(blank_levels(), face) == 0).any(), shift


def test_faces_at_the_border_and_outside_get_a_point() -> None:
    corners = torch.tensor([[0, 0], [SIZE - 4, SIZE - 4], [SIZE - 2, 0], [-3, 50], [SIZE + 1, 20]])
    faces = torch.cat([corners, corners + 4], -1)[None].float()
    assert counts(assigned(blank_levels(), faces), len(corners)).min() >= 1


def test_identical_faces_share_the_points_around_them() -> None:
    faces = torch.tensor([60.0, 60, 68, 68]).expand(1, 5, 4)
    assert (counts(assigned(blank_levels(), faces), 5) >= 1).all()


def test_more_faces_than_points_still_ends() -> None:
    faces = torch.tensor([14.0, 14, 18, 18]).expand(1, 60, 4)
    owner = assigned(blank_levels(size=32), faces)
    assert 1 <= (counts(owner, 60) >= 1).sum() < 60


def test_points_lie_in_their_face_or_next_to_its_centre() -> None:
    faces = random_faces(2, 12, seed=1)
    levels = blank_levels(2)
    owner = assigned(levels, faces)
    points, strides = level_points(levels)
    image, point = torch.nonzero(owner >= 0, as_tuple=True)
    own = faces[image, owner[image, point]]
    inside = ((points[point] > own[:, :2]) & (points[point] < own[:, 2:])).all(-1)
    distance = (points[point] - (own[:, :2] + own[:, 2:]) / 2).norm(dim=-1)
    assert (inside | (distance <= strides[point])).all()


def test_untrained_network_sends_larger_faces_to_coarser_levels() -> None:
    sizes = torch.tensor([8.0, 40, 110])
    chosen = []
    for size in sizes:
        face = torch.stack([64 - size / 2, 64 - size / 2, 64 + size / 2, 64 + size / 2])
        levels = blank_levels()
        owner = assigned(levels, face[None, None])
        chosen.append(level_points(levels)[1][owner[0] == 0].mean())
    assert chosen[0] == 8
    assert chosen[0] < chosen[1] < chosen[2] == 32


@pytest.mark.parametrize(("row", "column"), [(3, 3), (3, 4), (4, 3), (4, 4)])
@pytest.mark.parametrize(("channels", "value"), [([0], 9.0), ([4, 5], math.log(40 / 16))])
def test_the_best_box_or_the_surest_logit_near_the_centre_wins_the_face(
    row: int, column: int, channels: list[int], value: float
) -> None:
    face = torch.tensor([[[44.0, 44, 84, 84]]])  # its centre is the corner of four cells
    levels = blank_levels()
    for level in levels:
        level[:, 0] = -9
    levels[1][0, channels, row, column] = value
    owner = assigned(levels, face, settings=AssignmentSettings(most_positives=1))
    assert owner[0].argmax() == 16 * 16 + row * 8 + column
    assert (owner >= 0).sum() == 1


def test_better_predictions_get_more_points() -> None:
    face = torch.tensor([[[32.0, 32, 96, 96]]])
    good = blank_levels()
    points, strides = level_points(good)
    code = torch.cat(
        [(64 - points) / strides[:, None], (64 / strides).log()[:, None].expand(-1, 2)], 1
    )
    start = 0
    for level in good:
        cells = level.shape[2] * level.shape[3]
        level[0, 2:] = code[start : start + cells].T.view(4, *level.shape[2:])
        start += cells
    assert (assigned(good, face) == 0).sum() == AssignmentSettings().most_positives
    assert (assigned(blank_levels(), face) == 0).sum() < AssignmentSettings().most_positives


def test_unwanted_and_padded_faces_get_nothing() -> None:
    faces = random_faces(2, 6, seed=2)
    wanted = torch.tensor([[True, False] * 3, [False] * 6])
    points = counts(assigned(blank_levels(2), faces, wanted), 6)
    assert ((points > 0) == wanted).all()
    padded = torch.cat([faces, torch.zeros(2, 3, 4)], 1)
    still = torch.cat([wanted, torch.zeros(2, 3, dtype=torch.bool)], 1)
    assert torch.equal(
        assigned(blank_levels(2), padded, still), assigned(blank_levels(2), faces, wanted)
    )


def test_images_do_not_affect_each_other() -> None:
    faces = random_faces(4, 9, seed=3)
    torch.manual_seed(0)
    levels = [torch.randn_like(level) for level in blank_levels(4)]
    together = assigned(levels, faces)
    for i in range(4):
        alone = assigned([level[i : i + 1] for level in levels], faces[i : i + 1])
        assert torch.equal(together[i : i + 1], alone)


def test_oblong_images_use_the_right_columns_and_rows() -> None:
    for width, height in ((128, 64), (64, 128)):
        levels = [torch.zeros(1, 6, height // s, width // s) for s in STRIDES]
        points, _ = level_points(levels)
        for point in range(width * height // 64):  # each point of the finest level
            face = torch.cat([points[point] - 4, points[point] + 4])[None, None]
            assert assigned(levels, face)[0, point] == 0, (width, height, point)


def test_numbers_that_are_not_finite_end_too() -> None:
    levels = [torch.full_like(level, torch.nan) for level in blank_levels()]
    assert (assigned(levels, random_faces(1, 5, seed=0)) == -1).all()


TASK_ALIGNED = AssignmentSettings(assignment_kind="task_aligned")


@pytest.mark.parametrize("seed", range(4))
def test_task_aligned_points_lie_in_their_face_but_for_one_of_its_own(seed: int) -> None:
    faces = random_faces(3, 30, seed=seed)
    torch.manual_seed(seed)
    levels = [level + torch.randn_like(level) for level in blank_levels(3)]
    owner = assigned(levels, faces, settings=TASK_ALIGNED)
    assert counts(owner, 30).min() >= 1
    outside = ~points_in_boxes(level_points(levels)[0], faces)
    strays = (owner[..., None] == torch.arange(30)) & outside
    assert strays.sum(1).max() <= 1


def test_task_aligned_takes_as_many_points_as_it_may() -> None:
    face = torch.tensor([[[32.0, 32, 96, 96]]])
    for most in (1, 4, 13):
        settings = AssignmentSettings(assignment_kind="task_aligned", most_positives=most)
        assert (assigned(blank_levels(), face, settings=settings) == 0).sum() == most
    small = torch.tensor([[[32.0, 32, 48, 48]]])  # four points of stride 8 and one of 16 inside
    assert (assigned(blank_levels(), small, settings=TASK_ALIGNED) == 0).sum() == 5


def test_the_exponents_say_whether_a_sure_point_or_a_good_box_is_better_aligned() -> None:
    face = torch.tensor([[[44.0, 44, 84, 84]]])  # its centre is the corner of four cells
    levels = blank_levels()
    for level in levels:
        level[:, 0] = -1
    levels[1][0, 0, 3, 3] = 3.0  # probability 0.95 instead of 0.27
    levels[1][0, 4:6, 4, 4] = math.log(20 / 16)  # IoU 0.25 instead of 0.16
    sure, fitting = 16 * 16 + 3 * 8 + 3, 16 * 16 + 4 * 8 + 4
    for overlap_exponent, best in ((6.0, fitting), (0.5, sure)):
        settings = AssignmentSettings(
            assignment_kind="task_aligned", most_positives=1, overlap_exponent=overlap_exponent
        )
        assert assigned(levels, face, settings=settings)[0].argmax() == best


def test_positions_inside_boxes_are_those_whose_points_are() -> None:
    random = torch.Generator().manual_seed(0)
    corners = torch.rand(60, 2, generator=random) * 80 - 10
    boxes = torch.cat([corners, corners + torch.rand(60, 2, generator=random) * 30], 1)
    edges = torch.tensor([[4.0, 4, 12, 12], [3, 3, 13, 13], [20, 20, 20, 20], [0, 0, 0, 0]])
    boxes = torch.cat([boxes, edges, edges.roll(1), -edges])
    images = torch.arange(len(boxes)) % 7
    inside = positions_inside(torch.zeros(8, 1, 7, 8), 8, boxes, images)
    points = torch.cartesian_prod(torch.arange(7), torch.arange(8)).flip(1) * 8 + 4.0
    for image in range(8):
        expected = points_in_boxes(points, boxes[images == image]).any(1)
        assert torch.equal(inside[image].flatten(), expected)
    assert inside.any()


@pytest.mark.parametrize(
    "bad",
    [
        {"reach_cells": -1},
        {"most_positives": 0},
        {"face_strides": 0.0},
        {"overlap_exponent": -1.0},
        {"score_exponent": math.nan},
        {"assignment_kind": "atss"},
    ],
)
def test_bad_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        AssignmentSettings(**bad)
