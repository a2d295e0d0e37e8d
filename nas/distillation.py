"""What a network can learn from another: from its predictions and from its feature maps.

Shape letters: B images, N predictions of all levels, P positions of all levels, level by level
and row by row; H, W the positions of one level; C channels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from data.errors import UserError
from nas.fitting import seeded
from nas.teachers import PROBE_SHAPE, Targets, Teacher, level_sizes
from objectives.box_losses import eiou_loss
from search_spaces.codes import AnchorCode, BoxCode
from search_spaces.face_network import FaceNetwork

FACE_SCORE = 0.5
"""From this score on a teacher sees a face. Lower scores are many and mostly wrong: of those of a
searched network on real crops, 14 % of the sum lay inside annotated faces, 75 % from 0.5 on."""

LEAST_PROBABILITY = 1e-6


@dataclass(frozen=True, slots=True)
class DistillationSettings:
    """How much a student follows its teacher, beside learning from the annotation.

    output_weight: of the distance of scores and boxes. feature_weight: of the distance of feature
    maps; None is 1 where the teacher shows them and 0 where it does not. face_score: from this
    score on a teacher sees a face, whose box and features are to be learned.
    """

    output_weight: float = 1.0
    feature_weight: float | None = None
    face_score: float = FACE_SCORE

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"{field.name} must be at least 0 and finite, got {value}")


def dense_distillation_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """How far a student's levels are from a teacher's; least, with gradient 0, where they agree.

    student, teacher: levels as `Detector` gives them, of equal shapes; no gradient reaches the
    teacher. Class logits follow the teacher's face probability at every position (cross-entropy
    weighted by the squared difference, as in Generalized Focal Loss, arXiv:2006.04388, equation
    4); quality and box code follow it where the teacher sees a face, weighted by its probability.
    The sum is divided by the teacher's total probability, at least 1.
    """
    own = torch.cat([level.flatten(2) for level in student], 2).float()
    other = torch.cat([level.detach().flatten(2) for level in teacher], 2).float()
    face = other[:, 0].sigmoid()
    surprise = (own[:, 0].sigmoid() - face).detach().square()
    classes = surprise * functional.binary_cross_entropy_with_logits(
        own[:, 0], face, reduction="none"
    )
    quality = face * functional.binary_cross_entropy_with_logits(
        own[:, 1], other[:, 1].sigmoid(), reduction="none"
    )
    box = face * functional.smooth_l1_loss(own[:, 2:6], other[:, 2:6], reduction="none").sum(1)
    return (classes + quality + box).sum() / face.sum().clamp(min=1.0)


def best_of_positions(
    code: BoxCode, boxes_xyxy: Tensor, scores: Tensor, *, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """The prediction of highest score of each position, from all that a code decodes to.

    boxes_xyxy: (B, N, 4) -> (B, P, 4). scores: (B, N) -> (B, P). height, width: of the images,
    pixels. Networks with the same strides have the same P positions, whatever their codes.
    """
    sizes = level_sizes(code, height, width)
    if all(anchors == 1 for anchors, _ in sizes):
        return boxes_xyxy, scores
    counts = [anchors * positions for anchors, positions in sizes]
    best_boxes, best_scores = [], []
    for (anchors, positions), boxes, level_scores in zip(
        sizes, torch.split(boxes_xyxy, counts, 1), torch.split(scores, counts, 1), strict=True
    ):
        apart = level_scores.reshape(-1, anchors, positions)
        best = apart.detach().argmax(1, keepdim=True)
        best_scores.append(apart.gather(1, best).squeeze(1))
        which = best[..., None].expand(-1, -1, -1, 4)
        best_boxes.append(boxes.reshape(-1, anchors, positions, 4).gather(1, which).squeeze(1))
    return torch.cat(best_boxes, 1), torch.cat(best_scores, 1)


def output_distillation_loss(
    boxes_xyxy: Tensor,
    scores: Tensor,
    *,
    teacher_boxes_xyxy: Tensor,
    teacher_scores: Tensor,
    face_score: float = FACE_SCORE,
) -> Tensor:
    """How far decoded predictions are from a teacher's; 0, with gradient 0, where they are equal.

    Boxes (B, P, 4) in pixels and scores (B, P) in 0..1, float32, prediction by prediction. Scores
    follow the teacher's everywhere, as class logits do in `dense_distillation_loss`. Boxes follow
    where it sees a face, from face_score on, by EIoU weighted by its score. The sum is divided by
    the sum of the teacher's scores where it sees a face, at least 1.
    """
    face = _face_weights(teacher_scores, face_score)
    found = scores.clamp(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    cross_entropy = -teacher_scores * found.log() - (1 - teacher_scores) * (1 - found).log()
    surprise = (scores - teacher_scores).detach().square()
    box = face * eiou_loss(boxes_xyxy, teacher_boxes_xyxy)
    return (surprise * cross_entropy + box).sum() / face.sum().clamp(min=1)


def feature_distillation_loss(
    features: Sequence[Tensor], teacher_features: Sequence[Tensor], face_weights: Sequence[Tensor]
) -> Tensor:
    """How far feature maps are from a teacher's where it sees faces; 0 where they are equal.

    features: a map (B, C, H, W) a level, of the teacher's widths. teacher_features: as
    `nas.teachers.Targets` has them. face_weights: (B, H, W) a level. The mean over channels of the
    squared difference; then the weighted sum over positions, divided by the sum of weights, at
    least 1.

    The adapted hint is that of FitNets (Romero et al., arXiv:1412.6550, equation 3), the focus on
    objects that of Wang et al., arXiv:1906.03609 (theirs is around annotated boxes), and the
    standardised channels are those of PKD (Cao et al., arXiv:2207.02039), for the teacher alone,
    as the adaptors find the scale.
    """
    total = torch.stack([weights.sum() for weights in face_weights]).sum().clamp(min=1)
    losses = [  # channels last, as the maps lie in memory: otherwise their gradients do not
        (weights * (own.float() - other).permute(0, 2, 3, 1).square().mean(-1)).sum()
        for own, other, weights in zip(features, teacher_features, face_weights, strict=True)
    ]
    return torch.stack(losses).sum() / total


def _face_weights(scores: Tensor, face_score: float) -> Tensor:
    """A teacher's scores where it sees a face, 0 elsewhere."""
    return scores.where(scores >= face_score, 0)


class Distillation(nn.Module):
    """What a student loses by differing from its teacher; a `nas.fitting.ExtraLoss`.

    Its own weights are the adaptors of the feature maps: a 1x1 convolution a level, from the
    student's width to the teacher's. They are trained with the student and belong to neither
    network. There are none when feature_weight is 0.

    seed: of the adaptors' first weights.

    Raises:
        UserError: the teacher's strides are not the student's, both weights are 0, or feature
            maps are asked of a teacher that shows none.
    """

    def __init__(
        self,
        student: FaceNetwork,
        teacher: Teacher,
        settings: DistillationSettings | None = None,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        settings = DistillationSettings() if settings is None else settings
        self.teacher = teacher  # no submodule: its weights stay out of checkpoints
        self.code = student.code
        self.output_weight = settings.output_weight
        self.face_score = settings.face_score
        self.feature_weight = float(bool(teacher.feature_widths))
        if settings.feature_weight is not None:
            self.feature_weight = settings.feature_weight
        _check_strides(student, teacher)
        self._check_weights()
        self.adaptors = nn.ModuleList()
        if self.feature_weight:
            widths = _feature_widths(student, teacher.device), teacher.feature_widths
            with seeded(seed):
                self.adaptors += [nn.Conv2d(*pair, 1) for pair in zip(*widths, strict=True)]
            self.adaptors.to(teacher.device)

    def _check_weights(self) -> None:
        if self.output_weight == self.feature_weight == 0:
            raise UserError(
                f"output_weight and feature_weight are 0, so the teacher {self.teacher.path} "
                "teaches nothing; raise one of them"
            )
        if self.feature_weight and not self.teacher.feature_widths:
            raise UserError(
                f"the teacher {self.teacher.path} is exported and shows no feature maps; set "
                "feature_weight to 0, or give its weights.safetensors"
            )

    @property
    def extra_name(self) -> str:
        """Names the teacher and the settings, for checkpoints."""
        return (
            f"teacher {self.teacher.sha256[:16]}, output_weight {self.output_weight:g}, "
            f"feature_weight {self.feature_weight:g}, face_score {self.face_score:g}"
        )

    def facts(self) -> dict[str, Any]:
        """Teacher, weights and what the teacher's answers took so far, in JSON's types."""
        return {
            "teacher": self.teacher.facts(),
            "output_weight": self.output_weight,
            "feature_weight": self.feature_weight,
            "face_score": self.face_score,
            "teacher_cost": self.teacher.cost.to_json(),
        }

    def forward(
        self, images: Tensor, features: tuple[Tensor, ...], levels: tuple[Tensor, ...]
    ) -> Tensor:
        """The weighted sum of both losses; images and levels as the student takes and gives them.

        Under autocast the teacher and the adaptors run in half precision, the losses do not.
        """
        targets = self.teacher.ask(images)
        height, width = images.shape[2:]
        loss = levels[0].new_zeros((), dtype=torch.float32)
        if self.output_weight:
            output = self._output_loss(levels, targets, height=height, width=width)
            loss = loss + self.output_weight * output
        if self.feature_weight:
            weights = self._weight_maps(targets, height=height, width=width)
            adapted = [adapt(own) for adapt, own in zip(self.adaptors, features, strict=True)]
            shared = feature_distillation_loss(adapted, targets.features, weights)
            loss = loss + self.feature_weight * shared
        return loss

    def _output_loss(
        self, levels: tuple[Tensor, ...], targets: Targets, *, height: int, width: int
    ) -> Tensor:
        """Of all predictions if both networks have the same anchors, else of the positions' best.

        (A grid's boxes have no fixed roles, so equal grids are compared by their best.)
        """
        own = self.code.decode(levels)
        other = targets.boxes_xyxy, targets.scores
        if self.code != self.teacher.code or not isinstance(self.code, AnchorCode):
            own = best_of_positions(self.code, *own, height=height, width=width)
            other = best_of_positions(self.teacher.code, *other, height=height, width=width)
        return output_distillation_loss(
            *own,
            teacher_boxes_xyxy=other[0],
            teacher_scores=other[1],
            face_score=self.face_score,
        )

    def _weight_maps(self, targets: Targets, *, height: int, width: int) -> list[Tensor]:
        """Where the teacher sees faces: (B, H, W) a level."""
        answer = targets.boxes_xyxy, targets.scores
        _, scores = best_of_positions(self.teacher.code, *answer, height=height, width=width)
        shapes = [features.shape[2:] for features in targets.features]
        weights = _face_weights(scores, self.face_score)
        levels = torch.split(weights, [shape.numel() for shape in shapes], 1)
        return [level.reshape(-1, *shape) for level, shape in zip(levels, shapes, strict=True)]


def _check_strides(student: FaceNetwork, teacher: Teacher) -> None:
    if teacher.code.strides != student.code.strides:
        raise UserError(
            f"the teacher {teacher.path} ({teacher.key}) has levels at the strides "
            f"{_listed(teacher.code)}, the student {student.key} at {_listed(student.code)}; "
            "choose a teacher with the student's strides"
        )


def _listed(code: BoxCode) -> str:
    return ", ".join(map(str, code.strides))


def _feature_widths(network: FaceNetwork, device: torch.device) -> list[int]:
    """Channels of each feature map; the network is left as it was."""
    was_training = network.training
    with torch.no_grad():
        features = network.eval().features(torch.full(PROBE_SHAPE, 127.0, device=device))
    network.train(was_training)
    return [level.shape[1] for level in features]
