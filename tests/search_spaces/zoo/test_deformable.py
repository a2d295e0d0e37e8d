"""Moved taps read what lies where they are moved to."""

import warnings
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from objectives.cost import count_macs_by_torch
from search_spaces.zoo.deformable import DeformableConvolution, deformable_convolution
from tests.search_spaces.contracts import (
    assert_batched_equals_single,
    assert_gradient_reaches_every_parameter,
    noise,
)

TAPS = 9
ROWS, COLUMNS = 6, 8
IMAGE = noise(2, 3, ROWS, COLUMNS, seed=1)
WEIGHT = noise(4, 3, 3, 3, seed=2)
EVEN_MASK = torch.ones(2, TAPS, ROWS, COLUMNS)


def moved(right: float, down: float) -> Tensor:
    """Offsets that move every tap alike."""
    offsets = torch.tensor([right] * TAPS + [down] * TAPS)
    return offsets[None, :, None, None].expand(2, -1, ROWS, COLUMNS)


def ordinary(x: Tensor, right: int = 0, down: int = 0) -> Tensor:
    """The convolution of what lies to the right and further down; zeros beyond the border."""
    return functional.conv2d(functional.pad(x, (1 - right, 1 + right, 1 - down, 1 + down)), WEIGHT)


def read(plane: Tensor, x: float, y: float) -> float:
    """A plane (H, W) between its pixels, by hand: each pixel counts by its nearness."""
    total = 0.0
    for row in range(plane.shape[0]):
        for column in range(plane.shape[1]):
            nearness = max(0.0, 1 - abs(x - column)) * max(0.0, 1 - abs(y - row))
            total += nearness * float(plane[row, column])
    return total


def trained_convolution() -> DeformableConvolution:
    """One that moves its taps by some pixels, near its border out of the image."""
    torch.manual_seed(0)
    layer = DeformableConvolution(3, 4)
    torch.nn.init.normal_(layer.aim.weight, std=0.3)
    assert layer.aim.bias is not None
    torch.nn.init.normal_(layer.aim.bias)
    return layer


def test_unmoved_taps_are_an_ordinary_convolution() -> None:
    found = deformable_convolution(IMAGE, WEIGHT, moved(0, 0), EVEN_MASK)
    torch.testing.assert_close(found, ordinary(IMAGE), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("right", "down"), [(1, 0), (0, 1), (-2, 1), (3, -2)])
def test_whole_pixels_are_a_shift(right: int, down: int) -> None:
    found = deformable_convolution(IMAGE, WEIGHT, moved(right, down), EVEN_MASK)
    torch.testing.assert_close(found, ordinary(IMAGE, right, down), rtol=0, atol=1e-5)


def test_half_a_pixel_is_the_mean_of_two_shifts() -> None:
    found = deformable_convolution(IMAGE, WEIGHT, moved(0, 0.5), EVEN_MASK)
    expected = (ordinary(IMAGE) + ordinary(IMAGE, down=1)) / 2
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tap", [0, 1, 5])
def test_a_factor_belongs_to_one_tap(tap: int) -> None:
    mask = torch.zeros_like(EVEN_MASK)
    mask[:, tap] = 0.5
    found = deformable_convolution(IMAGE, WEIGHT, moved(0, 0), mask)
    only = torch.zeros(TAPS)
    only[tap] = 0.5
    expected = functional.conv2d(IMAGE, WEIGHT * only.view(3, 3), padding=1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_every_tap_of_every_position_moves_on_its_own() -> None:
    offsets, mask = 2 * noise(2, 2 * TAPS, ROWS, COLUMNS, seed=3), noise(*EVEN_MASK.shape, seed=4)
    found = deformable_convolution(IMAGE, WEIGHT, offsets, mask)
    for image, row, column in [(0, 0, 0), (1, 2, 5), (0, ROWS - 1, COLUMNS - 1)]:
        expected = torch.zeros(4)
        for tap in range(TAPS):
            x = column + tap % 3 - 1 + float(offsets[image, tap, row, column])
            y = row + tap // 3 - 1 + float(offsets[image, TAPS + tap, row, column])
            pixels = torch.tensor([read(plane, x, y) for plane in IMAGE[image]])
            expected += mask[image, tap, row, column] * (WEIGHT[:, :, tap // 3, tap % 3] @ pixels)
        torch.testing.assert_close(found[image, :, row, column], expected, rtol=0, atol=1e-5)


def test_the_gradient_of_an_offset_is_what_moving_it_changes() -> None:
    offsets, step = moved(0.3, -0.4).clone().requires_grad_(), 1e-2
    direction, goal = noise(*offsets.shape, seed=5), noise(2, 4, ROWS, COLUMNS, seed=6)

    def loss(offsets: Tensor) -> Tensor:
        return (deformable_convolution(IMAGE, WEIGHT, offsets, EVEN_MASK) * goal).sum()

    (gradient,) = torch.autograd.grad(loss(offsets), offsets)
    with torch.no_grad():
        ahead, behind = loss(offsets + step * direction), loss(offsets - step * direction)
    slope = (gradient * direction).sum()
    torch.testing.assert_close((ahead - behind) / (2 * step), slope, rtol=1e-2, atol=1e-3)


def test_it_starts_as_the_ordinary_convolution() -> None:
    layer = DeformableConvolution(3, 4)
    expected = functional.conv2d(IMAGE, layer.weight, padding=1)
    torch.testing.assert_close(layer(IMAGE), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", [trained_convolution, lambda: DeformableConvolution(3, 4)])
def test_gradient_reaches_every_parameter(make: Callable[[], DeformableConvolution]) -> None:
    assert_gradient_reaches_every_parameter(make(), IMAGE)


def test_batched_equals_single() -> None:
    assert_batched_equals_single(trained_convolution(), IMAGE)


def test_the_mixing_costs_what_the_ordinary_convolution_costs() -> None:
    layer = DeformableConvolution(3, 4)
    positions, taps_seen = 64 * 64, 27 * 9 * 3
    expected = positions * (layer.weight.numel() + taps_seen)
    assert count_macs_by_torch(layer, image_size=64) == expected


def test_positions_stay_exact_where_numbers_are_short() -> None:
    x = noise(1, 3, 2, 600)
    layer = DeformableConvolution(3, 4)
    expected = functional.conv2d(x, layer.weight, padding=1)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x).float()
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05)


def test_onnx_runtime_agrees_at_other_sizes(tmp_path: Path) -> None:
    layer, path = trained_convolution().eval(), tmp_path / "layer.onnx"
    axes = {name: {0: "batch", 2: "rows", 3: "columns"} for name in ("x", "y")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # tracing, as in nas.export
        torch.onnx.export(
            layer,
            (IMAGE,),
            str(path),
            input_names=["x"],
            output_names=["y"],
            dynamic_axes=axes,
            opset_version=18,
            dynamo=False,
        )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for shape in [(2, 3, 6, 8), (1, 3, 9, 4), (3, 3, 1, 1)]:
        x = noise(*shape, seed=7)
        (found,) = session.run(None, {"x": x.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(found), layer(x), rtol=1e-4, atol=1e-5)
