"""One file, equal to the network, with nothing missing and nothing beside it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from data.errors import UserError
from nas.export import DecodedDetector, export_onnx
from objectives.session import open_session
from search_spaces.architecture import NECKS, SHARING, TOWER_LAYERS, Architecture, Head
from search_spaces.attention import ATTENTION
from search_spaces.blocks import BLOCKS, EXPANDING
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


def mixtures() -> list[Architecture]:
    """Architectures in which every block, attention, cell and tower layer stands at least once."""
    smallest, kinds = SPACE.corner(largest=False), list(ATTENTION)
    found = []
    for i, attention in enumerate(kinds):
        block = list(BLOCKS)[i % len(BLOCKS)]
        ratio = 2 if block in EXPANDING else 1
        stage8, stage16, stage32 = (
            replace(stage, block=block, attention=attention, expand_ratio=ratio, depth=2)
            for stage in smallest.stages
        )
        head = Head(
            SHARING[i % len(SHARING)],
            TOWER_LAYERS[i % len(TOWER_LAYERS)],
            depth=1,
            width=32,
            attention=kinds[(i + 3) % len(kinds)],
        )
        neck = replace(smallest.neck, kind=NECKS[i % len(NECKS)])
        found.append(replace(smallest, stages=(stage8, stage16, stage32), neck=neck, head=head))
    return found


@pytest.mark.parametrize("architecture", mixtures(), ids=lambda a: a.key)
def test_every_part_agrees_with_torch_at_shapes_it_was_not_traced_at(
    tmp_path: Path, architecture: Architecture
) -> None:
    model = settled(architecture)
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
