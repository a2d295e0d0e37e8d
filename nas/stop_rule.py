"""When a trial is not worth going on with: cheaper ones are surely better where it stands.

A fit is judged at rungs, after one and two ninths of its steps (as in Li et al., Hyperband,
arXiv:1603.06560, but against the trials that a rung has seen so far instead of in brackets). Two
objectives make the rule one of dominance: costs are known exactly, so a trial is compared only with
trials that cost no more. Scores are not; but all trials are judged by the same images, so two are
compared draw by draw as these are drawn again (a paired bootstrap), which leaves out what every
network finds hard. What is compared are outlooks (`nas.outlook`), as cheaper networks are sooner
good. There is no rung before the first step: the order of inherited weights has little to do with
that of trained ones (Kendall's tau of smooth AP on 16 networks of like cost: 0.28, 90 % interval
0.01 to 0.54; docs/results/proxies.json).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.outlook import RUNG_EXPONENTS

Replicates = NDArray[np.float32]
"""A score in each draw of the images it was judged by."""

DOMINATORS = 2
"""So many trials must be surely better at no more cost before one is stopped."""

SURE = 0.85
"""One trial is surely better than another where it is so in this share of the draws. On the trials
of two searches, all fitted to their end, with less up to 1.1 % of the hypervolume are lost, and
with more less is saved (docs/results/README.md, What early stopping spares and loses)."""

EXEMPT_SHARE = 0.05
"""Of all trials, drawn by the seed: they go on in any case, to show what the rule loses."""

STOPPED_AT = "stopped_at_step"
"""Score of a trial that was stopped: the steps of the rung."""

SPARED_AT = "spared_at_step"
"""Score of an exempt trial that would have been stopped: the steps of the rung."""

RUNG_SCORES = "outlooks_at_rungs"
"""Score of every trial: the outlook of its smooth AP at the rungs it has reached."""

RUNG_REPLICATES = "outlook_draws_at_rungs"
"""Score of every trial: the same in each draw of the images, rung by rung. Older trials, which had
other rungs or scores, have none, and nothing is compared with them."""

FIT_STEPS = "fit_steps"
"""Score of every trial: the steps of its fit."""


def rungs_of(steps: int) -> dict[int, float]:
    """Steps of the rungs below the end of a fit, rising, and the exponent of the MACs in outlooks
    there; fewer where a fit is very short."""
    return {steps * n // 9: power for n, power in RUNG_EXPONENTS.items() if steps * n >= 9}


@dataclass(frozen=True, slots=True, eq=False)
class Peer:
    """An earlier trial: what it costs and its score in every draw, at every rung that it has
    reached."""

    cost: float
    replicates: tuple[Replicates, ...]


def peer_of(cost: float, replicates: Sequence[Sequence[float]]) -> Peer:
    """The peer with these numbers."""
    return Peer(cost, tuple(np.array(one, np.float32) for one in replicates))


@dataclass(frozen=True, slots=True)
class StopRule:
    """Says of one trial, rung by rung, whether it ends there.

    cost: the trial's, in the unit of its peers'. peers: the earlier trials it is compared with.
    is_exempt: it goes on whatever is said. dominators: so many of them end it. sure: share of the
    draws in which each must be better.
    """

    cost: float = float("inf")
    peers: tuple[Peer, ...] = ()
    is_exempt: bool = False
    dominators: int = DOMINATORS
    sure: float = SURE

    def is_beaten(self, rung: int, replicates: Sequence[float]) -> bool:
        """Whether enough peers cost no more and are surely better at the rung.

        rung: counted from 0. replicates: the trial's own score there, in the draws of its peers.
        """
        own = np.array(replicates, np.float32)
        better = [
            peer
            for peer in self.peers
            if peer.cost <= self.cost
            and len(peer.replicates) > rung
            and (peer.replicates[rung] > own).mean() >= self.sure
        ]
        return len(better) >= self.dominators


NEVER = StopRule()
"""Stops nothing."""
