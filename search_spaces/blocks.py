"""Building blocks: small modules that know nothing of any search space.

Shape letters: B batch, C channels, H height, W width, G attention heads, D channels a head.
Every block maps (B, c_in, H, W) to (B, c_out, ceil(H / stride), ceil(W / stride)).
"""

from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional

HEAD_CHANNELS = 16
"""Channels of one head of linear attention; block widths are multiples of it."""

GROUP_CHANNELS = 16
"""Channels of one group of a grouped convolution."""


def conv_norm_act(
    c_in: int, c_out: int, kernel_size: int, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution without bias, batch norm, ReLU.

    Raises:
        ValueError: the kernel is even (it has no centre) or the stride is not 1 or 2.
    """
    _check_window(kernel_size, stride)
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel_size, stride, kernel_size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(inplace=True),
    )


def _check_window(kernel_size: int, stride: int) -> None:
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd, got {kernel_size}")
    if stride not in (1, 2):
        raise ValueError(f"stride must be 1 or 2, got {stride}")


def conv_norm(c_in: int, c_out: int) -> nn.Sequential:
    """A linear 1x1 convolution: no bias, batch norm, no activation."""
    return nn.Sequential(nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out))


class DepthwiseSeparable(nn.Module):
    """A 1x1 that mixes the channels and a kxk that filters each, with nothing between the two.

    At stride 1 mixing comes first; at stride 2 filtering does, which leaves the 1x1 a quarter of
    the positions.

    Source: the unit of YuNet, doi 10.1007/s11633-023-1423-y, figure 2. The pair of MobileNets
    (Howard et al., arXiv:1704.04861, figure 3) has a batch norm and a ReLU between the two: in
    700 steps on real crops a network then came to a hard AP of 0.051 instead of 0.232, with the
    batch norm alone to 0.231 (docs/results/blocks.json).
    """

    def __init__(self, c_in: int, c_out: int, *, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        _check_window(kernel_size, stride)
        self.mixes_first = stride == 1
        filtered = c_out if self.mixes_first else c_in
        self.mix = nn.Conv2d(c_in, c_out, 1, bias=False)
        self.filter = nn.Conv2d(
            filtered, filtered, kernel_size, stride, kernel_size // 2, groups=filtered, bias=False
        )
        self.norm = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.filter(self.mix(x)) if self.mixes_first else self.mix(self.filter(x))
        return torch.relu(self.norm(x))


class GroupedConvolution(nn.Module):
    """A 1x1 that mixes the channels and a 3x3 in groups of 16 channels, with nothing between.

    Between a depthwise separable and a plain convolution: each channel is filtered together with
    its 15 neighbours.

    Source: grouped convolutions, Xie et al., ResNeXt, arXiv:1611.05431, figure 3c.

    Raises:
        ValueError: c_out is not a multiple of 16.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        if c_out % GROUP_CHANNELS:
            raise ValueError(f"c_out must be a multiple of {GROUP_CHANNELS}, got {c_out}")
        self.mix = nn.Conv2d(c_in, c_out, 1, bias=False)
        groups = c_out // GROUP_CHANNELS
        self.filter = nn.Conv2d(c_out, c_out, 3, padding=1, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.filter(self.mix(x))))


class InvertedResidual(nn.Module):
    """Widen with a 1x1, filter each channel with a kxk, narrow again with a linear 1x1.

    The input is added to the output when the stride is 1 and c_in equals c_out.

    Source: Sandler et al., MobileNetV2, arXiv:1801.04381, table 1, without the batch norm and the
    activation between widening and filtering. With them a network of such blocks came to a hard
    AP of 0.172 in 700 steps on real crops, without them to 0.232 (docs/results/blocks.json).
    """

    def __init__(
        self, c_in: int, c_out: int, *, kernel_size: int, stride: int = 1, expand_ratio: int
    ) -> None:
        super().__init__()
        hidden = c_in * expand_ratio
        self.widen = nn.Conv2d(c_in, hidden, 1, bias=False)
        self.filter = conv_norm_act(hidden, hidden, kernel_size, stride=stride, groups=hidden)
        self.narrow = conv_norm(hidden, c_out)
        self.is_residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.narrow(self.filter(self.widen(x)))
        return x + y if self.is_residual else y


class ResidualConvolution(nn.Module):
    """A plain kxk convolution; its input is added when the stride is 1 and the widths are equal.

    Source: He et al., Deep Residual Learning, arXiv:1512.03385, figure 2, with one convolution
    instead of two, so that depth is counted in convolutions.
    """

    def __init__(self, c_in: int, c_out: int, *, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.filter = conv_norm_act(c_in, c_out, kernel_size, stride=stride)
        self.is_residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.filter(x)
        return x + y if self.is_residual else y


def _without_autocast(device_type: str) -> AbstractContextManager[object]:
    """Matrix products in the precision of their inputs; the meta device knows no other."""
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


class LinearAttention(nn.Module):
    """Self-attention over all positions in time and memory linear in their number.

    The softmax of ordinary attention is replaced by products of ReLU features, which can be
    bracketed the cheap way round: (v k^T) q, divided by (sum k) q.

    Source: Katharopoulos et al., arXiv:2006.16236, equation 5, with the ReLU features of
    EfficientViT, arXiv:2205.14756, equation 2. Computed in float32, also under AMP: the sums
    run over thousands of positions.

    Raises:
        ValueError: the channels cannot be divided into heads.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels % HEAD_CHANNELS:
            raise ValueError(f"channels must be a multiple of {HEAD_CHANNELS}, got {channels}")
        self.query = nn.Conv2d(channels, channels, 1, bias=False)
        self.key = nn.Conv2d(channels, channels, 1, bias=False)
        self.value = nn.Conv2d(channels, channels, 1, bias=False)
        self.project = conv_norm(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            conv(x).float().unflatten(1, (-1, HEAD_CHANNELS)).flatten(3)
            for conv in (self.query, self.key, self.value)
        )  # (B, G, D, H * W) each
        query, key = functional.relu(query), functional.relu(key)
        with _without_autocast(x.device.type):
            summary = value @ key.transpose(2, 3)  # (B, G, D, D)
            weight = key.sum(3).unsqueeze(2) @ query  # (B, G, 1, H * W)
            mixed = (summary @ query) / (weight + 1e-4)
        y: Tensor = self.project(mixed.flatten(1, 2).unflatten(2, x.shape[2:]).to(x.dtype))
        return y


class LinearAttentionBlock(nn.Module):
    """A ViT block with linear attention: attention, then an inverted residual as its MLP.

    The depthwise convolution inside the MLP tells positions apart, so no position embedding is
    needed and any image size works. Where the stride or the width changes, a depthwise
    separable convolution embeds the input first.

    Source: EfficientViT, arXiv:2205.14756, figure 5, with one attention scale.
    """

    def __init__(
        self, c_in: int, c_out: int, *, kernel_size: int, stride: int = 1, expand_ratio: int
    ) -> None:
        super().__init__()
        self.embed = (
            nn.Identity()
            if stride == 1 and c_in == c_out
            else DepthwiseSeparable(c_in, c_out, kernel_size=kernel_size, stride=stride)
        )
        self.attend = LinearAttention(c_out)
        self.mlp = InvertedResidual(
            c_out, c_out, kernel_size=kernel_size, expand_ratio=expand_ratio
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y: Tensor = self.mlp(x + self.attend(x))
        return y


class PartialLinearAttention(nn.Module):
    """Linear attention over the first channels, added to them; the other channels pass by.

    attended: channels that attend, a multiple of 16. Attention takes 4 * attended ** 2 weights,
    so a part of the channels is what a tiny network can afford.

    Shape: (B, channels, H, W) -> the same.

    Source: linear attention of EfficientViT, arXiv:2205.14756, section 3.1, on a part of the
    channels as in SHViT, arXiv:2401.16456.

    Raises:
        ValueError: attended is out of range.
    """

    def __init__(self, channels: int, attended: int) -> None:
        super().__init__()
        if not 0 < attended <= channels:
            raise ValueError(f"attended must be from 1 to {channels}, got {attended}")
        self.attended = attended
        self.is_whole = attended == channels
        self.attend = LinearAttention(attended)

    def forward(self, x: Tensor) -> Tensor:
        if self.is_whole:
            whole: Tensor = x + self.attend(x)
            return whole
        part, rest = x[:, : self.attended], x[:, self.attended :]
        return torch.cat([part + self.attend(part), rest], 1)


class UltraEfficientBlock(nn.Module):
    """Neighbours, then all positions, then all channels: three residual steps.

    A depthwise convolution tells positions apart, so no position embedding is needed and any
    image size works; partial linear attention looks at the whole image; a two-layer perceptron
    of `hidden` channels mixes the channels of each position.

    Shape: (B, channels, H, W) -> the same.
    """

    def __init__(self, channels: int, *, attended: int, hidden: int, kernel_size: int = 3) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.filter = nn.Sequential(
            nn.Conv2d(
                channels, channels, kernel_size, padding=padding, groups=channels, bias=False
            ),
            nn.BatchNorm2d(channels),
        )
        self.attend = PartialLinearAttention(channels, attended)
        self.mix = nn.Sequential(conv_norm_act(channels, hidden, 1), conv_norm(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        x = self.attend(x + self.filter(x))
        y: Tensor = x + self.mix(x)
        return y


class UltraEfficientLayer(nn.Sequential):
    """An `UltraEfficientBlock` of any stride and width: 16 channels attend, half of them mix.

    Where the stride or the width changes, a depthwise separable convolution embeds the input
    first.

    Source: the stages of FeatherFace's second version, see `zoo.ultra_efficient_vit`.
    """

    def __init__(self, c_in: int, c_out: int, *, kernel_size: int, stride: int = 1) -> None:
        _check_window(kernel_size, stride)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if stride != 1 or c_in != c_out:
            layers["embed"] = DepthwiseSeparable(
                c_in, c_out, kernel_size=kernel_size, stride=stride
            )
        layers["block"] = UltraEfficientBlock(
            c_out, attended=HEAD_CHANNELS, hidden=c_out // 2, kernel_size=kernel_size
        )
        super().__init__(layers)


def _without_expansion(block: type[nn.Module]) -> Callable[..., nn.Module]:
    def build(
        c_in: int, c_out: int, *, kernel_size: int, stride: int, expand_ratio: int
    ) -> nn.Module:
        if expand_ratio != 1:
            raise ValueError(f"expand_ratio must be 1 for {block.__name__}, got {expand_ratio}")
        return block(c_in, c_out, kernel_size=kernel_size, stride=stride)

    return build


BLOCKS: dict[str, Callable[..., nn.Module]] = {
    "depthwise": _without_expansion(DepthwiseSeparable),
    "inverted": InvertedResidual,
    "linear_attention": LinearAttentionBlock,
    "residual": _without_expansion(ResidualConvolution),
    "ultra_efficient": _without_expansion(UltraEfficientLayer),
}
"""Every block by the name its gene uses: (c_in, c_out, kernel_size=, stride=, expand_ratio=)."""

EXPANDING = ("inverted", "linear_attention")
"""The blocks whose expansion is a gene; for the others expand_ratio is 1."""
