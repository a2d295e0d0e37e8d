"""What every face detector of this project is, searched or written by hand."""

from abc import abstractmethod

from torch import Tensor, nn

from search_spaces.codes import BoxCode


class FaceNetwork(nn.Module):
    """A network that finds faces. Abstract: `features` and `predict` are a subclass's own.

    key: names the architecture; `search_spaces.catalogue.build_network` makes it again from it.
    code: what the levels mean.

    Shape: (B, 3, H, W) float, BGR from 0 to 255, H and W multiples of 32 -> one tensor for each
    of the code's strides s, (B, channels, ceil(H / s), ceil(W / s)). A network normalises its
    input itself.
    """

    def __init__(self, key: str, code: BoxCode) -> None:
        super().__init__()
        self.key = key
        self.code = code

    @abstractmethod
    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the head reads: one map a level, of the levels' heights and widths."""

    @abstractmethod
    def predict(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The head: maps of `features` to levels."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.predict(self.features(images))
