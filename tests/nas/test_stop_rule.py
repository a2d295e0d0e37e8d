"""A trial is stopped by two surely better ones at no more cost, and by nothing else."""

import pytest

from nas.outlook import END_EXPONENT
from nas.stop_rule import NEVER, Peer, StopRule, peer_of, rungs_of

BETTER = peer_of(10.0, [[0.3], [0.6]])


@pytest.mark.parametrize(
    ("steps", "rungs"),
    [(252, (28, 56)), (90, (10, 20)), (9, (1, 2)), (8, (1,)), (5, (1,)), (4, ())],
)
def test_rungs_rise_to_the_end_of_a_fit(steps: int, rungs: tuple[int, ...]) -> None:
    assert tuple(rungs_of(steps)) == rungs


def test_the_earlier_a_rung_the_more_the_size_of_a_network_counts() -> None:
    exponents = [*rungs_of(90).values(), END_EXPONENT]
    assert exponents == sorted(exponents, reverse=True)


def test_two_peers_that_score_more_at_no_more_cost_stop_a_trial() -> None:
    rule = StopRule(cost=10.0, peers=(BETTER, BETTER))
    assert rule.is_beaten(0, [0.29])
    assert rule.is_beaten(1, [0.59])


@pytest.mark.parametrize(
    "second",
    [
        peer_of(10.1, [[0.9], [0.9]]),  # it costs more
        peer_of(1.0, [[0.9]]),  # it has not reached the rung
        peer_of(1.0, [[0.9], [0.59]]),  # it may be worse
    ],
)
def test_one_peer_does_not(second: Peer) -> None:
    assert not StopRule(cost=10.0, peers=(BETTER, second)).is_beaten(1, [0.59])


def test_more_can_be_asked_for() -> None:
    peers = (BETTER, BETTER)
    assert not StopRule(cost=10.0, peers=peers, dominators=3).is_beaten(0, [0.29])
    assert StopRule(cost=10.0, peers=(*peers, BETTER), dominators=3).is_beaten(0, [0.29])


def test_without_peers_nothing_is_stopped() -> None:
    assert not NEVER.is_beaten(0, [-1.0])


def test_scores_are_compared_draw_by_draw() -> None:
    """A peer that is a little better in every draw is surely better, however much draws differ."""
    own = [0.1, 0.5, 0.9, 0.3] * 5
    rule = StopRule(cost=10.0, peers=(peer_of(10.0, [[x + 0.01 for x in own]]),) * 2)
    assert rule.is_beaten(0, own)
    assert not rule.is_beaten(0, own[1:] + own[:1])


@pytest.mark.parametrize(("worse", "is_beaten"), [(6, True), (7, False)])
def test_a_peer_must_be_better_in_17_of_20_draws(worse: int, *, is_beaten: bool) -> None:
    own = [0.5] * 40
    peer = peer_of(10.0, [[0.4] * worse + [0.6] * (40 - worse)])
    assert StopRule(cost=10.0, peers=(peer, peer)).is_beaten(0, own) == is_beaten
    assert StopRule(cost=10.0, peers=(peer, peer), sure=0.7).is_beaten(0, own)
