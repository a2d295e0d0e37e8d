"""A trial is stopped by two surely better ones at no more cost, and by nothing else."""

import pytest

from nas.stop_rule import NEVER, Peer, StopRule, rung_steps

BETTER = Peer(cost=10.0, scores=(0.3, 0.6))


@pytest.mark.parametrize(
    ("steps", "rungs"), [(252, (28, 84)), (90, (10, 30)), (8, (2,)), (3, (1,)), (2, ()), (1, ())]
)
def test_rungs_rise_to_the_end_of_a_fit(steps: int, rungs: tuple[int, ...]) -> None:
    assert rung_steps(steps) == rungs


def test_two_peers_that_score_more_at_no_more_cost_stop_a_trial() -> None:
    rule = StopRule(cost=10.0, peers=(BETTER, BETTER))
    assert rule.is_beaten(0, 0.29)
    assert rule.is_beaten(1, 0.59)


@pytest.mark.parametrize(
    "second",
    [
        Peer(cost=10.1, scores=(0.9, 0.9)),  # it costs more
        Peer(cost=1.0, scores=(0.9,)),  # it has not reached the rung
        Peer(cost=1.0, scores=(0.9, 0.59)),  # it may be worse
    ],
)
def test_one_peer_does_not(second: Peer) -> None:
    assert not StopRule(cost=10.0, peers=(BETTER, second)).is_beaten(1, 0.59)


def test_more_can_be_asked_for() -> None:
    peers = (BETTER, BETTER)
    assert not StopRule(cost=10.0, peers=peers, dominators=3).is_beaten(0, 0.29)
    assert StopRule(cost=10.0, peers=(*peers, BETTER), dominators=3).is_beaten(0, 0.29)


def test_without_peers_nothing_is_stopped() -> None:
    assert not NEVER.is_beaten(0, -1.0)
