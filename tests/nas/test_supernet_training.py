import copy
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data.errors import UserError
from nas.fitting import NotFiniteError, images_to_tensor, targets_to_tensors
from nas.supernet_training import (
    SupernetSettings,
    SupernetTrainer,
    feasible_pool,
    load_supernet,
    supernet_hash,
    train_supernet,
)
from nas.weights import save_weights
from objectives.cost import architecture_cost
from objectives.limits import Limits
from search_spaces.architecture import Architecture
from search_spaces.space import SPACE
from search_spaces.supernet import Supernet
from tests.tiny_training import (
    CPU,
    FIT,
    SMALLEST,
    TinyBatches,
    diverge,
    equal_weights,
    tiny_shards,
    weights_of,
)

LIMITS = Limits(max_params=60_000)
SETTINGS = SupernetSettings(fit=replace(FIT, steps=3))
FACTS = {"space": SPACE.fingerprint}

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
    return lambda: SupernetTrainer(
        copy.deepcopy(fresh), pool, SMALLEST, SETTINGS, seed=0, device=CPU
    )


@pytest.fixture
def batches(tmp_path: Path) -> TinyBatches:
    return TinyBatches(tiny_shards(tmp_path / "shards")[0])


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


def test_a_sandwich_has_a_heavy_one_the_smallest_and_random_ones(
    make_trainer: MakeTrainer, pool: list[Architecture]
) -> None:
    trainer = make_trainer()
    sandwiches = [trainer.sandwich(step) for step in range(40)]
    assert [sandwich[0] for sandwich in sandwiches] == [pool[-1]] * 40  # 5 % of twelve is one
    assert [sandwich[1] for sandwich in sandwiches] == [SMALLEST] * 40
    drawn = {sandwich[2] for sandwich in sandwiches}
    assert drawn <= set(pool)
    assert len(drawn) > 6
    assert trainer.sandwich(7) == sandwiches[7]


def test_every_architecture_of_a_step_learns(
    make_trainer: MakeTrainer, batches: TinyBatches
) -> None:
    trainer = make_trainer()
    batch, sandwich = batches.batch(0), trainer.sandwich(0)
    before = weights_of(trainer.supernet)
    trainer.step(images_to_tensor(batch.images, CPU), targets_to_tensors(batch, CPU))
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


def train(
    trainer: SupernetTrainer,
    batches: TinyBatches,
    path: Path,
    *,
    stop_after: int | None = None,
) -> None:
    def stop(_label: str, done: int, _total: int) -> None:
        if done == stop_after:
            raise KeyboardInterrupt

    train_supernet(trainer, batches, path, facts=FACTS, progress=stop)


def test_training_goes_on_from_its_checkpoint_to_the_same_weights(
    make_trainer: MakeTrainer,
    batches: TinyBatches,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nas.supernet_training.CHECKPOINT_STEPS", 1)
    straight, cut = tmp_path / "straight.safetensors", tmp_path / "cut.safetensors"
    train(make_trainer(), batches, straight)
    with pytest.raises(KeyboardInterrupt):
        train(make_trainer(), batches, cut, stop_after=3)
    assert not cut.exists()
    assert cut.with_suffix(".checkpoint").is_file()
    resumed = make_trainer()
    train(resumed, batches, cut)
    assert resumed.step_count == 3
    assert not cut.with_suffix(".checkpoint").exists()
    one, other = (weights_of(load_supernet(path, SPACE)) for path in (straight, cut))
    assert equal_weights(one, other)
    assert not equal_weights(one, weights_of(make_trainer().supernet))


def test_a_loss_that_is_not_finite_leaves_the_weights(
    make_trainer: MakeTrainer, batches: TinyBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, batch = make_trainer(), batches.batch(0)
    diverge(monkeypatch, "nas.supernet_training")
    before = weights_of(trainer.supernet)
    with pytest.raises(NotFiniteError, match="loss is nan at supernet step 0"):
        trainer.step(images_to_tensor(batch.images, CPU), targets_to_tensors(batch, CPU))
    assert equal_weights(weights_of(trainer.supernet), before)


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
    ]
    assert all(one != other for one, other in itertools.combinations(names, 2))
    assert supernet_hash(SPACE, LIMITS, SETTINGS, **usual) == names[0]
