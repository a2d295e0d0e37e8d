import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.shards import open_shards
from nas.distillation import DistillationSettings
from nas.inference import detect_images
from nas.proxy import CandidateFitter, ProxyEvaluator, ProxyJob, ProxySettings
from nas.stop_rule import (
    DOMINATORS,
    FIT_STEPS,
    NEVER,
    RUNG_REPLICATES,
    RUNG_SCORES,
    SPARED_AT,
    STOPPED_AT,
    StopRule,
    peer_of,
    rungs_of,
)
from nas.teachers import WEIGHTS, Teacher, open_teacher
from nas.weights import save_detector, save_weights
from objectives.average_precision import Detections
from search_spaces.architecture import Architecture
from search_spaces.network import Detector
from search_spaces.space import SPACE
from search_spaces.supernet import Supernet
from tests.objectives.made_up_table import made_up_table
from tests.tiny_training import (
    CPU,
    FIT,
    SMALLEST,
    diverge,
    equal_weights,
    tiny_network,
    tiny_shards,
    weights_of,
)

SETTINGS = ProxySettings(
    fit=replace(FIT, steps=2), recalibration_images=6, held_out_share=0.3, held_out_images=5
)
OTHER = SPACE.decode((1, *SPACE.encode(SMALLEST)[1:]))


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> ProxyJob:
    """A job on tiny shards and an untrained supernet."""
    folder = tmp_path_factory.mktemp("proxy")
    supernet = folder / "supernet.safetensors"
    save_weights(supernet, Supernet(SPACE).state_dict(), {"space": SPACE.fingerprint})
    _, shards = tiny_shards(folder)
    return ProxyJob(shards=shards, supernet=supernet, settings=SETTINGS, seed=0, device="cpu")


@pytest.fixture(scope="module")
def fitter(job: ProxyJob) -> CandidateFitter:
    return CandidateFitter(open_shards(job.shards), SETTINGS, seed=0, device=CPU)


@pytest.fixture(scope="module")
def evaluator(job: ProxyJob) -> ProxyEvaluator:
    return ProxyEvaluator(job)


def test_no_source_image_is_both_fitted_and_judged(fitter: CandidateFitter) -> None:
    assert not set(fitter.train.sources) & set(fitter.held_out.sources)
    assert len(fitter.held_out) == SETTINGS.held_out_images


def test_a_score_depends_on_the_architecture_alone(
    evaluator: ProxyEvaluator, job: ProxyJob
) -> None:
    first = evaluator(SMALLEST, 0, NEVER)
    assert evaluator(OTHER, 1, NEVER) != first
    assert evaluator(SMALLEST, 7, NEVER) == first
    assert ProxyEvaluator(job)(SMALLEST, 0, NEVER) == first


def test_a_fit_from_its_own_weights_asks_for_no_supernet(
    evaluator: ProxyEvaluator, job: ProxyJob
) -> None:
    own = replace(job, supernet=None, settings=replace(SETTINGS, inherit=False))
    scores = ProxyEvaluator(own)(SMALLEST, 0, NEVER)
    assert scores != evaluator(SMALLEST, 0, NEVER)
    assert ProxyEvaluator(replace(own, supernet=job.supernet))(SMALLEST, 0, NEVER) == scores
    with pytest.raises(ValueError, match="supernet must be a file where fits inherit weights"):
        ProxyEvaluator(replace(job, supernet=None))


def test_a_taught_fit_learns_something_else_and_needs_its_teacher(
    evaluator: ProxyEvaluator, job: ProxyJob, tmp_path: Path
) -> None:
    save_detector(tmp_path / WEIGHTS, tiny_network(seed=3), {})
    settings = replace(SETTINGS, teaching=DistillationSettings(feature_weight=4.0, face_score=0.0))
    taught = replace(job, settings=settings, teacher=tmp_path)
    scores = ProxyEvaluator(taught)(SMALLEST, 0, NEVER)
    assert ProxyEvaluator(taught)(SMALLEST, 0, NEVER) == scores
    plain = evaluator(SMALLEST, 0, NEVER)
    assert scores.keys() == plain.keys()
    with pytest.raises(ValueError, match="teacher must be a file or folder where fits are taught"):
        ProxyEvaluator(replace(taught, teacher=None))


def test_a_fitter_teaches_only_where_it_has_a_teacher(job: ProxyJob, tmp_path: Path) -> None:
    save_detector(tmp_path / WEIGHTS, tiny_network(seed=3), {})
    shards, settings = open_shards(job.shards), replace(SETTINGS, teaching=DistillationSettings())
    teacher = open_teacher(str(tmp_path), device=CPU)

    def fitted(settings: ProxySettings, teacher: Teacher | None) -> dict[str, Tensor]:
        fitter = CandidateFitter(shards, settings, seed=0, device=CPU, teacher=teacher)
        return weights_of(fitter.fit(fitter.start(SMALLEST), FIT))

    alone = fitted(SETTINGS, None)
    assert equal_weights(fitted(settings, None), alone)
    assert not equal_weights(fitted(settings, teacher), alone)


def test_scores_are_plain_numbers_in_range(evaluator: ProxyEvaluator) -> None:
    scores = evaluator(SMALLEST, 0, NEVER)
    assert json.loads(json.dumps(scores)) == scores
    assert 0 <= scores["ap"] <= 1
    intervals = scores["intervals"] | {
        name: scores[f"{name}_interval"] for name in ("ap", "smooth_ap")
    }
    assert {"quality_ap", "recall", "outlook"} <= intervals.keys() <= scores.keys()
    for low, high in intervals.values():
        assert 0 <= low <= high <= 1
    assert "latency_ms" not in scores


def test_a_job_with_a_table_scores_the_same_and_the_latency(
    evaluator: ProxyEvaluator, job: ProxyJob
) -> None:
    table = made_up_table()
    scores = ProxyEvaluator(replace(job, latency_table=table))(SMALLEST, 0, NEVER)
    assert scores.pop("latency_ms") == table.latency_us(SMALLEST) / 1000
    assert scores == evaluator(SMALLEST, 0, NEVER)


LONGER = replace(FIT, steps=5)
"""With one rung."""


def rising_job(job: ProxyJob, *, early_stopping: bool = True) -> ProxyJob:
    settings = replace(job.settings, fit=LONGER, early_stopping=early_stopping, rung_images=3)
    return replace(job, settings=settings)


def test_rungs_change_nothing_of_a_fit_that_goes_on(job: ProxyJob) -> None:
    scores = ProxyEvaluator(rising_job(job))(SMALLEST, 0, NEVER)
    rungs, replicates = scores.pop(RUNG_SCORES), scores.pop(RUNG_REPLICATES)
    assert len(rungs) == len(replicates) == len(rungs_of(LONGER.steps)) == 1
    assert len(replicates[0]) == 200
    assert min(replicates[0]) <= rungs[0] <= max(replicates[0])
    assert scores == ProxyEvaluator(rising_job(job, early_stopping=False))(SMALLEST, 0, NEVER)
    assert scores[FIT_STEPS] == LONGER.steps


def test_a_beaten_trial_ends_at_its_rung_unless_it_is_exempt(job: ProxyJob) -> None:
    evaluator = ProxyEvaluator(rising_job(job))
    better = peer_of(1.0, [[2.0]])
    rule = StopRule(cost=1.0, peers=(better,) * DOMINATORS)
    stopped = evaluator(SMALLEST, 0, rule)
    assert stopped[STOPPED_AT] == stopped[FIT_STEPS] == 1
    assert len(stopped[RUNG_SCORES]) == 1
    assert 0 <= stopped["ap"] <= 1
    spared = evaluator(SMALLEST, 0, replace(rule, is_exempt=True))
    assert spared.pop(SPARED_AT) == 1
    assert spared == evaluator(SMALLEST, 0, NEVER)


def test_a_fit_that_diverges_fails_its_trial_and_not_the_search(
    evaluator: ProxyEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverge(monkeypatch, "nas.fitting")
    scores = evaluator(SMALLEST, 0, NEVER)
    assert math.isnan(scores["ap"])
    assert math.isnan(scores["promise"])
    assert math.isnan(scores["outlook"])


def test_a_judgement_by_fewer_crops_takes_them_evenly_out_of_all(
    fitter: CandidateFitter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neighbours are of one event, and the first ones of the first events alone."""
    seen: list[NDArray[np.uint8]] = []

    def detect(_network: Detector, images: NDArray[np.uint8], **_: object) -> list[Detections]:
        seen.append(images)
        return [Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))] * len(images)

    monkeypatch.setattr("nas.proxy.detect_images", detect)
    network, every = fitter.start(SMALLEST), fitter.held_out.images
    for images in (None, 3, 1, 99):
        fitter.judge(network, images=images)
    assert len(every) == 5
    expected = (every, every[[0, 2, 4]], every[:1], every)
    assert all(np.array_equal(one, other) for one, other in zip(seen, expected, strict=True))


def test_a_candidate_inherits_a_copy(fitter: CandidateFitter) -> None:
    supernet = Supernet(SPACE, seed=1)
    before = weights_of(supernet)
    network = fitter.inherit(supernet, SMALLEST)
    shared = supernet.shared_weights(SMALLEST)
    assert all(torch.equal(value, shared[name]) for name, value in network.named_parameters())
    fitter.fit(network, SETTINGS.fit)
    assert equal_weights(weights_of(supernet), before)


@pytest.mark.parametrize("architecture", [SMALLEST, OTHER])
def test_a_fresh_candidate_follows_from_the_seed(
    fitter: CandidateFitter, job: ProxyJob, architecture: Architecture
) -> None:
    one, same = (weights_of(fitter.start(architecture)) for _ in range(2))
    assert equal_weights(one, same)
    shards = open_shards(job.shards)
    other = CandidateFitter(shards, SETTINGS, seed=1, device=CPU).start(architecture)
    assert not equal_weights(one, weights_of(other))


def test_judging_changes_statistics_only_and_is_repeatable(fitter: CandidateFitter) -> None:
    network = fitter.start(SMALLEST)
    before = {name: value.clone() for name, value in network.named_parameters()}
    first = fitter.judge(network)
    assert equal_weights(before, dict(network.named_parameters()))
    assert fitter.judge(network) == first
    assert first.images == len(fitter.held_out)
    assert len(detect_images(network, fitter.held_out.images, device=CPU)) == first.images


def test_the_held_out_loss_falls_with_fitting_and_is_repeatable(fitter: CandidateFitter) -> None:
    network = fitter.start(SMALLEST)
    fitter.judge(network)
    before = fitter.held_out_loss(network, batch_size=2)
    assert before == fitter.held_out_loss(network, batch_size=2) > 0
    fitter.fit(network, replace(FIT, steps=30))
    fitter.judge(network)
    assert fitter.held_out_loss(network, batch_size=2) < before
