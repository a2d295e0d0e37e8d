"""One file, equal to the network, with nothing missing and nothing beside it."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from data.errors import UserError
from nas.export import DecodedDetector, export_onnx
from objectives.session import open_session
from search_spaces.architecture import Architecture
from search_spaces.network import Detector, build
from search_spaces.space import SPACE


def settled(architecture: Architecture) -> Detector:
    """A network whose batch norms have seen something."""
    torch.manual_seed(0)
    network = build(architecture).train()
    with torch.no_grad():
        network(torch.rand(2, 3, 64, 64) * 255)
    return network.eval()


@pytest.fixture(scope="module")
def network() -> Detector:
    return settled(SPACE.corner(largest=False))


@pytest.mark.parametrize("seed", [1, 2])
def test_random_architectures_agree_with_torch_at_shapes_they_were_not_traced_at(
    tmp_path: Path, seed: int
) -> None:
    model = settled(SPACE.decode(SPACE.random_genotype(np.random.default_rng(seed))))
    path = tmp_path / "model.onnx"
    report = export_onnx(model, path, metadata={})
    assert report.max_difference <= 1e-4
    images = torch.rand(3, 3, 32, 192) * 255
    with torch.no_grad():
        boxes, scores = DecodedDetector(model)(images)
    found = open_session(path, threads=1).run(None, {"images": images.numpy()})
    np.testing.assert_allclose(found[0], boxes, atol=192e-4)
    np.testing.assert_allclose(found[1], scores, atol=1e-4)


def test_the_file_stands_alone_and_says_what_it_is(network: Detector, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    report = export_onnx(network, path, metadata={"seed": "3"})
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert report.file_bytes == path.stat().st_size
    graph = onnx.load(path)
    facts = {entry.key: entry.value for entry in graph.metadata_props}
    assert facts["architecture"] == network.architecture.key
    assert facts["strides"] == "[8, 16, 32]"
    assert facts["seed"] == "3"
    kinds = {node.op_type for node in graph.graph.node}
    assert "BatchNormalization" not in kinds, "folded into the convolutions"
    assert {node.domain for node in graph.graph.node} == {""}, "standard operators only"
    assert str(tmp_path.home()).encode() not in path.read_bytes()


def test_equal_networks_give_equal_files(network: Detector, tmp_path: Path) -> None:
    first, second = (
        export_onnx(network, tmp_path / name, metadata={"a": "1", "b": "2"}) for name in "xy"
    )
    assert first == second
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_exporting_leaves_the_network_as_it_was(network: Detector, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    export_onnx(network, tmp_path / "model.onnx", metadata={})
    assert network.training
    network.eval()
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_file_that_disagrees_is_not_written(
    network: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.onnx"
    path.write_text("the one before")
    monkeypatch.setattr("nas.export.TOLERANCE", -1.0)
    with pytest.raises(RuntimeError, match="must agree within"):
        export_onnx(network, path, metadata={})
    assert path.read_text() == "the one before"
    assert len(list(tmp_path.iterdir())) == 1


def test_bad_arguments_are_refused(network: Detector, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="architecture"):
        export_onnx(network, tmp_path / "m", metadata={"architecture": "mine"})
    with pytest.raises(ValueError, match="check_shapes"):
        export_onnx(network, tmp_path / "m", metadata={}, check_shapes=())


def test_a_full_disk_is_said_in_one_sentence(
    network: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nas.export._trace", no_space)
    with pytest.raises(UserError, match="No space left"):
        export_onnx(network, tmp_path / "model.onnx", metadata={})
    assert list(tmp_path.iterdir()) == []
