"""The backbone: stem to stride 4, then three stages whose outputs at strides 8, 16, 32 are used.

Layers carry their choice in their name (`stage16.2_inverted`), so that two networks share a
name exactly where the supernet lets them share weights.
"""

from collections import OrderedDict

from torch import Tensor, nn

from search_spaces.architecture import STAGE_STRIDES, Architecture, Stage
from search_spaces.attention import ATTENTION
from search_spaces.blocks import BLOCKS, DepthwiseSeparable, conv_norm_act


def build_stem(width: int, depth: int) -> nn.Sequential:
    """(B, 3, H, W) -> (B, 2 * width, H / 4, W / 4)."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv_norm_act(3, width, 3, stride=2))
    for i in range(depth):
        c_in, stride = (width, 2) if i == 0 else (2 * width, 1)
        layers[f"{i}_depthwise"] = DepthwiseSeparable(c_in, 2 * width, kernel_size=3, stride=stride)
    return nn.Sequential(layers)


def build_stage(c_in: int, stage: Stage) -> nn.Sequential:
    """(B, c_in, H, W) -> (B, stage.width, H / 2, W / 2)."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(stage.depth):
        layers[f"{i}_{stage.block}"] = BLOCKS[stage.block](
            c_in if i == 0 else stage.width,
            stage.width,
            kernel_size=stage.kernel_size,
            stride=2 if i == 0 else 1,
            expand_ratio=stage.expand_ratio,
        )
        if stage.attention != "none":
            layers[f"{i}_attention_{stage.attention}"] = ATTENTION[stage.attention](stage.width)
    return nn.Sequential(layers)


class Backbone(nn.Module):
    """(B, 3, H, W) -> features at strides 8, 16 and 32, as wide as the stages."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.stem = build_stem(architecture.stem_width, architecture.stem_depth)
        c_in = 2 * architecture.stem_width
        self.stages = nn.ModuleDict()
        for stride, stage in zip(STAGE_STRIDES, architecture.stages, strict=True):
            self.stages[f"stage{stride}"] = build_stage(c_in, stage)
            c_in = stage.width

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.stem(images)
        features = []
        for stage in self.stages.values():
            x = stage(x)
            features.append(x)
        return features
