"""Anchor heads: one tower for all levels, or a light one of grouped convolutions for each.

Every head is made by (c_in, width, anchors=) and maps three (B, c_in, H / s, W / s),
s = 8, 16, 32, to three (B, anchors * 6, H / s, W / s) in the order of `AnchorCode`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from search_spaces.context import ContextModule
from search_spaces.heads import PRIOR_LOGIT, STRIDES
from search_spaces.necks import enlarge

GROUPS = 4


class AnchorPrediction(nn.Module):
    """Class logits and box offsets of a position's anchors, each by a 1x1 convolution.

    Shape: two (B, c_in, H, W), for classes and boxes -> (B, anchors * 6, H, W).
    """

    def __init__(self, c_in: int, *, anchors: int) -> None:
        super().__init__()
        self.classes = nn.Conv2d(c_in, anchors * 2, 1)
        self.boxes = nn.Conv2d(c_in, anchors * 4, 1)
        for layer in (self.classes, self.boxes):
            assert layer.bias is not None
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        assert self.classes.bias is not None
        with torch.no_grad():
            self.classes.bias[1::2] = PRIOR_LOGIT
        classes = torch.arange(anchors * 2).reshape(anchors, 2)
        boxes = torch.arange(anchors * 2, anchors * 6).reshape(anchors, 4)
        self.order: Tensor
        self.register_buffer("order", torch.cat([classes, boxes], 1).flatten(), persistent=False)

    def forward(self, for_classes: Tensor, for_boxes: Tensor) -> Tensor:
        numbers = torch.cat([self.classes(for_classes), self.boxes(for_boxes)], 1)
        return numbers.index_select(1, self.order)


class SharedConvolution(nn.Module):
    """Convolutions for all levels, nothing between them, then a batch norm for each, ReLU.

    Levels differ in their means, and a batch norm that all of them share is one thing in
    training, where it sees them one by one, and another in evaluation, where it has their mix.

    Shape: three maps (B, c_in, H, W) -> what the convolutions make of them, of c_out channels.

    Source: Lyu et al., RTMDet, arXiv:2212.07784, which shares a head's weights but not its norms.
    """

    def __init__(self, c_out: int, *convolutions: nn.Module) -> None:
        super().__init__()
        self.filter = nn.Sequential(*convolutions)
        self.norms = nn.ModuleList(nn.BatchNorm2d(c_out) for _ in STRIDES)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        levels = zip(self.norms, maps, strict=True)
        return [torch.relu(norm(self.filter(x))) for norm, x in levels]


def shared_separable(c_in: int, c_out: int, *, stride: int = 1) -> SharedConvolution:
    """A depthwise 3x3 and a 1x1 convolution, (B, c_in, H, W) -> (B, c_out, H / stride, ...)."""
    return SharedConvolution(
        c_out,
        nn.Conv2d(c_in, c_in, 3, stride, padding=1, groups=c_in, bias=False),
        nn.Conv2d(c_in, c_out, 1, bias=False),
    )


def shared_dense(c_in: int, c_out: int) -> SharedConvolution:
    """A plain 3x3 convolution, (B, c_in, H, W) -> (B, c_out, H, W)."""
    return SharedConvolution(c_out, nn.Conv2d(c_in, c_out, 3, padding=1, bias=False))


class WideContext(nn.Module):
    """What surrounds a position: dense convolutions at half the size, enlarged again.

    Halving makes their window twice as wide and a quarter as dear: a tiny face is found by the
    head and shoulders around it.

    Shape: three maps (B, c_in, H, W) -> (B, c_out, H, W), odd sizes included.
    """

    def __init__(self, c_in: int, c_out: int, *, depth: int = 2) -> None:
        super().__init__()
        self.halve = shared_separable(c_in, c_out, stride=2)
        self.look = nn.ModuleList(shared_dense(c_out, c_out) for _ in range(depth))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        halves = self.halve(maps)
        for look in self.look:
            halves = [x + y for x, y in zip(halves, look(halves), strict=True)]
        return [
            enlarge(half)[:, :, : x.shape[2], : x.shape[3]]
            for half, x in zip(halves, maps, strict=True)
        ]


class SharedDetectionHead(nn.Module):
    """One tower for all levels: detail and context added, then a branch each for class and box."""

    def __init__(self, c_in: int, width: int, *, anchors: int) -> None:
        super().__init__()
        self.detail = shared_separable(c_in, width)
        self.context = WideContext(c_in, width)
        self.for_classes = shared_separable(width, width)
        self.for_boxes = shared_separable(width, width)
        self.predict = AnchorPrediction(width, anchors=anchors)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        both = zip(self.detail(features), self.context(features), strict=True)
        seen = [detail + context for detail, context in both]
        branches = zip(self.for_classes(seen), self.for_boxes(seen), strict=True)
        return tuple(self.predict(for_classes, for_boxes) for for_classes, for_boxes in branches)


class ShuffledConvolution(nn.Module):
    """A grouped 3x3 convolution whose groups read channels of all the groups before.

    Shape: (B, c_in, H, W) -> (B, c_out, H, W).

    Source: Zhang et al., ShuffleNet, arXiv:1707.01083, figure 1.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.filter = nn.Conv2d(c_in, c_out, 3, padding=1, groups=GROUPS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, rows, columns = x.shape
        shuffled = x.reshape(batch, GROUPS, -1, rows, columns).transpose(1, 2).reshape_as(x)
        y: Tensor = self.filter(shuffled)
        return y


class GroupedDetectionHead(nn.Module):
    """For each level a context module of grouped convolutions, and its own prediction."""

    def __init__(self, c_in: int, width: int, *, anchors: int) -> None:
        super().__init__()
        self.context = nn.ModuleList(
            ContextModule(c_in, width, convolution=ShuffledConvolution) for _ in STRIDES
        )
        self.predict = nn.ModuleList(AnchorPrediction(width, anchors=anchors) for _ in STRIDES)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        contexts = [context(x) for context, x in zip(self.context, features, strict=True)]
        return tuple(predict(x, x) for predict, x in zip(self.predict, contexts, strict=True))


ANCHOR_HEADS: dict[str, Callable[..., nn.Module]] = {
    "shared": SharedDetectionHead,
    "grouped": GroupedDetectionHead,
}
"""Every anchor head by name: (c_in, width, anchors=)."""
