from pathlib import Path

import onnx
import pytest
import torch

from data.errors import UserError
from nas.export import export_onnx
from nas.fitting import seeded
from nas.teachers import TIMED_EVERY, Teacher, level_sizes, open_teacher, standardised
from nas.weights import save_detector, save_weights
from search_spaces.catalogue import build_network
from search_spaces.codes import AnchorCode, AnchorFreeCode, GridCode
from search_spaces.face_network import FaceNetwork
from tests.tiny_onnx import write_tiny_onnx
from tests.tiny_training import CPU

NETWORKS = ("yunet-s", "retinaface-mnet025")


def settled(name: str, seed: int = 0) -> FaceNetwork:
    """A network whose batch norms have seen something."""
    with seeded(seed), torch.no_grad():
        network = build_network(name).train()
        for _ in range(5):
            network(torch.rand(2, 3, 64, 64) * 255)
    return network.eval()


def images(count: int = 2, height: int = 96, width: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, height, width, generator=generator) * 255


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each network a folder with weights.safetensors and model.onnx."""
    folder = tmp_path_factory.mktemp("teachers")
    for name in NETWORKS:
        network = settled(name)
        save_detector(folder / name / "weights.safetensors", network, {})
        export_onnx(network, folder / name / "model.onnx", metadata={})
    return folder


def teacher_of(path: Path) -> Teacher:
    return open_teacher(str(path), device=CPU, threads=1)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_exported_teacher_says_what_its_weights_say(folder: Path, name: str) -> None:
    from_weights = teacher_of(folder / name / "weights.safetensors")
    exported = teacher_of(folder / name / "model.onnx")
    assert (exported.key, exported.code) == (from_weights.key, from_weights.code)
    channels_last = images().contiguous(memory_format=torch.channels_last)
    one, other = from_weights.ask(channels_last), exported.ask(channels_last)
    torch.testing.assert_close(one.scores, other.scores, atol=1e-4, rtol=0)
    torch.testing.assert_close(one.boxes_xyxy, other.boxes_xyxy, atol=96e-4, rtol=1e-5)
    assert other.features == ()
    assert exported.feature_widths == ()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_teacher_is_the_network_of_its_file(folder: Path, name: str) -> None:
    teacher = teacher_of(folder / name)
    network = settled(name)
    with torch.no_grad():
        features = network.features(images())
        boxes_xyxy, scores = network.code.decode(network.predict(features))
    targets = teacher.ask(images())
    torch.testing.assert_close(targets.scores, scores)
    torch.testing.assert_close(targets.boxes_xyxy, boxes_xyxy)
    for one, other in zip(targets.features, features, strict=True):
        torch.testing.assert_close(one, standardised(other), atol=1e-4, rtol=1e-4)
    assert teacher.feature_widths == tuple(level.shape[1] for level in features)
    assert teacher.facts() == {
        "file": str(folder / name / "weights.safetensors"),
        "sha256": teacher.sha256,
        "architecture": name,
    }


def test_standardised_channels_have_mean_0_and_variance_1() -> None:
    generator = torch.Generator().manual_seed(0)
    found = standardised(torch.randn(2, 5, 8, 8, generator=generator) * 9 + 4)
    torch.testing.assert_close(found.mean((0, 2, 3)), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.var((0, 2, 3), correction=0), torch.ones(5))
    assert not standardised(torch.full((1, 3, 4, 4), 7.0)).any()


def test_answers_have_no_gradient_and_change_nothing(folder: Path) -> None:
    teacher = teacher_of(folder / "yunet-s")
    first = teacher.ask(images())
    assert not any(
        tensor.requires_grad for tensor in (first.boxes_xyxy, first.scores, *first.features)
    )
    assert torch.equal(teacher.ask(images()).scores, first.scores)


def test_an_answer_that_is_remembered_is_the_same_and_is_not_found_again(folder: Path) -> None:
    plain, teacher = (teacher_of(folder / "yunet-s") for _ in range(2))
    one, other = images(), images(count=1)
    room = plain.ask(one).nbytes
    teacher.remember(room)
    for batch in (one, other, one, other, one.contiguous(memory_format=torch.channels_last)):
        answer, wanted = teacher.ask(batch), plain.ask(batch)
        assert torch.equal(answer.boxes_xyxy, wanted.boxes_xyxy)
        assert torch.equal(answer.scores, wanted.scores)
        for found, right in zip(answer.features, wanted.features, strict=True):
            assert torch.equal(found, right)
    assert teacher.cost.batches == 3, "the second batch had no room, and was asked twice"
    assert teacher.ask(one) is teacher.ask(one.clone())
    assert not teacher.ask(one).scores.requires_grad


def test_its_cost_is_measured(folder: Path) -> None:
    teacher = teacher_of(folder / "yunet-s")
    assert teacher.cost.to_json() == {
        "batches": 0,
        "timed_batches": 0,
        "seconds_per_batch": None,
    }
    for _ in range(2 * TIMED_EVERY + 1):
        teacher.ask(images(count=1, height=32, width=32))
    cost = teacher.cost
    assert (cost.batches, cost.timed_batches) == (2 * TIMED_EVERY + 1, 2)
    assert cost.seconds_per_batch is not None
    assert 0 < cost.seconds_per_batch < 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("87", r"an exported \.onnx file, a weights\.safetensors or a folder .* got '87'"),
        ("gone/model.onnx", r"there is no teacher at gone/model\.onnx; train it first"),
        ("gone/weights.safetensors", r"there is no teacher at gone/weights\.safetensors"),
    ],
)
def test_what_names_no_file_is_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_teacher(text, device=CPU)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no teacher at .*weights\.safetensors"):
        teacher_of(tmp_path)


@pytest.mark.parametrize("name", ["model.onnx", "weights.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_damaged_files_are_refused(folder: Path, tmp_path: Path, name: str, share: float) -> None:
    whole = (folder / "yunet-s" / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(whole[: round(share * len(whole))])
    with pytest.raises(UserError, match=name):
        teacher_of(path)


def test_weights_that_are_no_detectors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "supernet.safetensors"
    save_weights(path, {"a": torch.zeros(1)}, {"space": "some"})
    with pytest.raises(UserError, match=r"names no architecture"):
        teacher_of(path)


def test_an_onnx_file_that_does_not_say_what_it_is_is_refused(tmp_path: Path) -> None:
    path = write_tiny_onnx(tmp_path / "tiny.onnx")
    with pytest.raises(UserError, match=r"does not name its architecture and strides"):
        teacher_of(path)


def relabelled(source: Path, target: Path, **facts: str) -> Path:
    """A copy of an exported network with other metadata."""
    graph = onnx.load(source)
    known = {entry.key: entry.value for entry in graph.metadata_props}
    onnx.helper.set_model_props(graph, known | facts)
    onnx.save(graph, target)
    return target


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"strides": "[4, 8, 16]"}, r"has the strides \[4, 8, 16\], .* yunet-s has \[8, 16, 32\]"),
        ({"architecture": "retinaface-mnet025"}, r"gives 84 predictions where .* gives 168"),
        ({"architecture": "yunet-x"}, r"unknown architecture 'yunet-x'"),
    ],
)
def test_an_onnx_file_that_contradicts_itself_is_refused(
    folder: Path, tmp_path: Path, facts: dict[str, str], message: str
) -> None:
    path = relabelled(folder / "yunet-s" / "model.onnx", tmp_path / "model.onnx", **facts)
    with pytest.raises(UserError, match=message):
        teacher_of(path)


def test_a_teacher_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    network = settled("yunet-s")
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    save_detector(tmp_path / "weights.safetensors", network, {})
    with pytest.raises(UserError, match=r"gives numbers that are not finite; retrain it"):
        teacher_of(tmp_path)


@pytest.mark.parametrize("shape", [(64, 64), (96, 160)])
@pytest.mark.parametrize("name", [*NETWORKS, "eresfd", "ulfg-rfb"])
def test_level_sizes_are_those_of_the_levels(name: str, shape: tuple[int, int]) -> None:
    network = build_network(name).eval()
    with torch.no_grad():
        levels = network(torch.zeros(1, 3, *shape))
        _, scores = network.code.decode(levels)
    sizes = level_sizes(network.code, *shape)
    assert [positions for _, positions in sizes] == [level[0, 0].numel() for level in levels]
    assert sum(anchors * positions for anchors, positions in sizes) == scores.shape[1]


def test_codes_say_how_many_predictions_a_position_has() -> None:
    assert level_sizes(AnchorFreeCode(), 64, 32) == [(1, 32), (1, 8), (1, 2)]
    assert level_sizes(GridCode(stride=64, boxes=3), 128, 96) == [(3, 4)]
    anchors = AnchorCode(strides=(16, 32), sizes=((8.0, 9.0), (20.0,)), ratios=(1.0, 2.0))
    assert level_sizes(anchors, 64, 64) == [(4, 16), (2, 4)]
