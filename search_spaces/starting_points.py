"""Architectures worth trying first: plain designs of the field, as far as the space spells them."""

from search_spaces.architecture import Architecture, Head, Neck, Stage
from search_spaces.space import Space


def _stage(block: str, depth: int, width: int, *, expand_ratio: int = 1) -> Stage:
    return Stage(
        block=block,
        depth=depth,
        width=width,
        kernel_size=3,
        expand_ratio=expand_ratio,
        attention="none",
    )


_ONE_LAYER_HEAD = Head(sharing="shared", depth=1, width=64, attention="none")


def starting_points(space: Space) -> tuple[Architecture, ...]:
    """The smallest network of the space, then a plain network for each of three blocks.

    The depthwise one has the widths of YuNet (Wu et al., Machine Intelligence Research 2023,
    table 1); the others spend about as much on inverted residuals (MobileNetV2,
    arXiv:1801.04381) and on linear attention (EfficientViT, arXiv:2205.14756).
    """
    depthwise = Architecture(
        stem_width=16,
        stem_depth=2,
        stages=(
            _stage("depthwise", 3, 64),
            _stage("depthwise", 2, 64),
            _stage("depthwise", 2, 64),
        ),
        neck=Neck("fpn", 64, 1),
        head=_ONE_LAYER_HEAD,
    )
    inverted = Architecture(
        stem_width=16,
        stem_depth=1,
        stages=(
            _stage("inverted", 2, 32, expand_ratio=3),
            _stage("inverted", 3, 48, expand_ratio=3),
            _stage("inverted", 2, 64, expand_ratio=3),
        ),
        neck=Neck("pan", 48, 1),
        head=_ONE_LAYER_HEAD,
    )
    attentive = Architecture(
        stem_width=16,
        stem_depth=1,
        stages=(
            _stage("depthwise", 2, 48),
            _stage("linear_attention", 2, 48, expand_ratio=2),
            _stage("linear_attention", 2, 64, expand_ratio=2),
        ),
        neck=Neck("bifpn", 48, 1),
        head=_ONE_LAYER_HEAD,
    )
    return space.corner(largest=False), depthwise, inverted, attentive
