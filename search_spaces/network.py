"""A stand-alone detector network for an architecture."""

from torch import Tensor

from search_spaces.architecture import Architecture
from search_spaces.backbone import Backbone
from search_spaces.codes import AnchorFreeCode
from search_spaces.face_network import FaceNetwork
from search_spaces.heads import AnchorFreeHead
from search_spaces.necks import FusionNeck


class Detector(FaceNetwork):
    """Backbone, neck and head of an architecture of the space.

    Shape: (B, 3, H, W) float, BGR from 0 to 255, H and W multiples of 32 -> three tensors
    (B, 6, H / s, W / s) for the strides s = 8, 16, 32.
    """

    def __init__(self, architecture: Architecture, *, landmarks: bool = False) -> None:
        super().__init__(architecture.key, AnchorFreeCode())
        self.architecture = architecture
        width8, width16, width32 = (stage.width for stage in architecture.stages)
        self.backbone = Backbone(architecture)
        self.neck = FusionNeck((width8, width16, width32), architecture.neck)
        self.head = AnchorFreeHead(architecture.neck.width, architecture.head, landmarks=landmarks)

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """The neck's maps."""
        return tuple(self.neck(self.backbone((images - 127.5) / 64)))

    def predict(self, features: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Six or sixteen numbers a position."""
        levels: tuple[Tensor, ...] = self.head(list(features))
        return levels


def build(architecture: Architecture, *, landmarks: bool = False) -> Detector:
    """A freshly initialised network. Its initial weights come from torch's global generator."""
    return Detector(architecture, landmarks=landmarks)
