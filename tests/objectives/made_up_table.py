"""A latency table that nobody measured."""

from objectives.latency_table import LatencyTable, TimedLayer, space_layers
from search_spaces.space import SPACE


def made_up_us(layer: TimedLayer) -> float:
    """Microseconds that grow with the products a layer might need."""
    kernels = layer.c_in * layer.c_out * max(1, layer.kernel_size) * max(1, layer.expand_ratio)
    return 1 + kernels * layer.side**2 / 1e4


def made_up_table(*, image_size: int = 64, device: str = "phone") -> LatencyTable:
    """Of all layers of the space."""
    layers = space_layers(SPACE, image_size=image_size)
    return LatencyTable(
        device, 1, image_size, "made up", {layer.key: made_up_us(layer) for layer in layers}
    )
