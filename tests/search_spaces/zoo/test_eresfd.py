"""EResFD has the published counts, and its pyramid and head do what the paper says."""

import math
from pathlib import Path

import pytest
import torch

from nas.export import export_onnx
from objectives.cost import count_macs_by_torch, count_parameters
from search_spaces.codes import AnchorCode
from search_spaces.zoo.eresfd import BACKGROUNDS, BGR_MEANS, STRIDES, EResFD, LevelHead, eresfd
from tests.search_spaces.contracts import (
    assert_batched_equals_single,
    assert_gradient_reaches_every_parameter,
    noise,
    noise_images,
    shapes,
)


def built() -> EResFD:
    torch.manual_seed(0)
    return eresfd()


def settled() -> EResFD:
    """A network whose batch norms have seen something."""
    network = built().train()
    with torch.no_grad():
        network(noise_images(2, 128, 128))
    return network.eval()


def test_counts_are_the_published_ones() -> None:
    network = built()
    assert count_parameters(network) == 92_208
    assert count_macs_by_torch(network, image_size=640) == 393_308_400


@pytest.mark.parametrize(("height", "width"), [(64, 96), (160, 128)])
def test_six_levels_of_rounded_up_sizes(height: int, width: int) -> None:
    network, images = settled(), noise_images(2, height, width)
    sizes = [(math.ceil(height / s), math.ceil(width / s)) for s in STRIDES]
    assert shapes(network.features(images)) == [(2, 16, *size) for size in sizes]
    assert shapes(network(images)) == [(2, 6, *size) for size in sizes]
    assert_batched_equals_single(network, images)


def test_the_gradient_reaches_every_weight() -> None:
    assert_gradient_reaches_every_parameter(built(), noise_images(2, 160, 128))


def test_anchors_are_higher_than_wide() -> None:
    code = built().code
    assert isinstance(code, AnchorCode)
    anchors = code.anchors_cxcywh([torch.zeros(1, 6, 1, 1)] * 6)
    widths = torch.tensor([16.0, 32, 64, 128, 256, 512])
    torch.testing.assert_close(anchors[:, 2], widths)
    torch.testing.assert_close(anchors[:, 3], 1.25 * widths)


def test_the_largest_background_counts() -> None:
    head, x = LevelHead(16, backgrounds=BACKGROUNDS).eval(), noise(2, 16, 3, 4)
    with torch.no_grad():
        logits, levels = head.classes(x), head(x)
    assert torch.equal(levels[:, 0], logits[:, :3].max(1).values)
    assert torch.equal(levels[:, 1], logits[:, 3])
    assert torch.equal(levels[:, 2:], head.box(x))


def test_only_the_first_level_has_several_backgrounds() -> None:
    heads = [head for head in built().heads if isinstance(head, LevelHead)]
    assert [head.classes.out_channels for head in heads] == [4, 2, 2, 2, 2, 2]


def test_small_strides_do_not_see_the_coarsest_map() -> None:
    """The pyramid's second part starts from the map of stride 64 before it is fused."""
    network = settled()
    maps = network.features(noise_images(1, 128, 128))
    coarsest = list(network.stages[-1].parameters())
    for stride, one in zip(STRIDES, maps, strict=True):
        gradients = torch.autograd.grad(one.sum(), coarsest, retain_graph=True, allow_unused=True)
        assert any(g is not None for g in gradients) == (stride >= 64), stride


def test_the_mean_colour_is_zero_inside() -> None:
    network, seen = built().eval(), []
    network.stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    colour = torch.tensor(BGR_MEANS).view(1, 3, 1, 1)
    network(colour.expand(1, 3, 32, 32))
    network(colour.expand(1, 3, 32, 32) + torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1))
    assert not seen[0].any()
    assert seen[1][0, :, 0, 0].tolist() == [0, 0, 1], "blue comes last inside"


def test_an_untrained_network_calls_little_a_face() -> None:
    network = built().train()
    _, scores = network.code.decode(network(noise_images(2, 128, 128)))
    assert scores.max() < 0.02


def test_onnx_agrees(tmp_path: Path) -> None:
    check_shapes = ((1, 64, 64), (2, 96, 160), (1, 224, 32))
    report = export_onnx(settled(), tmp_path / "model.onnx", metadata={}, check_shapes=check_shapes)
    assert report.max_difference <= 1e-4
