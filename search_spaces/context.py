"""Context modules: they look at each position through windows of several sizes."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

LEAK = 0.1
"""What a leaky ReLU lets through of a negative number."""


def plain_convolution(c_in: int, c_out: int) -> nn.Module:
    """A 3x3 convolution without bias."""
    return nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)


class ContextModule(nn.Module):
    """Windows of 3, 5 and 7 pixels side by side, the larger ones stacked from 3x3 convolutions.

    convolution: makes a 3x3 convolution without bias from (c_in, c_out).
    interleaved: every four channels of the output come from all windows, so that the first
    channels are the output of a narrower module; else the windows follow one another.

    Shape: (B, c_in, H, W) -> (B, c_out, H, W), half of it from the smallest window and a quarter
    from each of the others.

    Source: Najibi et al., SSH, arXiv:1708.03979, figure 4; the leak as in
    biubug6/Pytorch_Retinaface for up to 64 channels.

    Raises:
        ValueError: c_out is not a multiple of 4.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        *,
        convolution: Callable[[int, int], nn.Module] = plain_convolution,
        interleaved: bool = False,
    ) -> None:
        super().__init__()
        if c_out % 4:
            raise ValueError(f"c_out must be a multiple of 4, got {c_out}")
        quarter = c_out // 4
        self.interleaved = interleaved

        def norm(narrow: int, wide: int) -> nn.Sequential:
            return nn.Sequential(convolution(narrow, wide), nn.BatchNorm2d(wide))

        self.window3 = norm(c_in, 2 * quarter)
        self.enter = nn.Sequential(norm(c_in, quarter), nn.LeakyReLU(LEAK, inplace=True))
        self.window5 = norm(quarter, quarter)
        self.deepen = nn.Sequential(norm(quarter, quarter), nn.LeakyReLU(LEAK, inplace=True))
        self.window7 = norm(quarter, quarter)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.enter(x)
        window3, window5 = self.window3(x), self.window5(hidden)
        window7 = self.window7(self.deepen(hidden))
        if self.interleaved:
            pairs = window3.reshape(x.shape[0], -1, 2, *x.shape[2:])
            fours = [pairs, window5.unsqueeze(2), window7.unsqueeze(2)]
            return torch.cat(fours, 2).flatten(1, 2).relu()
        return torch.cat([window3, window5, window7], 1).relu()
