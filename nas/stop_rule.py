"""When a trial is not worth going on with: cheaper ones are surely better where it stands.

A fit is judged at rungs: after a ninth and a third of its steps (successive halving with a factor
of 3, as in Li et al., Hyperband, arXiv:1603.06560, but against the trials that a rung has seen so
far instead of in brackets). Two objectives make the rule one of dominance: costs are known exactly,
so a trial is compared only with trials that cost no more. There is no rung before the first step:
the order of inherited weights has little to do with that of trained ones (Kendall's tau of smooth
AP on 16 networks of like cost: 0.28, 90 % interval 0.01 to 0.54; docs/results/proxies.json).
"""

from dataclasses import dataclass

RUNG_DIVISORS = (9, 3)
"""A rung is this part of all steps."""

DOMINATORS = 2
"""So many trials must be surely better at no more cost before one is stopped. On the trials of a
search, fitted to their end, two of them save 39 % of the steps in the search's own order and 45 %
in random ones, and lose 0.4 and 0.5 % of the hypervolume; three save 35 and 41 % and lose 0.3 and
0.4 %. (Of random networks fitted from weights of their own, without a teacher, two save 56 % and
lose 2.0 %, three 49 % and 1.0 %; docs/results/README.md, What early stopping spares and loses.)"""

EXEMPT_SHARE = 0.05
"""Of all trials, drawn by the seed: they go on in any case, to show what the rule loses."""

STOPPED_AT = "stopped_at_step"
"""Score of a trial that was stopped: the steps of the rung."""

SPARED_AT = "spared_at_step"
"""Score of an exempt trial that would have been stopped: the steps of the rung."""

RUNG_SCORES = "rung_scores"
"""Score of every trial: what it had at the rungs it has reached."""

FIT_STEPS = "fit_steps"
"""Score of every trial: the steps of its fit."""


def rung_steps(steps: int) -> tuple[int, ...]:
    """The rungs below the end of a fit, rising; fewer where a fit is very short."""
    return tuple(dict.fromkeys(steps // d for d in RUNG_DIVISORS if steps >= d))


@dataclass(frozen=True, slots=True)
class Peer:
    """An earlier trial: what it costs and its score at every rung that it has reached."""

    cost: float
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class StopRule:
    """Says of one trial, rung by rung, whether it ends there.

    cost: the trial's, in the unit of its peers'. peers: the earlier trials it is compared with.
    is_exempt: it goes on whatever is said. dominators: so many of them end it.
    """

    cost: float = float("inf")
    peers: tuple[Peer, ...] = ()
    is_exempt: bool = False
    dominators: int = DOMINATORS

    def is_beaten(self, rung: int, ceiling: float) -> bool:
        """Whether enough peers cost no more and score higher at the rung than the trial may.

        rung: counted from 0. ceiling: upper end of the noise interval of the trial's own score.
        """
        better = [
            peer
            for peer in self.peers
            if peer.cost <= self.cost and len(peer.scores) > rung and peer.scores[rung] > ceiling
        ]
        return len(better) >= self.dominators


NEVER = StopRule()
"""Stops nothing."""
