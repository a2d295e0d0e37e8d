"""Architectures worth trying first: the field's detectors, as nearly as the space spells them."""

from collections.abc import Callable

from search_spaces.architecture import NO_LAYER, Architecture, Head, Neck, Stage
from search_spaces.space import Space


def _stages(
    block: str,
    *depths_and_widths: tuple[int, int],
    kernel_sizes: tuple[int, int, int] = (3, 3, 3),
    expand_ratio: int = 1,
    attention: tuple[str, str, str] = ("none", "none", "none"),
) -> tuple[Stage, Stage, Stage]:
    stage8, stage16, stage32 = (
        Stage(block, depth, width, kernel_size, expand_ratio, weighed)
        for (depth, width), kernel_size, weighed in zip(
            depths_and_widths, kernel_sizes, attention, strict=True
        )
    )
    return stage8, stage16, stage32


_BARE_HEAD = Head("shared", NO_LAYER, depth=0, width=0, attention="none")


def _yunet_n() -> Architecture:
    """Its stride-4 part has 64 channels, the space's at most 48."""
    return Architecture(
        stem_width=24,
        stem_depth=2,
        stages=_stages("depthwise", (2, 64), (2, 64), (2, 64)),
        neck=Neck("fpn", 64, 1),
        head=Head("per_level", "depthwise", 1, 64, "none"),
    )


def _yunet_s() -> Architecture:
    return Architecture(
        stem_width=16,
        stem_depth=2,
        stages=_stages("depthwise", (2, 64), (2, 64), (2, 64)),
        neck=Neck("fpn", 64, 1),
        head=Head("per_level", NO_LAYER, 0, 0, "none"),
    )


def _eresfd() -> Architecture:
    """On three levels and not six."""
    return Architecture(
        stem_width=16,
        stem_depth=1,
        stages=_stages("residual", (2, 32), (2, 32), (2, 32)),
        neck=Neck("fpn", 32, 1),
        head=Head("shared", "context", 1, 32, "none"),
    )


def _featherface_v2() -> Architecture:
    """One prediction a position and not nine; the head is one of separable convolutions."""
    return Architecture(
        stem_width=8,
        stem_depth=1,
        stages=_stages("ultra_efficient", (2, 32), (2, 64), (1, 128)),
        neck=Neck("pyramid_attention", 64, 2),
        head=Head("shared", "depthwise", 2, 64, "dynamic"),
    )


def _featherface_v2_cbam_plus_grouped() -> Architecture:
    return Architecture(
        stem_width=8,
        stem_depth=1,
        stages=_stages("ultra_efficient", (2, 32), (2, 64), (1, 128)),
        neck=Neck("pyramid_attention", 64, 2),
        head=Head("per_level", "grouped", 1, 64, "cbam_plus"),
    )


def _yolo_resnet() -> Architecture:
    """Its backbone; three levels and a neck in place of one grid, as for all of YOLO's below."""
    return Architecture(
        stem_width=8,
        stem_depth=1,
        stages=_stages("residual", (4, 32), (4, 48), (4, 64)),
        neck=Neck("fpn", 64, 1),
        head=_BARE_HEAD,
    )


def _yolo_resnet_small() -> Architecture:
    return Architecture(
        stem_width=8,
        stem_depth=1,
        stages=_stages("residual", (4, 16), (4, 32), (4, 48)),
        neck=Neck("fpn", 16, 1),
        head=_BARE_HEAD,
    )


def _mobilenet_v3(*depths_and_widths: tuple[int, int]) -> tuple[Stage, Stage, Stage]:
    """Large kernels and squeeze-and-excitation from stride 16 on, as in its small network."""
    return _stages(
        "inverted",
        *depths_and_widths,
        kernel_sizes=(3, 5, 5),
        expand_ratio=4,
        attention=("none", "se", "se"),
    )


def _yolo_mobilenetv3() -> Architecture:
    return Architecture(
        stem_width=8,
        stem_depth=1,
        stages=_mobilenet_v3((2, 16), (4, 32), (3, 48)),
        neck=Neck("fpn", 32, 1),
        head=_BARE_HEAD,
    )


def _yolo_mobilenetv3_small() -> Architecture:
    return Architecture(
        stem_width=8,
        stem_depth=1,
        stages=_mobilenet_v3((1, 16), (2, 16), (2, 32)),
        neck=Neck("fpn", 16, 1),
        head=_BARE_HEAD,
    )


NEAREST: dict[str, Callable[[], Architecture]] = {
    "yunet-n": _yunet_n,
    "yunet-s": _yunet_s,
    "eresfd": _eresfd,
    "featherface-v2": _featherface_v2,
    "featherface-v2-cbam-plus-grouped": _featherface_v2_cbam_plus_grouped,
    "yolo-resnet": _yolo_resnet,
    "yolo-resnet-small": _yolo_resnet_small,
    "yolo-mobilenetv3": _yolo_mobilenetv3,
    "yolo-mobilenetv3-small": _yolo_mobilenetv3_small,
}
"""The space's nearest architecture to every reference that keeps the usual limits itself."""


def _inverted() -> Architecture:
    """Inverted residuals all through (MobileNetV2, arXiv:1801.04381) and a PAN."""
    return Architecture(
        stem_width=16,
        stem_depth=1,
        stages=_stages("inverted", (2, 32), (3, 48), (2, 64), expand_ratio=3),
        neck=Neck("pan", 48, 1),
        head=Head("per_level", "depthwise", 1, 64, "none"),
    )


def _attentive() -> Architecture:
    """Linear attention where maps are small (EfficientViT, arXiv:2205.14756) and a BiFPN."""
    stage8, *_ = _stages("depthwise", (2, 48), (1, 48), (1, 48))
    _, stage16, stage32 = _stages("linear_attention", (1, 48), (2, 48), (2, 64), expand_ratio=2)
    return Architecture(
        stem_width=16,
        stem_depth=1,
        stages=(stage8, stage16, stage32),
        neck=Neck("bifpn", 48, 1),
        head=Head("shared", "depthwise", 1, 64, "none"),
    )


def starting_points(space: Space) -> tuple[Architecture, ...]:
    """The smallest network of the space, two plain ones, and those nearest to the references.

    Those that a narrowed space does not spell are left out.
    """
    nearest = (make() for make in NEAREST.values())
    usual = space.corner(largest=False), _inverted(), _attentive(), *nearest
    return tuple(architecture for architecture in usual if architecture in space)
