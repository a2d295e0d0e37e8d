"""The loss of any network, chosen by the code of its boxes."""

from collections.abc import Callable, Sequence

from torch import Tensor

from objectives.grid_loss import grid_loss
from objectives.loss import Losses, LossSettings, detection_loss
from objectives.multibox import multibox_loss
from search_spaces.codes import AnchorCode, AnchorFreeCode, BoxCode, GridCode


def _anchor_free_loss(
    _code: AnchorFreeCode,
    levels: Sequence[Tensor],
    boxes_xyxy: Tensor,
    wanted: Tensor,
    ignore: Tensor,
    *,
    settings: LossSettings | None = None,
) -> Losses:
    """`detection_loss`, which needs no code as there is only one."""
    return detection_loss(levels, boxes_xyxy, wanted, ignore, settings=settings)


LOSSES: dict[type, Callable[..., Losses]] = {
    AnchorFreeCode: _anchor_free_loss,
    AnchorCode: multibox_loss,
    GridCode: grid_loss,
}
"""The loss of each kind of head."""


def network_loss(
    code: BoxCode,
    levels: Sequence[Tensor],
    boxes_xyxy: Tensor,
    wanted: Tensor,
    ignore: Tensor,
    *,
    settings: LossSettings | None = None,
) -> Losses:
    """The loss of one batch; `total` is the one to differentiate.

    levels: as the code says, of any float type; losses are float32. boxes_xyxy: (B, F, 4) pixels.
    wanted, ignore: (B, F) bool; padding is neither.

    Raises:
        ValueError: there is no loss for the code, or a setting does not suit it.
    """
    if type(code) not in LOSSES:
        known = ", ".join(kind.__name__ for kind in LOSSES)
        raise ValueError(f"code must be one of {known}, got {type(code).__name__}")
    return LOSSES[type(code)](code, levels, boxes_xyxy, wanted, ignore, settings=settings)
