"""What every reference architecture must keep, whoever wrote it."""

import math

import pytest
import torch
from torch import Tensor

from data.errors import UserError
from search_spaces.catalogue import REFERENCES, build_network
from search_spaces.face_network import FaceNetwork
from search_spaces.space import SPACE
from search_spaces.starting_points import starting_points

NAMES = tuple(REFERENCES)


def built(name: str) -> FaceNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_network(name)


def images(count: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 255 * torch.rand(count, 3, height, width, generator=generator)


@pytest.mark.parametrize("name", NAMES)
def test_a_reference_is_what_its_line_says(name: str) -> None:
    network = built(name)
    assert network.key == name
    assert sum(p.numel() for p in network.parameters()) == REFERENCES[name].params
    assert REFERENCES[name].source


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("height", "width"), [(64, 96), (160, 128)])
def test_levels_have_the_sizes_that_their_strides_say(name: str, height: int, width: int) -> None:
    network = built(name).eval()
    with torch.no_grad():
        pixels = images(2, height, width)
        maps = network.features(pixels)
        levels = network(pixels)
        boxes, scores = network.code.decode(levels)
    expected = [(math.ceil(height / s), math.ceil(width / s)) for s in network.code.strides]
    assert [tuple(level.shape[2:]) for level in levels] == expected
    assert [tuple(one.shape[2:]) for one in maps] == expected
    assert boxes.shape == (*scores.shape, 4)
    assert boxes.isfinite().all()
    assert (scores < 0.2).float().mean() > 0.9, "an untrained network must call little a face"


@pytest.mark.parametrize("name", NAMES)
def test_an_image_alone_gives_what_it_gives_in_a_batch(name: str) -> None:
    network = built(name).eval()
    pixels = images(3, 96, 64)
    with torch.no_grad():
        together = network(pixels)
        alone = network(pixels[1:2])
    for batch, single in zip(together, alone, strict=True):
        torch.testing.assert_close(batch[1:2], single, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_but_those_of_landmarks_learns(name: str) -> None:
    network = built(name).eval()  # batch statistics would cancel some biases
    boxes, scores = network.code.decode(network(images(2, 128, 128)))
    torch.autograd.backward(boxes.square().mean() + scores.mean())
    untouched = [
        parameter
        for parameter, value in network.named_parameters()
        if "landmark" not in parameter and (value.grad is None or not value.grad.any())
    ]
    assert not untouched


def test_keys_of_the_space_build_networks_too() -> None:
    architecture = starting_points(SPACE)[1]
    assert build_network(architecture.key).key == architecture.key


def test_an_unknown_name_lists_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown architecture 'yunet-m'"):
        build_network("yunet-m")


@pytest.mark.parametrize("name", NAMES)
def test_no_convolution_is_one_that_torch_corrupts_memory_in(name: str) -> None:
    """See `search_spaces.zoo.resnet.EveryPixel`: strided 1x1, 8 channels in, channels_last."""
    for module in built(name).modules():
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (1, 1):
            assert module.stride == (1, 1) or module.in_channels >= 16
