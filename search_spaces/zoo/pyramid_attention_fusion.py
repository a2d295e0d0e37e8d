"""The neck of FeatherFace's second version."""

from collections.abc import Sequence

from torch import Tensor, nn

from search_spaces.blocks import conv_norm_act
from search_spaces.necks import PyramidAttentionCell


class PyramidAttentionFusion(nn.Module):
    """1x1 laterals to one width, then cells one after another; 70,802 parameters as defaults are.

    c_in: channels of the backbone's maps at strides 8, 16 and 32. c_out: of all maps that come
    out. attended: channels that attend across scales.

    Shape: three maps (B, c_in, H / s, W / s), s = 8, 16, 32 -> (B, c_out, H / s, W / s).
    """

    def __init__(
        self,
        c_in: Sequence[int],
        c_out: int,
        *,
        repeats: int = 2,
        attended: int = 32,
        kernel_size: int = 5,
    ) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(conv_norm_act(c, c_out, 1) for c in c_in)
        self.cells = nn.Sequential(
            *(
                PyramidAttentionCell(c_out, attended=attended, kernel_size=kernel_size)
                for _ in range(repeats)
            )
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        laterals = zip(self.laterals, maps, strict=True)
        return tuple(self.cells([lateral(x) for lateral, x in laterals]))
