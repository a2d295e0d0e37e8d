"""Contracts that every block keeps at every stride, and each block against its definition."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from search_spaces.blocks import (
    BLOCKS,
    EXPANDING,
    HEAD_CHANNELS,
    LinearAttention,
    PartialLinearAttention,
    conv_norm_act,
)
from tests.search_spaces.contracts import (
    assert_batched_equals_single,
    assert_gradient_reaches_every_parameter,
    noise,
)

every_block = pytest.mark.parametrize("name", BLOCKS)
every_form = pytest.mark.parametrize(
    ("name", "stride", "c_out"), list(itertools.product(BLOCKS, (1, 2), (32, 48)))
)


def make(name: str, c_out: int = 32, *, stride: int = 1, kernel_size: int = 3) -> nn.Module:
    torch.manual_seed(0)
    expand_ratio = 3 if name in EXPANDING else 1
    return BLOCKS[name](
        32, c_out, kernel_size=kernel_size, stride=stride, expand_ratio=expand_ratio
    )


@every_form
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (6, 9), (1, 3)])
def test_output_shape(
    name: str, stride: int, c_out: int, kernel_size: int, size: tuple[int, int]
) -> None:
    y = make(name, c_out, stride=stride, kernel_size=kernel_size)(noise(2, 32, *size))
    assert y.shape == (2, c_out, *(math.ceil(side / stride) for side in size))


@every_form
def test_gradient_reaches_every_parameter(name: str, stride: int, c_out: int) -> None:
    block = make(name, c_out, stride=stride)
    assert_gradient_reaches_every_parameter(block, noise(2, 32, 7, 6))


@every_form
def test_batched_equals_single(name: str, stride: int, c_out: int) -> None:
    assert_batched_equals_single(make(name, c_out, stride=stride), noise(3, 32, 7, 6))


@every_block
def test_input_is_left_alone(name: str) -> None:
    x = noise(2, 32, 5, 5)
    before = x.clone()
    make(name)(x)
    assert torch.equal(x, before)


@every_block
def test_flipping_filters_and_image_flips_the_output(name: str) -> None:
    """A block knows left from right only by its kernels."""
    block = make(name).eval()
    x = noise(1, 32, 7, 7)
    expected = block(x).flip(3)
    with torch.no_grad():
        for parameter in block.parameters():
            if parameter.dim() == 4:
                parameter.copy_(parameter.flip(3))
    torch.testing.assert_close(block(x.flip(3)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["inverted", "residual", "linear_attention"])
def test_silenced_residual_blocks_pass_their_input(name: str) -> None:
    """With every weight zero, what remains is the shortcut; elsewhere nothing remains."""
    x = noise(2, 32, 4, 4)
    for stride, c_out, expected in ((1, 32, x), (1, 48, None), (2, 32, None)):
        block = make(name, c_out, stride=stride)
        with torch.no_grad():
            for parameter in block.parameters():
                parameter.zero_()
        y = block.eval()(x)
        torch.testing.assert_close(y, torch.zeros_like(y) if expected is None else expected)


@pytest.mark.parametrize("name", ["depthwise", "residual"])
def test_blocks_without_expansion_refuse_one(name: str) -> None:
    with pytest.raises(ValueError, match=r"expand_ratio must be 1 for \w+, got 3"):
        BLOCKS[name](16, 16, kernel_size=3, stride=1, expand_ratio=3)


@every_block
def test_even_kernels_and_other_strides_are_refused(name: str) -> None:
    ratio = 2 if name in EXPANDING else 1
    with pytest.raises(ValueError, match="kernel_size must be odd, got 4"):
        BLOCKS[name](16, 16, kernel_size=4, stride=1, expand_ratio=ratio)
    with pytest.raises(ValueError, match="stride must be 1 or 2, got 3"):
        BLOCKS[name](16, 16, kernel_size=3, stride=3, expand_ratio=ratio)


def test_convolution_refuses_what_has_no_centre() -> None:
    with pytest.raises(ValueError, match="kernel_size must be odd, got 2"):
        conv_norm_act(8, 8, 2)


def test_expanding_names_are_blocks() -> None:
    assert set(EXPANDING) < set(BLOCKS)


def quadratic_attention(attention: LinearAttention, x: Tensor) -> Tensor:
    """The same, written as a weight for every pair of positions, one head at a time."""
    query, key, value = (c(x).flatten(2) for c in (attention.query, attention.key, attention.value))
    heads = []
    for first in range(0, x.shape[1], HEAD_CHANNELS):
        q, k, v = (t[:, first : first + HEAD_CHANNELS] for t in (query, key, value))
        weight = torch.einsum("bdi,bdj->bij", q.relu(), k.relu())
        share = weight / (weight.sum(2, keepdim=True) + 1e-4)
        heads.append(torch.einsum("bij,bdj->bdi", share, v))
    mixed: Tensor = attention.project(torch.cat(heads, 1).reshape(x.shape))
    return mixed


@pytest.mark.parametrize("size", [(4, 5), (1, 1)])
def test_linear_attention_equals_its_quadratic_form(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    attention = LinearAttention(48).eval()
    x = noise(2, 48, *size)
    torch.testing.assert_close(attention(x), quadratic_attention(attention, x), atol=1e-5, rtol=0)


def test_linear_attention_looks_everywhere_in_no_order() -> None:
    """Shuffling the positions shuffles the output, so every position sees the same whole."""
    torch.manual_seed(0)
    attention = LinearAttention(32).eval()
    x = noise(1, 32, 4, 6)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    shuffled = x.flatten(2)[:, :, order].reshape(x.shape)
    expected = attention(x).flatten(2)[:, :, order].reshape(x.shape)
    torch.testing.assert_close(attention(shuffled), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_linear_attention_sums_in_float32_under_autocast(dtype: torch.dtype) -> None:
    """The sums here are over 65,504, the largest float16."""
    torch.manual_seed(0)
    attention = LinearAttention(32).eval()
    x = noise(1, 32, 16, 16) * 100
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        y = attention(x)
    with torch.no_grad():
        expected = attention(x)
    assert torch.isfinite(y).all()
    assert (y - expected).abs().max() < 0.02 * expected.abs().max()


def test_linear_attention_refuses_channels_that_make_no_heads() -> None:
    with pytest.raises(ValueError, match=f"channels must be a multiple of {HEAD_CHANNELS}, got 40"):
        LinearAttention(40)


def test_partial_attention_leaves_the_other_channels_alone() -> None:
    x = noise(2, 48, 5, 6)
    y = PartialLinearAttention(48, 16)(x)
    assert torch.equal(y[:, 16:], x[:, 16:])
    assert not torch.allclose(y[:, :16], x[:, :16])
    with pytest.raises(ValueError, match="attended must be from 1 to 16, got 32"):
        PartialLinearAttention(16, 32)
