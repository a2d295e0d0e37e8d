"""Every attention keeps the shape, weighs between nothing and everything, and can be cut."""

import pytest
import torch
from torch import nn

from objectives.cost import count_parameters
from search_spaces.attention import (
    ATTENTION,
    CbamPlus,
    ConvolutionalBlockAttention,
    CoordinateAttention,
    DynamicChannelAttention,
    EfficientChannelAttention,
    SqueezeExcitation,
    bottleneck_width,
)
from tests.search_spaces.contracts import (
    assert_batched_equals_single,
    assert_gradient_reaches_every_parameter,
    macs_of,
    noise,
    seeded,
)

CHANNELS = 32

every_attention = pytest.mark.parametrize("name", ATTENTION)


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    return ATTENTION[name](CHANNELS)


@every_attention
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 6), (1, 1)])
def test_shape_is_kept(name: str, size: tuple[int, int]) -> None:
    x = noise(2, CHANNELS, *size)
    assert make(name).train()(x).shape == x.shape


@every_attention
def test_gradient_reaches_every_parameter(name: str) -> None:
    assert_gradient_reaches_every_parameter(make(name), noise(2, CHANNELS, 6, 7))


@every_attention
def test_batched_equals_single(name: str) -> None:
    assert_batched_equals_single(make(name), noise(3, CHANNELS, 6, 7))


@every_attention
def test_output_is_the_input_times_a_share(name: str) -> None:
    x = noise(2, CHANNELS, 6, 7)
    share = make(name).eval()(x) / x
    assert share.min() >= 0
    assert share.max() <= 1


@pytest.mark.parametrize("name", ["none", "se", "eca", "cbam"])
def test_shifting_the_image_shifts_the_output(name: str) -> None:
    """On a map that is constant near its border, where padding could tell."""
    x = torch.zeros(1, CHANNELS, 20, 20)
    x[:, :, 8:11, 8:11] = noise(1, CHANNELS, 3, 3)
    module = make(name).eval()
    shifted = module(x.roll((2, -1), (2, 3)))
    torch.testing.assert_close(shifted, module(x).roll((2, -1), (2, 3)), rtol=1e-4, atol=1e-6)


@every_attention
def test_input_is_left_alone(name: str) -> None:
    x = noise(2, CHANNELS, 5, 5)
    before = x.clone()
    make(name)(x)
    assert torch.equal(x, before)


def test_squeeze_excitation_uses_means_only() -> None:
    module = SqueezeExcitation(CHANNELS)
    x = noise(1, CHANNELS, 4, 4)
    turned = x.flip(3)
    torch.testing.assert_close(module(turned), module(x).flip(3))


def test_efficient_channel_attention_looks_at_neighbouring_channels() -> None:
    """Raising channel 10 changes the gates of channels 9 to 11 and no other."""
    module = EfficientChannelAttention(CHANNELS)
    with torch.no_grad():
        module.mix.weight.fill_(0.5)
    x = torch.ones(1, CHANNELS, 4, 4)
    raised = x.clone()
    raised[:, 10] = 2.0
    change = (module(raised) / raised - module(x) / x).abs().amax((0, 2, 3))
    assert change.nonzero().flatten().tolist() == [9, 10, 11]


def test_zeroed_gates_give_their_neutral_share() -> None:
    """A gate whose weights are zero lets half through, whichever sigmoid it has."""
    x = noise(1, CHANNELS, 5, 6)
    gates = {SqueezeExcitation: 0.5, EfficientChannelAttention: 0.5}
    gates |= {ConvolutionalBlockAttention: 0.25, CoordinateAttention: 0.25}
    for kind, share in gates.items():
        module: nn.Module = kind(CHANNELS)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.zero_()
        torch.testing.assert_close(module.eval()(x), x * share)


def test_coordinate_attention_weighs_rows_and_columns() -> None:
    """Within a channel the share of a position is its row's times its column's: rank one."""
    x = noise(1, CHANNELS, 5, 6)
    share = make("coordinate").eval()(x) / x
    product = share[..., :1] * share[..., :1, :] / share[..., :1, :1]
    torch.testing.assert_close(share, product, rtol=1e-3, atol=1e-4)


def test_bottleneck_width_is_a_quarter_and_at_least_eight() -> None:
    assert [bottleneck_width(c) for c in (8, 16, 32, 48, 128)] == [8, 8, 8, 12, 32]


def test_dynamic_attention_weighs_channels_by_position() -> None:
    """Of rank two over the positions: one gate would give rank one and no difference."""
    module = seeded(lambda: DynamicChannelAttention(32)).eval()
    x = noise(1, 32, 6, 7)
    share = (module(x) / x)[0].flatten(1)
    offset = share - share[:, :1]
    assert offset.abs().max() > 1e-3
    assert torch.linalg.matrix_rank(offset, rtol=1e-4) == 1


@pytest.mark.parametrize("channels", [16, 32, 64, 128])
def test_cbam_plus_is_lighter_than_cbam(channels: int) -> None:
    plus, plain = CbamPlus(channels), ConvolutionalBlockAttention(channels)
    assert count_parameters(plus) == 26
    assert count_parameters(plus) < count_parameters(plain) / 10
    x = noise(1, channels, 20, 20)
    assert macs_of(plus, x) < macs_of(plain, x)


def test_cbam_plus_looks_as_far_as_cbam() -> None:
    """A change of one position moves the gates of those up to three away and no others'."""
    module = seeded(lambda: CbamPlus(8)).eval()
    torch.nn.init.zeros_(module.get_parameter("mix.weight"))
    x = torch.ones(1, 8, 15, 15)
    changed = x.clone()
    changed[0, :, 7, 7] = 3.0
    moved = (module(changed) / changed - module(x) / x).abs().amax((0, 1)) > 1e-7
    rows, columns = moved.nonzero().T
    assert sorted({*rows.tolist()}) == sorted({*columns.tolist()}) == [4, 7, 10]
