"""How far the proxy can be believed: its order of candidates against a longer fit alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data.errors import UserError
from data.shards import open_shards
from nas.fitting import FitSettings, NotFiniteError, images_to_tensor
from nas.pareto import spread
from nas.proxy import CandidateFitter, ProxySettings, report_scores
from nas.stop_rule import FIT_STEPS, StopRule
from objectives.zero_cost import ZERO_COST_SCORES, zero_cost_scores
from search_spaces.architecture import Architecture

Values = Sequence[float] | NDArray[np.float64]
"""A score of each candidate."""

FEWEST_CANDIDATES = 4
TRUSTED_TAU = 0.4

LONGER = 2
"""Where the proxy is not to be trusted, the finals have fits this many times as long, of this part
of the networks."""

FEWEST_PAIRS = 8
"""Networks that it takes to learn what trials say of fits alone."""

ZERO_COST_IMAGES = 16

ALONE_STATISTICS = 384
"""Crops that a network fitted alone has its batch-norm statistics from. With others of them the
promise of 32 networks after 200 steps changed by 10 and 6 % from 48 crops and by 5 % from 128
(standard deviation, against 384), and Kendall's tau by up to 0.08 from 48; next to so long a fit
more of them cost nothing."""


def choose_candidates(
    front: Sequence[int], others: Sequence[int], *, count: int, seed: int
) -> list[int]:
    """Trials to fit alone: half spread over the front, the rest drawn from the others.

    front: trial numbers in order of cost. All trials are taken where there are fewer than count.

    Raises:
        UserError: there are fewer than FEWEST_CANDIDATES trials to choose from, or to be chosen.
    """
    if count < FEWEST_CANDIDATES:
        raise UserError(
            f"rank fidelity needs at least {FEWEST_CANDIDATES} candidates, got {count}; "
            "raise --candidates"
        )
    if len(front) + len(others) < FEWEST_CANDIDATES:
        raise UserError(
            f"rank fidelity needs at least {FEWEST_CANDIDATES} completed trials, "
            f"got {len(front) + len(others)}; raise --budget"
        )
    count = min(count, len(front) + len(others))
    from_front = max(min(len(front), (count + 1) // 2), count - len(others))
    drawn = np.random.default_rng(seed).permutation(len(others))[: count - from_front]
    return [*spread(front, from_front), *(others[i] for i in sorted(drawn))]


@dataclass(frozen=True, slots=True)
class StandAloneJob:
    """Where a worker process finds what it needs to fit a candidate alone.

    seed: of the split of the shards. fit_seed: of first weights and of the order of images; another
    one than the trial's, whose luck would count twice else.
    """

    shards: Path
    proxy: ProxySettings
    fit: FitSettings
    seed: int
    fit_seed: int
    device: str


class StandAloneEvaluator:
    """Scores of a candidate fitted from weights of its own, for longer than the proxy; beside them
    the zero-cost scores of its first weights. AP is NaN where the fit diverges."""

    def __init__(self, job: StandAloneJob) -> None:
        self._fit = job.fit
        self._seed = job.seed
        self._fitter = CandidateFitter(
            open_shards(job.shards),
            job.proxy,
            seed=job.seed,
            device=torch.device(job.device),
            fit_seed=job.fit_seed,
        )
        some = self._fitter.train.take(ZERO_COST_IMAGES, seed=job.seed).images
        self._images = images_to_tensor(some, self._fitter.device)

    def __call__(
        self,
        architecture: Architecture,
        trial: int,  # noqa: ARG002
        rule: StopRule,  # noqa: ARG002
    ) -> dict[str, Any]:
        network = self._fitter.start(architecture)
        promise = zero_cost_scores(network, self._images, seed=self._seed)
        try:
            fitted = self._fitter.fit(network, self._fit)
        except NotFiniteError:
            return {"ap": math.nan}
        return {**report_scores(self._fitter.judge(fitted)), **promise}


def mean_of_fits(fits: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Fits alone of one network as one: the mean of every score, and the single `aps`.

    `ap_interval` has the mean of the ends: it is that of one fit, by the luck of its crops. AP is
    NaN where a fit diverged.
    """
    aps = [one["ap"] for one in fits]
    if not all(map(math.isfinite, aps)):
        return {"ap": math.nan}
    numbers = [name for name, value in fits[0].items() if isinstance(value, int | float)]
    mean: dict[str, Any] = {name: float(np.mean([one[name] for one in fits])) for name in numbers}
    ends = np.mean([one["ap_interval"] for one in fits], axis=0)
    return mean | {"ap_interval": ends.tolist(), "aps": aps}


def tau_b(first: Values, second: Values) -> float:
    """Kendall's tau-b of two scores of the same candidates.

    0 where one of the two scores is the same for all candidates: it orders nothing.
    """
    return _tau(_pair_signs(first), _pair_signs(second))


def kendall_tau(
    first: Values, second: Values, *, seed: int, resamples: int = 1000
) -> tuple[float, tuple[float, float]]:
    """`tau_b`, and its 90 % interval by a bootstrap over the candidates.

    `scipy.stats.kendalltau` gives the same tau, as a test says, but would have to sort every
    resample anew: with eight candidates that takes 20 times as long.
    """
    one, other = _pair_signs(first), _pair_signs(second)
    generator = np.random.default_rng(seed)
    draws = generator.integers(len(one), size=(resamples, len(one)))
    taus = [_tau(one[draw][:, draw], other[draw][:, draw]) for draw in draws]
    low, high = np.quantile(taus, (0.05, 0.95))
    return _tau(one, other), (float(low), float(high))


def _pair_signs(scores: Values) -> NDArray[np.float64]:
    """For each pair of candidates 1 where the first is ahead, -1 where it is behind, 0 if equal."""
    values = np.asarray(scores, dtype=np.float64)
    return np.sign(values[:, None] - values[None, :])


def _tau(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Agreeing less disagreeing pairs, in parts of the pairs that are not ties."""
    untied = math.sqrt((one**2).sum() * (other**2).sum())
    return float((one * other).sum() / untied) if untied else 0.0


def rank_fidelity(
    proxy: Sequence[dict[str, Any]],
    alone: Sequence[dict[str, Any]],
    *,
    score: str = "ap",
    seed: int,
) -> dict[str, Any]:
    """Tau and interval of the search's own score and of every other that all trials have.

    proxy, alone: rows of the same candidates in the same order: a trial's scores with its `trial`,
    `key`, `macs` and `params`, and the scores of the fit alone. The zero-cost scores of the latter
    count as the trial's. score: name of the search's own. `reranked`: trials by `alone_ap`, best
    first.

    Raises:
        UserError: there are fewer than FEWEST_CANDIDATES candidates.
    """
    rows = [
        {**p, **{name: a[name] for name in ZERO_COST_SCORES if name in a}}
        for p, a in zip(proxy, alone, strict=True)
    ]
    if len(alone) < FEWEST_CANDIDATES:
        raise UserError(
            f"rank fidelity needs at least {FEWEST_CANDIDATES} candidates, got {len(alone)}"
        )
    truth = [row["ap"] for row in alone]
    names = _score_names(rows, score)
    taus = {name: kendall_tau([row[name] for row in rows], truth, seed=seed) for name in names}
    best_first = sorted(range(len(rows)), key=lambda i: -truth[i])
    return {
        "score": score,
        "tau": taus[score][0],
        "tau_interval": list(taus[score][1]),
        "proxies": {
            name: {"tau": tau, "tau_interval": list(interval)}
            for name, (tau, interval) in taus.items()
        },
        "architectures": [
            {
                **{name: row[name] for name in ("trial", "key", *names)},
                "alone_ap": a["ap"],
                "alone_ap_interval": a["ap_interval"],
            }
            for row, a in zip(rows, alone, strict=True)
        ],
        "reranked": [rows[i]["trial"] for i in best_first],
    }


def expected_aps(
    trial_scores: Sequence[float],
    alone_aps: Sequence[float],
    costs: Sequence[float],
    *,
    fits: int = 1,
) -> list[float]:
    """What networks can be expected to reach when fitted alone once more, by all of their fits.

    A fit alone has luck, and so has a trial. What a trial says of the root of the AP alone is
    learned from all of the networks, by least squares on the root of its score and the logarithm of
    the cost; the mean of that and of the root that was measured is squared. A trial weighs as much
    as one of the fits alone, whose mean is given: it says as much (equal_fidelity.json).
    Of 16 networks of like cost one fit of 1,200 steps has a Kendall's tau of 0.69 with the mean of
    three others, and together with a trial of 450 steps 0.75 (means over which fit is the one;
    docs/results/README.md, Which score a trial has).

    fits: so many fits alone have the mean APs. Fewer than FEWEST_PAIRS networks teach nothing:
    theirs are the APs alone.
    """
    if len(alone_aps) < FEWEST_PAIRS:
        return list(alone_aps)
    trial, alone = np.sqrt(trial_scores), np.sqrt(alone_aps)
    columns = np.column_stack([np.ones_like(trial), trial, np.log(costs)])
    weights = np.linalg.lstsq(columns, alone)[0]
    roots = (fits * alone + columns @ weights) / (fits + 1)
    expected: list[float] = (np.maximum(0.0, roots) ** 2).tolist()
    return expected


def _score_names(rows: Sequence[dict[str, Any]], own: str) -> list[str]:
    """What is a finite number in every row, the own score first; a trial's number and steps say
    nothing."""
    shared = [name for name in rows[0] if all(_is_finite(row.get(name)) for row in rows)]
    return [own, *(name for name in shared if name not in (own, "trial", FIT_STEPS))]


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
