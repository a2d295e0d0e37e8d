"""Scores with the size of the network considered."""

import pytest

from nas.outlook import USUAL_MACS, handicap, usual_macs
from objectives.cost import architecture_cost
from search_spaces.space import SPACE


def test_a_score_of_the_usual_size_is_its_outlook() -> None:
    assert handicap(USUAL_MACS) == handicap(USUAL_MACS, 1.0) == 1


def test_the_handicap_is_a_power_of_the_size() -> None:
    assert handicap(16 * USUAL_MACS, 0.25) == pytest.approx(2)
    assert handicap(USUAL_MACS / 4, 1.0) == pytest.approx(0.25)
    assert handicap(7, 0.0) == 1


def test_macs_are_those_at_640_px() -> None:
    smallest = SPACE.corner(largest=False)
    assert usual_macs(smallest) == architecture_cost(smallest, image_size=640).macs
