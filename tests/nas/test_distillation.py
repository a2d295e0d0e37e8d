import copy
import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data.errors import UserError
from nas.distillation import (
    FACE_SCORE,
    Distillation,
    DistillationSettings,
    best_of_positions,
    dense_distillation_loss,
    feature_distillation_loss,
    output_distillation_loss,
)
from nas.export import export_onnx
from nas.fitting import Trainer, images_to_tensor, to_channels_last
from nas.recipe import Recipe
from nas.retrain import Company, retrain
from nas.teachers import Teacher, open_teacher
from nas.weights import load_detector, save_detector
from search_spaces.catalogue import build_network
from search_spaces.codes import AnchorCode, AnchorFreeCode, GridCode
from search_spaces.face_network import FaceNetwork
from tests.nas.test_teachers import images, settled
from tests.tiny_training import (
    CPU,
    FIT,
    TinyBatches,
    equal_weights,
    tiny_network,
    tiny_shards,
    weights_of,
)

SIZES = (8, 4, 2)
OUTPUT = DistillationSettings(feature_weight=0.0)
FEATURE = DistillationSettings(output_weight=0.0, feature_weight=1.0)
BOTH = DistillationSettings(feature_weight=1.0)


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


@pytest.fixture
def batches(tmp_path: Path) -> TinyBatches:
    return TinyBatches(tiny_shards(tmp_path / "shards")[0])


def sees_faces(network: FaceNetwork) -> FaceNetwork:
    """The same with scores around a half, so that its faces count."""
    for name, parameter in network.named_parameters():
        if name.endswith("bias") and float(parameter.detach().min()) < -2:
            with torch.no_grad():
                parameter.zero_()
    return network


def teaches(network: FaceNetwork, folder: Path) -> Teacher:
    """A network as a teacher."""
    save_detector(folder / "weights.safetensors", network, {})
    return open_teacher(str(folder), device=CPU)


def loss_of(distillation: Distillation, student: FaceNetwork, pictures: Tensor) -> Tensor:
    features = student.features(pictures)
    loss: Tensor = distillation(pictures, features, student.predict(features))
    return loss


PAIRS = [
    ("yunet-s", "yunet-n", OUTPUT),
    ("yunet-s", "yunet-n", FEATURE),
    ("yunet-n", "retinaface-mnet025", OUTPUT),
    ("yunet-n", "retinaface-mnet025", BOTH),
    ("retinaface-mnet025", "yunet-n", BOTH),
]


@pytest.mark.parametrize("name", ["yunet-s", "retinaface-mnet025", "ulfg-rfb"])
def test_equal_networks_have_no_loss_and_no_gradient(tmp_path: Path, name: str) -> None:
    teacher = teaches(sees_faces(settled(name)), tmp_path)

    def loss_and_gradient(seed: int) -> tuple[float, float]:
        student = to_channels_last(sees_faces(settled(name, seed)))
        loss = loss_of(Distillation(student, teacher, OUTPUT), student, images())
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad.norm() for p in student.parameters() if p.grad is not None]
        return loss.item(), float(torch.stack(gradients).norm())

    equal, other = loss_and_gradient(0), loss_and_gradient(1)
    assert equal[0] == pytest.approx(0, abs=1e-6)
    assert equal[1] < 1e-3 * other[1]
    assert other[0] > 1e-3


@pytest.mark.parametrize(("student_name", "teacher_name", "settings"), PAIRS)
def test_a_student_comes_nearer_to_its_teacher(
    tmp_path: Path, student_name: str, teacher_name: str, settings: DistillationSettings
) -> None:
    teacher = teaches(sees_faces(settled(teacher_name)), tmp_path)
    student = settled(student_name, seed=1)
    distillation = Distillation(student, teacher, settings)
    learned = [*student.parameters(), *distillation.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=5e-3)
    pictures = images(height=64)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = loss_of(distillation, student, pictures)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(("settings", "reaches_head"), [(OUTPUT, True), (FEATURE, False)])
def test_outputs_teach_all_weights_and_features_those_before_the_head(
    tmp_path: Path, settings: DistillationSettings, *, reaches_head: bool
) -> None:
    student = tiny_network()
    teacher = teaches(sees_faces(settled("yunet-s")), tmp_path)
    loss_of(Distillation(student, teacher, settings), student, images()).backward()  # type: ignore[no-untyped-call]
    for name, parameter in student.named_parameters():
        expected = reaches_head or not name.startswith("head")
        assert (parameter.grad is not None) == expected, name


def test_features_that_are_the_teachers_cost_nothing_and_noise_costs_one() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = [torch.randn(2, 5, size, size, generator=generator) for size in SIZES]
    weights = [torch.rand(2, size, size, generator=generator) for size in SIZES]
    assert feature_distillation_loss(teacher, teacher, weights).item() == 0
    nothing = feature_distillation_loss([torch.zeros_like(t) for t in teacher], teacher, weights)
    assert nothing.item() == pytest.approx(1, rel=0.3)


def test_features_count_only_where_the_teacher_sees_a_face() -> None:
    teacher = [torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))]
    weights = torch.zeros(1, 4, 4)
    weights[0, 1, 2] = 0.9
    own = torch.zeros(1, 3, 4, 4, requires_grad=True)
    feature_distillation_loss([own], teacher, [weights]).backward()  # type: ignore[no-untyped-call]
    assert own.grad is not None
    touched = own.grad.abs().sum(1).nonzero().tolist()
    assert touched == [[0, 1, 2]]


def drawn_predictions(seed: int, count: int = 30) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(2, count, 2, generator=generator) * 50
    sizes = torch.rand(2, count, 2, generator=generator) * 40 + 4
    scores = torch.rand(2, count, generator=generator)
    return torch.cat([corners, corners + sizes], 2), scores


@pytest.mark.parametrize("face_score", [FACE_SCORE, 0.0, 0.9])
def test_boxes_follow_only_from_the_face_score_on(face_score: float) -> None:
    boxes, scores = drawn_predictions(0)
    other_boxes, other_scores = drawn_predictions(1)
    boxes.requires_grad_()
    output_distillation_loss(
        boxes,
        scores,
        teacher_boxes_xyxy=other_boxes,
        teacher_scores=other_scores,
        face_score=face_score,
    ).backward()  # type: ignore[no-untyped-call]
    assert boxes.grad is not None
    moved = boxes.grad.abs().sum(2) > 0
    assert torch.equal(moved, other_scores >= face_score)


def test_a_teacher_that_is_sure_of_nothing_teaches_from_a_face_score_of_zero(
    tmp_path: Path,
) -> None:
    student, teacher = tiny_network().train(), teaches(settled("yunet-s"), tmp_path)
    pictures = images()
    assert 0 < teacher.ask(pictures).scores.max() < FACE_SCORE

    def lesson(face_score: float) -> Tensor:
        settings = replace(FEATURE, face_score=face_score)
        features = student.features(pictures)
        levels = student.predict(features)
        loss: Tensor = Distillation(student, teacher, settings)(pictures, features, levels)
        return loss

    assert lesson(FACE_SCORE) == 0
    assert lesson(0.0) > 0


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_certain_networks_give_a_finite_loss_and_gradient(score: float) -> None:
    boxes, scores = drawn_predictions(0)
    certain = torch.full_like(scores, score).requires_grad_()
    for other in (scores, torch.zeros_like(scores), torch.ones_like(scores)):
        loss = output_distillation_loss(
            boxes, certain, teacher_boxes_xyxy=boxes, teacher_scores=other
        )
        loss.backward()  # type: ignore[no-untyped-call]
        assert torch.isfinite(loss)
        assert certain.grad is not None
        assert certain.grad.isfinite().all()


CODES = [
    AnchorFreeCode(),
    AnchorCode(strides=(8, 16, 32), sizes=((8.0, 12.0), (32.0,), (64.0, 90.0, 128.0))),
    AnchorCode(strides=(8, 16, 32), sizes=((8.0,), (32.0,), (64.0,)), ratios=(1.0, 1.5)),
]


@pytest.mark.parametrize("code", CODES)
def test_the_best_of_a_position_lies_at_the_position(code: AnchorFreeCode | AnchorCode) -> None:
    """Levels of zeros but for the class decode to boxes around the middles of their positions."""
    height, width = 64, 96
    generator = torch.Generator().manual_seed(0)
    levels, middles = [], []
    for level, stride in enumerate(code.strides):
        rows, columns = height // stride, width // stride
        anchors = code.anchors_of(level)
        numbers = torch.zeros(2, anchors, 6, rows, columns)
        numbers[:, :, :2] = torch.randn(2, anchors, 2, rows, columns, generator=generator)
        levels.append(numbers.flatten(1, 2))
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        middles.append((torch.stack([x, y], 2).flatten(0, 1) + 0.5) * stride)
    all_boxes, all_scores = code.decode(levels)
    boxes, scores = best_of_positions(code, all_boxes, all_scores, height=height, width=width)
    assert boxes.shape[1] == scores.shape[1] == 96 + 24 + 6
    centres = (boxes[..., :2] + boxes[..., 2:]) / 2
    torch.testing.assert_close(centres, torch.cat(middles).expand(2, -1, -1))
    for image in range(2):
        for box, score in zip(boxes[image], scores[image], strict=True):
            at = (all_scores[image] == score) & (all_boxes[image] == box).all(1)
            assert at.any(), "a box keeps its score"
    assert torch.equal(scores.amax(1), all_scores.amax(1))


def test_the_best_of_a_position_is_the_largest_of_its_scores() -> None:
    code = GridCode(stride=32, boxes=3)
    generator = torch.Generator().manual_seed(0)
    scores, boxes = torch.rand(2, 18, generator=generator), torch.rand(2, 18, 4)
    _, best = best_of_positions(code, boxes, scores, height=64, width=96)
    assert torch.equal(best, scores.reshape(2, 3, 6).amax(1))


def test_an_exported_teacher_teaches_the_same(tmp_path: Path) -> None:
    network = sees_faces(settled("yunet-s"))
    teacher = teaches(network, tmp_path)
    export_onnx(network, tmp_path / "model.onnx", metadata={})
    exported = open_teacher(str(tmp_path / "model.onnx"), device=CPU, threads=1)
    student = tiny_network()
    losses = [
        loss_of(Distillation(student, one, OUTPUT), student, images())
        for one in (teacher, exported)
    ]
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-4)
    with pytest.raises(UserError, match=r"model\.onnx is exported and shows no feature maps; set"):
        Distillation(student, exported, BOTH)
    names = [Distillation(student, one).extra_name for one in (teacher, exported)]
    assert "feature_weight 1" in names[0], "a teacher's feature maps are used where it shows them"
    assert "feature_weight 0" in names[1]


def test_other_strides_are_refused(tmp_path: Path) -> None:
    teacher = teaches(settled("eresfd"), tmp_path)
    expected = (
        r"\(eresfd\) has levels at the strides 4, 8, 16, 32, 64, 128, the student yunet-n at 8"
    )
    with pytest.raises(UserError, match=expected):
        Distillation(build_network("yunet-n"), teacher)


def test_a_teacher_that_is_given_no_weight_is_refused(tmp_path: Path) -> None:
    teacher = teaches(tiny_network(), tmp_path)
    with pytest.raises(UserError, match=r"are 0, so the teacher .* teaches nothing"):
        Distillation(tiny_network(), teacher, DistillationSettings(0.0, 0.0))


@pytest.mark.parametrize("name", ["output_weight", "feature_weight"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 0 and finite"):
        replace(DistillationSettings(), **{name: value})


def distilled(folder: Path) -> tuple[FaceNetwork, Distillation]:
    student = tiny_network()
    return student, Distillation(student, open_teacher(str(folder), device=CPU))


def test_training_goes_on_where_it_was_adaptors_and_all(
    tmp_path: Path, batches: TinyBatches
) -> None:
    teacher = teaches(sees_faces(settled("yunet-s")), tmp_path)
    student, straight_loss = distilled(tmp_path)
    straight = Trainer(student, FIT, extra_loss=straight_loss)
    first = weights_of(straight_loss)
    for step in range(2):
        straight.step(batches.batch(step))
    assert not any(
        torch.equal(first[name], value) for name, value in straight_loss.state_dict().items()
    )
    content = io.BytesIO()
    torch.save(straight.state_dict(), content)
    assert content.tell() < 2_000_000, "no teacher in a checkpoint"
    content.seek(0)
    student, resumed_loss = distilled(tmp_path)
    resumed = Trainer(student, FIT, extra_loss=resumed_loss)
    resumed.load_state_dict(torch.load(content, weights_only=True))
    for step in (2, 3):
        assert straight.step(batches.batch(step)) == resumed.step(batches.batch(step))
    assert equal_weights(weights_of(straight_loss), weights_of(resumed_loss))
    assert equal_weights(weights_of(straight.network), weights_of(resumed.network))
    assert teacher.cost.batches == 0, "each training has opened its own"


def test_a_retrained_student_is_the_student_alone(tmp_path: Path, batches: TinyBatches) -> None:
    teaches(sees_faces(settled("yunet-s")), tmp_path / "teacher")
    student, distillation = distilled(tmp_path / "teacher")
    names = set(copy.deepcopy(student).state_dict())
    company = Company(extra_loss=distillation, extra_name=distillation.extra_name)
    retrain(student, batches, Recipe(fit=FIT), folder=tmp_path / "run", facts={}, company=company)
    loaded, _ = load_detector(tmp_path / "run" / "weights.safetensors")
    assert set(loaded.state_dict()) == names
    assert loaded.key == student.key
    assert distillation.facts()["teacher_cost"]["batches"] == FIT.steps


def test_the_teacher_and_the_weights_of_both_losses_name_an_extra_loss(tmp_path: Path) -> None:
    student, network = tiny_network(), settled("yunet-s")
    teachers = [teaches(network, tmp_path / "a"), teaches(settled("yunet-s", 1), tmp_path / "b")]
    named = {
        Distillation(student, teacher, settings).extra_name
        for teacher in teachers
        for settings in (OUTPUT, FEATURE, BOTH, replace(BOTH, face_score=0.1))
    }
    assert len(named) == 8
    again = Distillation(student, teaches(network, tmp_path / "c"), OUTPUT)
    assert again.extra_name in named


def test_the_student_is_left_in_training(tmp_path: Path) -> None:
    student = tiny_network().train()
    before = weights_of(student)
    Distillation(student, teaches(settled("yunet-s"), tmp_path))
    assert student.training
    assert equal_weights(before, weights_of(student))


def test_both_losses_are_weighed(tmp_path: Path, batches: TinyBatches) -> None:
    student, teacher = tiny_network().eval(), teaches(sees_faces(settled("yunet-s")), tmp_path)
    pictures = images_to_tensor(batches.batch(0).images, CPU)

    def loss(output_weight: float, feature_weight: float) -> float:
        settings = DistillationSettings(output_weight, feature_weight)
        return loss_of(Distillation(student, teacher, settings), student, pictures).item()

    assert loss(2.0, 3.0) == pytest.approx(2 * loss(1.0, 0.0) + 3 * loss(0.0, 1.0), rel=1e-5)
