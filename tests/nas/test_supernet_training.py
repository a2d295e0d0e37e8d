import copy
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from data.errors import UserError
from data.progress import Progress
from nas.fitting import NotFiniteError
from nas.supernet_training import (
    POOL_SIZE,
    SupernetJob,
    SupernetSettings,
    SupernetTrainer,
    feasible_pool,
    load_supernet,
    strata,
    supernet_hash,
    train_supernet,
)
from nas.team import Team
from nas.weights import load_weights, save_weights
from objectives.cost import architecture_cost
from objectives.limits import Limits
from search_spaces.architecture import Architecture
from search_spaces.space import SPACE
from search_spaces.supernet import Supernet
from tests.tiny_training import (
    FIT,
    TinyBatches,
    diverge,
    equal_weights,
    tiny_shards,
    weights_of,
)

LIMITS = Limits(max_params=60_000)
SETTINGS = SupernetSettings(fit=replace(FIT, steps=3))

MakeTrainer = Callable[[], SupernetTrainer]


@pytest.fixture(scope="module")
def pool() -> list[Architecture]:
    return feasible_pool(SPACE, LIMITS, size=12, seed=0)


@pytest.fixture(scope="module")
def fresh() -> Supernet:
    return Supernet(SPACE, seed=0)


@pytest.fixture
def make_trainer(pool: list[Architecture], fresh: Supernet) -> MakeTrainer:
    """Makes trainers that all start from the same weights."""
    return lambda: SupernetTrainer(copy.deepcopy(fresh), pool, SETTINGS, seed=0, team=Team())


@pytest.fixture
def batches(tmp_path: Path) -> TinyBatches:
    return TinyBatches(tiny_shards(tmp_path / "shards")[0])


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SupernetJob:
    """Three steps, a checkpoint after each, on a small pool."""
    monkeypatch.setattr("nas.supernet_training.CHECKPOINT_STEPS", 1)
    monkeypatch.setattr("nas.supernet_training.POOL_SIZE", 12)
    return SupernetJob(
        shards=tiny_shards(tmp_path / "shards")[1],
        held_out_share=0.3,
        limits=LIMITS,
        settings=SETTINGS,
        seed=0,
        path=tmp_path / "supernet.safetensors",
        facts={"x": 1},
        device="cpu",
    )


def test_the_pool_is_feasible_distinct_and_sorted_by_macs(pool: list[Architecture]) -> None:
    costs = [architecture_cost(a, image_size=LIMITS.image_size) for a in pool]
    assert all(map(LIMITS.allow, costs))
    assert len(set(pool)) == len(pool) == 12
    assert [cost.macs for cost in costs] == sorted(cost.macs for cost in costs)


def test_the_pool_follows_from_its_seed(pool: list[Architecture]) -> None:
    assert feasible_pool(SPACE, LIMITS, size=12, seed=0) == pool
    assert feasible_pool(SPACE, LIMITS, size=12, seed=1) != pool


def test_limits_that_nothing_meets_end_the_drawing_of_the_pool() -> None:
    with pytest.raises(UserError, match="only 0 of 2000 random architectures meet the limits"):
        feasible_pool(SPACE, Limits(max_params=2), size=2, seed=0)


def test_a_sandwich_has_a_heavy_one_a_light_one_and_random_ones(
    make_trainer: MakeTrainer, pool: list[Architecture]
) -> None:
    trainer = make_trainer()
    sandwiches = [trainer.sandwich(step) for step in range(40)]
    assert [sandwich[0] for sandwich in sandwiches] == [pool[-1]] * 40  # 5 % of twelve is one
    assert [sandwich[1] for sandwich in sandwiches] == [pool[0]] * 40
    drawn = {sandwich[2] for sandwich in sandwiches}
    assert drawn <= set(pool)
    assert len(drawn) > 6
    assert trainer.sandwich(7) == sandwiches[7]


def test_rare_costs_are_drawn_as_often_as_common_ones(fresh: Supernet) -> None:
    """Nine in ten of the pool are alike; the random ones of the sandwiches are not."""
    light, heavy = SPACE.corner(largest=False), SPACE.corner(largest=True)
    pool = [light] * 18 + [heavy] * 2
    trainer = SupernetTrainer(fresh, pool, SETTINGS, seed=0, team=Team())
    assert strata(pool, image_size=64) == [[light] * 18, [heavy] * 2]
    drawn = [trainer.sandwich(step)[2] for step in range(200)]
    assert 70 < drawn.count(heavy) < 130


def test_half_precision_learns_about_the_same(
    make_trainer: MakeTrainer, batches: TinyBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bfloat16 on the CPU stands for a graphics card's."""
    single = make_trainer()
    monkeypatch.setattr("nas.supernet_training.half_type", lambda _device: torch.bfloat16)
    half = make_trainer()
    losses = [trainer.step(batches) for trainer in (single, half)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert {value.dtype for value in half.supernet.parameters()} == {torch.float32}
    again = make_trainer()
    again.load_state_dict(half.state_dict())
    assert equal_weights(weights_of(again.supernet), weights_of(half.supernet))


def test_every_architecture_of_a_step_learns(
    make_trainer: MakeTrainer, batches: TinyBatches
) -> None:
    trainer = make_trainer()
    sandwich = trainer.sandwich(0)
    before = weights_of(trainer.supernet)
    trainer.step(batches)
    after = weights_of(trainer.supernet)
    changed = {name for name in before if (before[name] != after[name]).any()}
    used = {
        "weights." + name.replace(".", "/")
        for architecture in sandwich
        for name in trainer.supernet.shared_weights(architecture)
    }
    assert changed <= used
    assert len(changed) > 0.9 * len(used)
    assert len(used) < len(before)


def stop_after(steps: int) -> Progress:
    def stop(_label: str, done: int, _total: int) -> None:
        if done == steps:
            raise KeyboardInterrupt

    return stop


def test_training_goes_on_from_its_checkpoint_to_the_same_weights(
    job: SupernetJob, tmp_path: Path
) -> None:
    train_supernet(job, processes=1)
    straight, facts = load_weights(job.path)
    cut = replace(job, path=tmp_path / "cut.safetensors")
    with pytest.raises(KeyboardInterrupt):
        train_supernet(cut, processes=1, progress=stop_after(3))
    assert not cut.path.exists()
    assert cut.checkpoint.is_file()
    heard: list[tuple[str, int, int]] = []
    train_supernet(cut, processes=1, progress=lambda *step: heard.append(step))
    assert heard == [("supernet", 3, 3)]
    assert not cut.checkpoint.exists()
    weights, _ = load_weights(cut.path)
    assert equal_weights(weights, straight)
    assert not equal_weights(weights, weights_of(Supernet(SPACE, seed=job.seed)))
    assert (facts["x"], facts["space"]) == (1, SPACE.fingerprint)
    assert equal_weights(weights_of(load_supernet(job.path, SPACE)), straight)


@pytest.mark.slow
def test_two_processes_train_the_weights_of_one(job: SupernetJob, tmp_path: Path) -> None:
    usual_pool = replace(job, settings=replace(SETTINGS, fit=replace(FIT, steps=2)))
    together = replace(usual_pool, path=tmp_path / "together.safetensors")
    with pytest.MonkeyPatch.context() as usual:  # a new process has the usual pool
        usual.setattr("nas.supernet_training.POOL_SIZE", POOL_SIZE)
        train_supernet(usual_pool, processes=1)
        train_supernet(together, processes=2)
    alone, shared = (load_weights(one.path)[0] for one in (usual_pool, together))
    assert equal_weights(alone, shared)


def test_a_loss_that_is_not_finite_leaves_the_weights(
    make_trainer: MakeTrainer, batches: TinyBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer()
    diverge(monkeypatch, "nas.supernet_training")
    before = weights_of(trainer.supernet)
    with pytest.raises(NotFiniteError, match="loss is nan at supernet step 0"):
        trainer.step(batches)
    assert equal_weights(weights_of(trainer.supernet), before)
    assert trainer.step_count == 0


def test_a_team_must_divide_the_shares_of_a_step(fresh: Supernet, pool: list[Architecture]) -> None:
    with pytest.raises(ValueError, match="team size must divide the 2 shares, got 3"):
        SupernetTrainer(fresh, pool, SETTINGS, seed=0, team=Team(0, 3))


def test_a_supernet_of_another_space_is_refused(fresh: Supernet, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for facts, name in (({"space": "other"}, "other"), ({}, "None")):
        save_weights(path, fresh.state_dict(), facts)
        with pytest.raises(
            UserError, match=rf"supernet of the space {name}, not {SPACE.fingerprint}"
        ):
            load_supernet(path, SPACE)


def test_a_damaged_supernet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="is damaged"):
        load_supernet(path, SPACE)


def test_all_that_matters_changes_a_supernets_name() -> None:
    usual: dict[str, Any] = {"data_hash": "data", "seed": 0}
    names = [
        supernet_hash(SPACE, LIMITS, SETTINGS, **usual),
        supernet_hash(SPACE, Limits(), SETTINGS, **usual),
        supernet_hash(SPACE, LIMITS, replace(SETTINGS, distillation_weight=0.5), **usual),
        supernet_hash(SPACE, LIMITS, SupernetSettings(fit=FIT), **usual),
        supernet_hash(SPACE, LIMITS, SETTINGS, **{**usual, "data_hash": "other"}),
        supernet_hash(SPACE, LIMITS, SETTINGS, **{**usual, "seed": 1}),
        supernet_hash(SPACE.narrowed({"stem_width": (24,)}), LIMITS, SETTINGS, **usual),
    ]
    assert all(one != other for one, other in itertools.combinations(names, 2))
    assert supernet_hash(SPACE, LIMITS, SETTINGS, **usual) == names[0]
