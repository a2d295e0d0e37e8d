import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data.errors import UserError
from nas.weights import load_detector, load_weights, save_detector, save_state, save_weights
from search_spaces.architecture import Architecture
from search_spaces.catalogue import REFERENCES, build_network
from search_spaces.space import SPACE
from tests.tiny_training import SMALLEST, equal_weights, tiny_network, weights_of

TENSORS = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor(3)}
FACTS = {"text": "ä", "number": 1.5, "list": [1, None], "nested": {"true": True}}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "weights.safetensors"
    save_detector(path, tiny_network(), {"trial": 3})
    return path


def test_tensors_and_facts_come_back(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_weights(path, TENSORS, FACTS)
    tensors, facts = load_weights(path)
    assert equal_weights(tensors, TENSORS)
    assert facts == FACTS


def test_a_detector_comes_back_with_its_outputs(saved: Path) -> None:
    network, facts = load_detector(saved)
    assert facts == {"trial": 3, "architecture": SMALLEST.key}
    assert not network.training
    images = torch.rand(1, 3, 64, 64) * 255
    with torch.no_grad():
        for one, other in zip(network(images), tiny_network().eval()(images), strict=True):
            assert torch.equal(one, other)


def test_channels_last_weights_are_saved_as_they_are(tmp_path: Path) -> None:
    network = tiny_network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    save_detector(tmp_path / "x", network, {})
    assert equal_weights(weights_of(load_detector(tmp_path / "x")[0]), weights_of(network))


def test_no_file_is_the_users_to_put_right(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no weights at .*nothing"):
        load_weights(tmp_path / "nothing")


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda _: b"not weights",
        lambda content: content[: len(content) // 2],
        lambda content: content + b"more",
        lambda content: b"\xff" * 100 + content[100:],
    ],
)
def test_a_damaged_file_is_named(saved: Path, damage: Callable[[bytes], bytes]) -> None:
    saved.write_bytes(damage(saved.read_bytes()))
    with pytest.raises(UserError, match=rf"{saved.name} is damaged .*; delete it and run again"):
        load_detector(saved)


def test_weights_without_an_architecture_are_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "x", TENSORS, {})
    with pytest.raises(UserError, match="names no architecture"):
        load_detector(tmp_path / "x")


@pytest.mark.parametrize(
    "other", [SPACE.decode((1, *SPACE.encode(SMALLEST)[1:])), SPACE.corner(largest=True)]
)
def test_weights_of_another_architecture_are_refused(tmp_path: Path, other: Architecture) -> None:
    save_weights(tmp_path / "x", tiny_network().state_dict(), {"architecture": other.key})
    with pytest.raises(UserError, match=r"does not fit its architecture: \S+ must be .*, got"):
        load_detector(tmp_path / "x")


def test_a_full_disk_leaves_the_weights_before(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as stream:
            stream.write(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    before = saved.read_bytes()
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=rf"cannot write .*{saved.name}: No space left"):
        save_detector(saved, tiny_network(seed=1), {})
    with pytest.raises(UserError, match=r"cannot write .*checkpoint: No space left"):
        save_state(saved.parent / "checkpoint", TENSORS)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_state_comes_back(tmp_path: Path) -> None:
    save_state(tmp_path / "state", {"step": 3, "tensors": TENSORS, "nothing": None})
    state = torch.load(tmp_path / "state", weights_only=True)
    assert (state["step"], state["nothing"]) == (3, None)
    assert equal_weights(state["tensors"], TENSORS)


@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_comes_back_whole(tmp_path: Path, name: str) -> None:
    network = build_network(name).eval()
    save_detector(tmp_path / "x.safetensors", network, {})
    loaded, _ = load_detector(tmp_path / "x.safetensors")
    images = torch.rand(1, 3, 64, 64) * 255
    with torch.no_grad():
        for one, other in zip(network(images), loaded(images), strict=True):
            assert torch.equal(one, other)


def test_loading_draws_nothing_from_the_global_generator(saved: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    load_detector(saved)
    assert torch.equal(torch.rand(1), expected)
