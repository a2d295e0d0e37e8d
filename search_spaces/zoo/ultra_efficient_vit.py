"""A tiny vision transformer with linear attention: the backbone of FeatherFace's second version.

Shape letters: B batch, C channels, H height, W width.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from search_spaces.blocks import DepthwiseSeparable, InvertedResidual, UltraEfficientBlock

EMBEDDED_WIDTH = 16
STAGE_WIDTHS = (32, 64, 128)


class PatchEmbedding(nn.Module):
    """Overlapping 7x7 patches, one every four pixels, made into vectors.

    Shape: (B, c_in, H, W) -> (B, c_out, H / 4, W / 4).

    Source: Dosovitskiy et al., ViT, arXiv:2010.11929, section 3.1, with patches that overlap as
    in SegFormer, arXiv:2105.15203, section 3.1: no face is cut by a patch's border.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(c_in, c_out, 7, stride=4, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.embed(x)))


class UltraEfficientStage(nn.Sequential):
    """A separable convolution to half the size, then blocks.

    Shape: (B, c_in, H, W) -> (B, c_out, ceil(H / 2), ceil(W / 2)).
    """

    def __init__(self, c_in: int, c_out: int, *, depth: int, attended: int, hidden: int) -> None:
        super().__init__(
            DepthwiseSeparable(c_in, c_out, kernel_size=3, stride=2),
            *(UltraEfficientBlock(c_out, attended=attended, hidden=hidden) for _ in range(depth)),
        )


class UltraEfficientViT(nn.Module):
    """Patch embedding, a convolution block at stride 4, three stages.

    47,328 parameters. The widest stage has one block: a block's weights grow with the square of
    its width, and small faces are found in the two finer ones.

    Shape: (B, 3, H, W) -> (B, 32, H / 8, W / 8), (B, 64, H / 16, W / 16), (B, 128, H / 32, W / 32).
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            PatchEmbedding(3, EMBEDDED_WIDTH),
            InvertedResidual(EMBEDDED_WIDTH, EMBEDDED_WIDTH, kernel_size=3, expand_ratio=2),
        )
        plans = ((2, 16, 48), (2, 16, 32), (1, 32, 16))
        self.stages = nn.ModuleList(
            UltraEfficientStage(c_in, c_out, depth=depth, attended=attended, hidden=hidden)
            for (c_in, c_out), (depth, attended, hidden) in zip(
                pairwise((EMBEDDED_WIDTH, *STAGE_WIDTHS)), plans, strict=True
            )
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(images)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps)
