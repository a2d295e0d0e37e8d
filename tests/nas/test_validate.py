"""What validating finds: nothing in sound networks, and each fault where it is."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from data.errors import UserError
from nas.export import export_onnx
from nas.inference import recalibrate
from nas.validate import (
    Check,
    ValidationReport,
    validate_model,
    validate_network,
    validate_onnx,
)
from nas.weights import save_detector
from objectives.cost import count_parameters
from search_spaces import catalogue
from search_spaces.catalogue import REFERENCES, Reference
from search_spaces.network import Detector
from search_spaces.space import SPACE
from tests.tiny_onnx import write_tiny_onnx
from tests.tiny_training import CPU, SMALLEST, equal_weights, tiny_network, weights_of


def verdicts(report: ValidationReport) -> dict[str, bool | None]:
    return {check.name: check.passed for check in report.checks}


def only(report: ValidationReport, name: str) -> Check:
    """The check of this name, which must be the only one that failed."""
    assert [check.name for check in report.checks if check.passed is False] == [name]
    assert not report.passed
    return next(check for check in report.checks if check.name == name)


def found(report: ValidationReport, name: str) -> Check:
    return next(check for check in report.checks if check.name == name)


def validated(network: Detector) -> ValidationReport:
    return validate_network(network, expected_params=count_parameters(network), device=CPU)


# Sound networks.


def test_a_sound_network_passes_and_is_left_as_it_was() -> None:
    network = tiny_network().train()
    before = weights_of(network)
    heard: list[tuple[int, int]] = []
    report = validate_network(
        network,
        expected_params=count_parameters(network),
        device=CPU,
        progress=lambda _label, done, total: heard.append((done, total)),
    )
    assert report.passed
    assert heard == [(done, len(report.checks)) for done in range(len(report.checks) + 1)]
    assert [name for name, passed in verdicts(report).items() if passed is None] == [
        "CPU and CUDA agree"
    ]
    assert network.training
    assert equal_weights(before, weights_of(network))
    assert all(p.grad is None for p in network.parameters())


def test_what_was_not_checked_is_not_called_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    report = validate_network(tiny_network(), expected_params=None, device=CPU)
    check = found(report, "CPU and CUDA agree")
    assert (check.verdict, check.detail) == ("not checked", "not checked: no CUDA device found")
    assert found(report, "parameter count").verdict == "not checked"
    assert report.to_json()["checks"][0]["passed"] is None
    assert report.passed


@pytest.mark.gpu
def test_cpu_and_cuda_agree_where_there_is_cuda() -> None:
    report = validate_network(tiny_network(), expected_params=None, device=torch.device("cuda"))
    assert found(report, "CPU and CUDA agree").passed is True


def test_memory_is_told_by_size() -> None:
    detail = found(validated(tiny_network()), "memory by size").detail
    assert [part.split(" px ")[0] for part in detail.split(", ")] == ["256", "320", "640"]


# Each fault where it is.


def test_another_number_of_parameters() -> None:
    network = tiny_network()
    report = validate_network(network, expected_params=1 + count_parameters(network), device=CPU)
    assert "expected 3,591 parameters, got 3,590" in only(report, "parameter count").detail


class Cropped(Detector):
    """Loses a column of large images."""

    def predict(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        fine, *coarse = super().predict(features)
        return fine[..., : min(fine.shape[3], 39)], *coarse


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_levels_of_another_size() -> None:
    check = found(validated(Cropped(SMALLEST)), "sizes and batches")
    assert check.passed is False
    assert "got [(1, 40, 39), " in check.detail


class Fragile(Detector):
    """Divides by what may be zero."""

    def predict(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(level / (0 * level) for level in super().predict(features))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_numbers_that_are_not_finite() -> None:
    report = validated(Fragile(SMALLEST))
    assert "must be finite" in found(report, "sizes and batches").detail
    assert "the loss of a batch is " in found(report, "gradient reaches every parameter").detail
    assert verdicts(report)["ONNX equals torch"] is False


class Sociable(Detector):
    """Looks at the other images of a batch."""

    def predict(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return super().predict(tuple(x - x.mean(0, keepdim=True) for x in features))


def test_images_that_see_each_other() -> None:
    network = Sociable(SMALLEST)
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3)).astype(np.uint8)
    recalibrate(network, noise, device=CPU)
    check = only(validated(network), "a batch equals its images")
    assert "of their range, differ by" in check.detail


class Idle(Detector):
    """Has weights that nothing reads."""

    def __init__(self, name: str) -> None:
        super().__init__(SMALLEST)
        self.register_parameter(name, nn.Parameter(torch.ones(3)))


def test_weights_that_nothing_trains() -> None:
    check = only(validated(Idle("spare")), "gradient reaches every parameter")
    assert check.detail == "none reaches spare"


def test_landmarks_are_listed_as_untrained() -> None:
    report = validated(Idle("landmark_spare"))
    detail = found(report, "gradient reaches every parameter").detail
    assert report.passed
    assert detail.endswith("untrained, for want of annotated landmarks: landmark_spare")


class Rigid(Detector):
    """Remembers the image size it was traced at."""

    def predict(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        fine, *coarse = super().predict(features)
        columns = torch.ones(int(fine.shape[3]))
        return fine * columns, *coarse


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_graph_that_fits_one_size_alone() -> None:
    assert only(validated(Rigid(SMALLEST)), "ONNX equals torch").detail


def test_a_network_that_cannot_run_fails_its_checks_and_nothing_else() -> None:
    broken = tiny_network()
    broken.neck.laterals[0] = nn.Conv2d(16, 3, 1)
    report = validated(broken)
    assert verdicts(report)["parameter count"] is True
    assert found(report, "sizes and batches").detail.startswith("RuntimeError: ")


# Exported networks.


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export_onnx(tiny_network(), path, metadata={})
    return path


def renamed(exported: Path, target: Path, **facts: str) -> Path:
    graph = onnx.load(exported)
    onnx.helper.set_model_props(graph, facts)
    onnx.save(graph, target)
    return target


def test_an_exported_network_passes(exported: Path) -> None:
    report = validate_onnx(exported)
    assert verdicts(report) == dict.fromkeys(verdicts(report), True)


def test_a_file_that_is_no_exported_network(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("not a network")
    report = validate_onnx(path)
    assert "not a readable ONNX file" in report.checks[0].detail
    assert not any(check.passed for check in report.checks)
    write_tiny_onnx(path, outputs=("a", "b"))
    assert "expected input images" in validate_onnx(path).checks[0].detail


def test_a_file_that_knows_one_image_at_a_time_and_no_architecture(tmp_path: Path) -> None:
    report = validate_onnx(write_tiny_onnx(tmp_path / "model.onnx"))
    assert "for images (2, 96, 160)" in found(report, "sizes and batches").detail
    assert "does not say its commit, input" in found(report, "metadata").detail
    unchecked = found(report, "parameter count")
    assert unchecked.verdict == "not checked"
    assert "unknown architecture 'tiny'" in unchecked.detail


def test_a_file_that_is_another_architecture_than_it_says(exported: Path, tmp_path: Path) -> None:
    largest = SPACE.corner(largest=True).key
    path = renamed(exported, tmp_path / "model.onnx", architecture=largest)
    check = found(validate_onnx(path), "parameter count")
    assert check.passed is False
    assert "numbers in the kernels of stem" in check.detail


# What a text names.


def test_a_text_names_a_reference_an_architecture_weights_or_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, exported: Path
) -> None:
    wrong = Reference(make=tiny_network, params=7, source="a paper")
    monkeypatch.setitem(catalogue.REFERENCES, "mine", wrong)
    weights = tmp_path / "weights.safetensors"
    save_detector(weights, tiny_network(), {})
    for text in (SMALLEST.key, str(weights), str(exported)):
        assert validate_model(text, device=CPU).passed
    # A reference's own number counts, and its key is its name.
    network = tiny_network()
    network.key = "mine"
    monkeypatch.setitem(
        catalogue.REFERENCES, "mine", Reference(make=lambda: network, params=7, source="a paper")
    )
    assert (
        "expected 7 parameters"
        in only(validate_model("mine", device=CPU), "parameter count").detail
    )


@pytest.mark.parametrize("text", ["yunet-m", "runs/study/trials/3", "weights.pt"])
def test_a_text_that_names_nothing_is_told_what_it_could(text: str) -> None:
    with pytest.raises(UserError, match=r"key of an architecture.*\.safetensors.*\.onnx") as caught:
        validate_model(text, device=CPU)
    assert all(name in str(caught.value) for name in REFERENCES)


@pytest.mark.parametrize("text", ["nowhere/model.onnx", "nowhere/weights.safetensors"])
def test_a_missing_file_is_an_error(text: str) -> None:
    with pytest.raises(UserError, match="nowhere"):
        validate_model(text, device=CPU)


@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCES)
def test_every_reference_passes(name: str) -> None:
    report = validate_model(name, device=CPU)
    assert report.passed, [check for check in report.checks if check.passed is False]


def test_equal_names_give_equal_networks() -> None:
    first, second = (validate_model(SMALLEST.key, device=CPU) for _ in range(2))
    assert first == second
