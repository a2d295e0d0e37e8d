import itertools
import json
from dataclasses import asdict, replace

import pytest

from studies.schedule import (
    FULL_BUDGET,
    SMALL_BUDGET,
    STOPPING_BUDGET,
    schedule_for,
    schedule_from_json,
)
from studies.settings import require_same
from tests.studies.toy import toy_settings

BUDGETS = (1, SMALL_BUDGET, 11, 60, 100, FULL_BUDGET, 10_000)


@pytest.mark.parametrize("cuda", [False, True])
def test_no_length_shrinks_as_the_budget_grows(*, cuda: bool) -> None:
    schedules = [schedule_for(budget, cuda=cuda) for budget in BUDGETS]
    for before, after in itertools.pairwise(schedules):
        assert before.synthetic_images <= after.synthetic_images
        assert before.supernet.fit.steps <= after.supernet.fit.steps
        assert before.proxy.fit.steps <= after.proxy.fit.steps
        assert before.fidelity_candidates <= after.fidelity_candidates
        assert before.alone.steps <= after.alone.steps
        assert before.retrain.steps <= after.retrain.steps


@pytest.mark.parametrize("cuda", [False, True])
def test_lengths_stay_at_the_ends(*, cuda: bool) -> None:
    assert schedule_for(1, cuda=cuda) == schedule_for(SMALL_BUDGET, cuda=cuda)
    assert schedule_for(FULL_BUDGET, cuda=cuda) == schedule_for(10_000, cuda=cuda)
    assert schedule_for(SMALL_BUDGET, cuda=cuda) != schedule_for(FULL_BUDGET, cuda=cuda)


def test_real_faces_get_longer_stages_and_larger_finals_and_nothing_else() -> None:
    drawn, real = (schedule_for(60, cuda=False, real=is_real) for is_real in (False, True))
    assert real.supernet.fit.steps > drawn.supernet.fit.steps
    assert real.proxy.fit.steps > drawn.proxy.fit.steps
    assert real.alone.steps > drawn.alone.steps
    assert real.finalists
    assert drawn.finalists
    assert real.finalists > drawn.finalists
    assert real.teacher
    assert drawn.teacher
    assert real.teacher.steps > drawn.teacher.steps
    differing = ("supernet", "teacher", "proxy", "alone", "finalists")
    assert replace(real, **{name: getattr(drawn, name) for name in differing}) == drawn


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("budget", BUDGETS)
def test_a_fit_alone_is_longer_than_the_proxy_it_judges(budget: int, *, real: bool) -> None:
    schedule = schedule_for(budget, cuda=False, real=real)
    assert schedule.alone.steps >= 2 * schedule.proxy.fit.steps


def test_a_graphics_card_changes_the_retraining_alone() -> None:
    cpu, cuda = (schedule_for(60, cuda=has) for has in (False, True))
    assert replace(cpu, retrain=cuda.retrain) == cuda
    assert cuda.retrain.steps > cpu.retrain.steps


@pytest.mark.parametrize("budget", BUDGETS)
def test_json_reads_back(budget: int) -> None:
    schedule = schedule_for(budget, cuda=True)
    assert schedule_from_json(json.loads(json.dumps(schedule.to_json()))) == schedule


def test_replaced_steps_replace_nothing_else() -> None:
    schedule = schedule_for(60, cuda=False)
    assert schedule.with_steps() == schedule
    assert schedule.teacher
    changed = schedule.with_steps(supernet=4, teacher=3, proxy=2, retrain=1)
    assert changed.teacher
    fits = (changed.supernet.fit, changed.teacher, changed.proxy.fit, changed.retrain)
    assert [fit.steps for fit in fits] == [4, 3, 2, 1]
    back = changed.with_steps(
        teacher=schedule.teacher.steps,
        supernet=schedule.supernet.fit.steps,
        proxy=schedule.proxy.fit.steps,
        retrain=schedule.retrain.steps,
    )
    assert asdict(back) == asdict(schedule)


def test_teaching_is_a_wish_and_usual_from_a_budget_on() -> None:
    few, many = (schedule_for(n, cuda=False) for n in (STOPPING_BUDGET - 1, STOPPING_BUDGET))
    assert few.proxy.teaching is None
    assert "teacher" not in few.line
    assert many.proxy.teaching is not None
    assert few.with_wishes(teach=True).proxy.teaching == many.proxy.teaching
    assert many.teacher is not None
    assert f"teacher {many.teacher.steps} steps, " in many.line
    assert many.with_wishes() == many
    assert many.with_wishes(teach=False).proxy == replace(many.proxy, teaching=None)


def test_a_study_from_before_there_were_finals_and_teachers_goes_on_without() -> None:
    old = schedule_for(60, cuda=False).to_json()
    del old["finalists"], old["teacher"], old["proxy"]["teaching"]
    read = schedule_from_json(old)
    assert (read.finalists, read.teacher, read.proxy.teaching) == (None, None, None)
    assert read.with_steps(teacher=5).teacher is None
    with pytest.raises(ValueError, match="teacher must be set where trials are taught"):
        _ = read.teacher_recipe
    wanted = replace(toy_settings(), stages={"schedule": read.to_json()})
    require_same("old", saved={**wanted.to_json(), "stages": {"schedule": old}}, wanted=wanted)
