"""How far the proxy can be believed: its order of candidates against a longer fit alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import kendalltau

from data.errors import UserError
from data.shards import open_shards
from nas.fitting import FitSettings
from nas.proxy import CandidateFitter, ProxySettings, report_scores
from search_spaces.architecture import Architecture

FEWEST_CANDIDATES = 4
TRUSTED_TAU = 0.4


def choose_candidates(front: Sequence[int], others: Sequence[int], *, count: int) -> list[int]:
    """Trials to fit alone: half spread over the front, the rest spread over the others.

    front, others: trial numbers, each in order of cost.

    Raises:
        UserError: there are fewer than FEWEST_CANDIDATES trials to choose from.
    """
    if len(front) + len(others) < FEWEST_CANDIDATES:
        raise UserError(
            f"rank fidelity needs at least {FEWEST_CANDIDATES} completed trials, "
            f"got {len(front) + len(others)}; raise --budget"
        )
    from_front = max(min(len(front), (count + 1) // 2), count - len(others))
    chosen = [*_spread(front, from_front), *_spread(others, count - from_front)]
    return list(dict.fromkeys(chosen))


def _spread(items: Sequence[int], count: int) -> list[int]:
    count = min(count, len(items))
    if count == 0:
        return []
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]


@dataclass(frozen=True, slots=True)
class StandAloneJob:
    """Where a worker process finds what it needs to fit a candidate alone."""

    shards: Path
    proxy: ProxySettings
    fit: FitSettings
    seed: int
    device: str


class StandAloneEvaluator:
    """Scores of a candidate fitted from weights of its own, for longer than the proxy."""

    def __init__(self, job: StandAloneJob) -> None:
        self._fit = job.fit
        self._fitter = CandidateFitter(
            open_shards(job.shards), job.proxy, seed=job.seed, device=torch.device(job.device)
        )

    def __call__(self, architecture: Architecture, trial: int) -> dict[str, Any]:  # noqa: ARG002
        network = self._fitter.fit(self._fitter.start(architecture), self._fit)
        return report_scores(self._fitter.judge(network))


def kendall_tau(
    first: Sequence[float], second: Sequence[float], *, seed: int, resamples: int = 1000
) -> tuple[float, tuple[float, float]]:
    """Kendall's tau-b of two scores of the same candidates and its 90 % bootstrap interval.

    0 where one of the two scores is the same for all candidates: it orders nothing.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    generator = np.random.default_rng(seed)
    draws = generator.integers(len(a), size=(resamples, len(a)))
    taus = [_tau(a[draw], b[draw]) for draw in draws]
    low, high = np.quantile(taus, (0.05, 0.95))
    return _tau(a, b), (float(low), float(high))


def _tau(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    if (a == a[0]).all() or (b == b[0]).all():
        return 0.0
    return float(kendalltau(a, b).statistic)


def rank_fidelity(
    proxy: Sequence[dict[str, Any]], alone: Sequence[dict[str, Any]], *, seed: int
) -> dict[str, Any]:
    """Tau and interval of the search's own score (`ap`) and of the other scores kept beside it.

    proxy, alone: rows of the same candidates in the same order: a trial's scores with its
    `trial`, `key`, `macs` and `params`, and the scores of the fit alone.
    """
    truth = [row["ap"] for row in alone]
    names = ("ap", "smooth_ap", "recall", "macs", "params")
    taus = {name: kendall_tau([row[name] for row in proxy], truth, seed=seed) for name in names}
    return {
        "tau": taus["ap"][0],
        "tau_interval": list(taus["ap"][1]),
        "proxies": {
            name: {"tau": tau, "tau_interval": list(interval)}
            for name, (tau, interval) in taus.items()
        },
        "architectures": [
            {
                **{name: p[name] for name in ("trial", "key", *names)},
                "alone_ap": a["ap"],
                "alone_ap_interval": a["ap_interval"],
            }
            for p, a in zip(proxy, alone, strict=True)
        ],
    }
