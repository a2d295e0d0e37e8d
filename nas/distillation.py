"""What a network can learn from another network's dense predictions."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


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
