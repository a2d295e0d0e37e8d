"""A trial is stopped by two surely better ones at no more cost, and by nothing else."""

import pytest

from nas.stop_rule import NEVER, Peer, StopRule, peer_of, rung_steps

BETTER = peer_of(10.0, [[0.3], [0.6]])


@pytest.mark.parametrize(
    ("steps", "rungs"), [(252, (56, 84)), (90, (20, 30)), (8, (1, 2)), (3, (1,)), (2, ()), (1, ())]
)
def test_rungs_rise_to_the_end_of_a_fit(steps: int, rungs: tuple[int, ...]) -> None:
    assert rung_steps(steps) == rungs


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


@pytest.mark.parametrize(("worse", "is_beaten"), [(8, True), (9, False)])
def test_a_peer_must_be_better_in_four_of_five_draws(worse: int, *, is_beaten: bool) -> None:
    own = [0.5] * 40
    peer = peer_of(10.0, [[0.4] * worse + [0.6] * (40 - worse)])
    assert StopRule(cost=10.0, peers=(peer, peer)).is_beaten(0, own) == is_beaten
    assert StopRule(cost=10.0, peers=(peer, peer), sure=0.7).is_beaten(0, own)
