import torch
from torch import Tensor

from nas.distillation import dense_distillation_loss

SIZES = (8, 4, 2)


def levels(seed: int, *, face_logit: float | None = None) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(2, 6, size, size, generator=generator) for size in SIZES]
    if face_logit is not None:
        for level in drawn:
            level[:, 0] = face_logit
    return drawn


def test_agreement_has_no_gradient_and_the_least_loss() -> None:
    teacher = levels(0)
    student = [level.clone().requires_grad_() for level in teacher]
    least = dense_distillation_loss(student, teacher)
    least.backward()  # type: ignore[no-untyped-call]
    for level in student:
        assert level.grad is not None
        torch.testing.assert_close(level.grad, torch.zeros_like(level), rtol=0, atol=1e-6)
    for seed in range(1, 6):
        moved = [t + 0.5 * d for t, d in zip(teacher, levels(seed), strict=True)]
        assert dense_distillation_loss(moved, teacher) > least


def test_a_step_down_the_gradient_comes_nearer() -> None:
    teacher = levels(0)
    student = [level.requires_grad_() for level in levels(1)]
    before = dense_distillation_loss(student, teacher)
    before.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        after = dense_distillation_loss(
            [s - 0.1 * s.grad for s in student if s.grad is not None], teacher
        )
    assert after < before


def test_no_gradient_reaches_the_teacher() -> None:
    teacher = [level.requires_grad_() for level in levels(0)]
    student = [level.requires_grad_() for level in levels(1)]
    dense_distillation_loss(student, teacher).backward()  # type: ignore[no-untyped-call]
    assert all(level.grad is None for level in teacher)
    assert all(level.grad is not None for level in student)


def test_boxes_count_only_where_the_teacher_sees_a_face() -> None:
    for face_logit, matters in ((-40.0, False), (3.0, True)):
        teacher = levels(0, face_logit=face_logit)
        near, far = levels(1), levels(1)
        for level in far:
            level[:, 1:] += 3
        difference = dense_distillation_loss(far, teacher) - dense_distillation_loss(near, teacher)
        assert (abs(float(difference)) > 0.1) == matters


def test_a_teacher_who_sees_nothing_gives_a_finite_loss() -> None:
    loss = dense_distillation_loss(levels(1), levels(0, face_logit=-1000.0))
    assert torch.isfinite(loss)


def test_the_order_of_levels_does_not_matter() -> None:
    student, teacher = levels(1), levels(0)
    torch.testing.assert_close(
        dense_distillation_loss(student[::-1], teacher[::-1]),
        dense_distillation_loss(student, teacher),
    )
