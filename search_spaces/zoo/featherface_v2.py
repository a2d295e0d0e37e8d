"""FeatherFace, second version: linear attention instead of convolutions, under 285K parameters.

| part | planned | parameters |
|---|---:|---:|
| UltraEfficientViT, the backbone | 45K | 47,328 |
| PyramidAttentionFusion, the neck | 75K | 70,802 |
| DynamicChannelAttention, one a level | 25K | 25,251 |
| SharedDetectionHead | 100K | 98,230 |
| all | under 285K | 241,611 |

730M MACs at 640x640.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from torch import Tensor, nn

from search_spaces.attention import CbamPlus, DynamicChannelAttention
from search_spaces.codes import AnchorCode
from search_spaces.face_network import FaceNetwork
from search_spaces.heads import STRIDES
from search_spaces.zoo.pyramid_attention_fusion import PyramidAttentionFusion
from search_spaces.zoo.shared_detection_head import ANCHOR_HEADS
from search_spaces.zoo.ultra_efficient_vit import STAGE_WIDTHS, UltraEfficientViT

NAME = "featherface-v2"
NECK_WIDTH = 64
HEAD_WIDTH = 64

SMALLEST_ANCHOR = 16 * 2 ** (-2 / 3)
"""Sides grow from here by 2^(2/3), nine in all, three a level: 10, 16, 25 / 40, 64, 102 / 161,
256, 406 pixels. Two neighbours overlap by 0.4, so a square face of any side between them meets
one of them by at least 0.63; 16, 64 and 256 are the usual first anchors of the three strides."""

FACE_RATIOS = (1.0, 1.25, 1.5)
"""Heights over widths. Those of 19,852 faces of 8 px and more, in 2,278 WIDER train images of
640 px, have quartiles of 1.14, 1.29 and 1.42, and at most one in twenty is wider than high. With
these three ratios a face and the best anchor of its area overlap by 0.94 on average, with
(0.8, 1, 1.25) by 0.91."""

CODE = AnchorCode(
    STRIDES,
    sizes=tuple(
        tuple(SMALLEST_ANCHOR * 2 ** (2 * (3 * level + scale) / 3) for scale in range(3))
        for level in range(3)
    ),
    ratios=FACE_RATIOS,
)

CHANNEL_ATTENTIONS: dict[str, Callable[[int], nn.Module]] = {
    "dynamic": DynamicChannelAttention,
    "cbam_plus": CbamPlus,
    "none": lambda _channels: nn.Identity(),
}


@dataclass(frozen=True, slots=True)
class FeatherFaceV2Options:
    """Parts that can be exchanged.

    channel_attention: behind the neck; dynamic, cbam_plus or none. head: shared or grouped.
    cbam_plus with grouped is the version's earlier plan.

    Raises:
        ValueError: there is no such part.
    """

    channel_attention: str = "dynamic"
    head: str = "shared"

    def __post_init__(self) -> None:
        _check("channel_attention", self.channel_attention, CHANNEL_ATTENTIONS)
        _check("head", self.head, ANCHOR_HEADS)

    @property
    def key(self) -> str:
        """featherface-v2, and the names of the parts that are not its own."""
        chosen = ((self.channel_attention, "dynamic"), (self.head, "shared"))
        others = [name.replace("_", "-") for name, own in chosen if name != own]
        return "-".join([NAME, *others])


def _check(field: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise ValueError(f"{field} must be one of {', '.join(known)}, got {name!r}")


class FeatherFaceV2(FaceNetwork):
    """Backbone, neck, a channel attention for each level, one head; nine anchors a position.

    Source: the plan of parts and sizes is that of FeatherFace's second version, of which no
    accuracy has been published; each part is written from the papers that its docstring names.
    """

    def __init__(self, options: FeatherFaceV2Options) -> None:
        super().__init__(options.key, CODE)
        self.backbone = UltraEfficientViT()
        self.neck = PyramidAttentionFusion(STAGE_WIDTHS, NECK_WIDTH)
        attention = CHANNEL_ATTENTIONS[options.channel_attention]
        self.attention = nn.ModuleList(attention(NECK_WIDTH) for _ in STRIDES)
        self.head = ANCHOR_HEADS[options.head](NECK_WIDTH, HEAD_WIDTH, anchors=CODE.anchors_of(0))

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """The neck's maps, their channels weighed."""
        maps = self.neck(self.backbone((images - 127.5) / 64))
        return tuple(attend(x) for attend, x in zip(self.attention, maps, strict=True))

    def predict(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Six numbers for each of a position's nine anchors."""
        levels: tuple[Tensor, ...] = self.head(features)
        return levels


def featherface_v2(options: FeatherFaceV2Options | None = None) -> FeatherFaceV2:
    """FeatherFace's second version, with its own parts if no others are named."""
    return FeatherFaceV2(options or FeatherFaceV2Options())


def featherface_v2_cbam_plus_grouped() -> FeatherFaceV2:
    """Its earlier plan, CBAM++ and grouped heads: 155,234 parameters, 520M MACs at 640x640."""
    return FeatherFaceV2(FeatherFaceV2Options("cbam_plus", "grouped"))
