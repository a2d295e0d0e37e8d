"""What a short fit says of a long one, the size of the network considered.

Small networks learn faster than large ones, so a short fit shows them nearer to what they come to,
and the shorter it is, the more. A search that believes it ends with small networks, and stops large
ones too soon. The outlook is a score times a power of the MACs. It has a higher Kendall's tau with
fits alone than the promise in eleven of seventeen searches on record, a lower one in two, and
orders networks of like cost as well (docs/results/README.md, What trials raise).
"""

from collections.abc import Mapping

from objectives.cost import architecture_cost
from objectives.limits import Limits
from search_spaces.architecture import Architecture

OUTLOOK = "outlook"
"""Score of every trial, and what it raises: that of its promise."""

USUAL_MACS = 300_000_000
"""At the usual image size: of a network whose outlook is the score itself."""

END_EXPONENT = 0.25
"""Of the MACs, where a trial ends."""

RUNG_EXPONENTS: Mapping[int, float] = {1: 2.0, 2: 1.0}
"""The same at the rungs of early stopping, by the ninths of the steps that were made: the shorter a
fit, the further large networks are behind what they come to. (With less they are stopped while they
are still learning; docs/results/README.md, What early stopping spares and loses.)"""


def handicap(macs: float, exponent: float = END_EXPONENT) -> float:
    """What a score is to be multiplied by. macs: at the usual image size."""
    return float((macs / USUAL_MACS) ** exponent)


def usual_macs(architecture: Architecture) -> int:
    """MACs at the usual image size, whatever the one that a study has limits for."""
    return architecture_cost(architecture, image_size=Limits().image_size).macs
