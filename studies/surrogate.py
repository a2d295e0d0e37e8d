"""The score of any architecture, guessed from a table of fitted ones: AP, or what trials raise.

A Gaussian process (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, chapters
2 and 5) over genes and costs. It works on the square root of AP, whose scatter is about the same
for weak and strong networks, and says how well it guesses rows that it has not seen.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

from nas.fidelity import kendall_tau, tau_b
from search_spaces.space import Space
from studies.design_rules import Candidate

Array = NDArray[np.float64]

FEWEST_ROWS = 20

JITTER = 1e-5
"""Added to the variance of what is drawn, in units of the table's, for exact arithmetic's sake."""

BOUNDS = {
    "gene_variance": (1e-3, 10.0),
    "gene_length": (0.05, 5.0),
    "cost_variance": (1e-3, 100.0),
    "cost_length": (0.1, 10.0),
    "noise_variance": (1e-3, 2.0),
}
"""Where the likelihood is searched, in units of the table's variance; costs differ by their
natural logarithm, genes by the share of them that differs."""

LEAST_NOISE = BOUNDS["noise_variance"][0]


@dataclass(frozen=True, slots=True)
class SurrogateCheck:
    """How well rows are guessed by all others.

    r2: share of the variance of the root score that is explained. rmse: of scores. tau: Kendall's,
    with its 90 % interval. nearest_tau: of the score of the row with the fewest differing genes,
    for comparison. noise: standard deviation of the root score that genes and costs do not explain.
    """

    r2: float
    rmse: float
    tau: float
    tau_interval: tuple[float, float]
    nearest_tau: float
    noise: float

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return asdict(self)


class Surrogate:
    """What a fit of any architecture of a space gives, as far as a table can tell.

    The covariance of two architectures is v exp(-d / l) + w exp(-c² / 2 m²): d is the mean
    difference of their genes, in ranks for numbers and 0 or 1 for names, c the distance of their
    logarithmic MACs and parameters. v, l, w, m and the noise are those of the highest likelihood.

    doubts: standard deviation of each row's root score beyond the noise of all; None: none.
    parameters: another surrogate's, in place of the likeliest. least_noise: share of the rows'
    variance that is noise at least. (Genes alone can explain any scatter of different networks.)

    Raises:
        ValueError: there are fewer than FEWEST_ROWS rows, or all have one score.
    """

    def __init__(
        self,
        space: Space,
        candidates: Sequence[Candidate],
        scores: Sequence[float],
        *,
        doubts: Sequence[float] | None = None,
        parameters: Array | None = None,
        least_noise: float = LEAST_NOISE,
    ) -> None:
        if len(candidates) < FEWEST_ROWS:
            raise ValueError(f"candidates must be at least {FEWEST_ROWS}, got {len(candidates)}")
        roots = np.sqrt(np.asarray(scores, dtype=np.float64))
        if np.ptp(roots) == 0:
            raise ValueError(f"scores must differ, got {scores[0]} for all")
        self._space = space
        self._mean, self._spread = float(roots.mean()), float(roots.std())
        self._genes, self._costs = self._features(candidates)
        self._distances = _distances(self._genes, self._costs, self._genes, self._costs)
        values = (roots - self._mean) / self._spread
        doubt = np.zeros(len(roots)) if doubts is None else np.asarray(doubts) / self._spread
        if parameters is None:
            parameters = _most_likely(self._distances, values, doubt**2, least_noise)
        self.parameters = parameters
        self._doubt = np.diag(doubt**2)
        matrix = _noisy_covariance(self._distances, self.parameters) + self._doubt
        self._factor = cho_factor(matrix, lower=True)
        self._weights: Array = cho_solve(self._factor, values)
        self._scores = np.asarray(scores, dtype=np.float64)
        self.noise = self._spread * float(np.sqrt(self.parameters[-1]))

    def expected(self, candidate: Candidate) -> float:
        """The score that is most likely, noise left out."""
        return max(0.0, self._root(candidate)) ** 2

    def guess(self, candidates: Sequence[Candidate]) -> tuple[Array, Array]:
        """Root score that is most likely and its standard deviation, noise left out; (N,) each."""
        to_rows = self._to_rows(*self._features(candidates))
        explained = (to_rows * cho_solve(self._factor, to_rows.T).T).sum(axis=1)
        gene_variance, _, cost_variance, *_ = self.parameters
        left = np.maximum(0.0, gene_variance + cost_variance - explained)
        return self._roots(to_rows), self._spread * np.sqrt(left)

    def likely(self, candidates: Sequence[Candidate]) -> Array:
        """`expected` of many. Shape (N,)."""
        roots = self._roots(self._to_rows(*self._features(candidates)))
        return np.asarray(np.maximum(0.0, roots) ** 2)

    def observed(self, candidate: Candidate, *, seed: int) -> float:
        """The score of one fit: with noise that the seed and the architecture decide."""
        digest = sha256(candidate.architecture.key.encode()).digest()
        generator = np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])
        return max(0.0, self._root(candidate) + self.noise * generator.standard_normal()) ** 2

    def drawn(self, candidates: Sequence[Candidate], *, seed: int) -> list[float]:
        """The scores, noise left out, by one of the functions that the table leaves possible.

        Of many strangers the best are better than the best expectation: an expectation is drawn
        to the mean, the more the less is known. Drawn functions have the best of them right.
        """
        genes, costs = self._features(candidates)
        to_rows = self._to_rows(genes, costs)
        among = _covariance(_distances(genes, costs, genes, costs), self.parameters)
        left = among - to_rows @ cho_solve(self._factor, to_rows.T)
        factor = np.linalg.cholesky(left + JITTER * np.eye(len(left)))
        normal = np.random.default_rng(seed).standard_normal(len(left))
        roots = self._roots(to_rows) + self._spread * (factor @ normal)
        scores: list[float] = (np.maximum(0.0, roots) ** 2).tolist()
        return scores

    def check(self, *, seed: int) -> SurrogateCheck:
        """Every row guessed from the others, the covariance staying as it is (ibid., 5.4.2).

        seed: of the bootstrap that tau's interval comes from.
        """
        covariance = _noisy_covariance(self._distances, self.parameters) + self._doubt
        inverse = np.linalg.inv(covariance)
        missed = self._spread * self._weights / np.diag(inverse)
        roots = np.sqrt(self._scores)
        guessed = np.maximum(0.0, roots - missed) ** 2
        tau, interval = kendall_tau(guessed, self._scores, seed=seed)
        genes = self._distances[0] + 2 * np.eye(len(roots))
        nearest = self._scores[genes.argmin(axis=1)]
        nearest_tau = tau_b(nearest, self._scores)
        return SurrogateCheck(
            r2=float(1 - np.mean(missed**2) / self._spread**2),
            rmse=float(np.sqrt(np.mean((guessed - self._scores) ** 2))),
            tau=tau,
            tau_interval=interval,
            nearest_tau=nearest_tau,
            noise=self.noise,
        )

    def _root(self, candidate: Candidate) -> float:
        return float(self._roots(self._to_rows(*self._features([candidate])))[0])

    def _to_rows(self, genes: Array, costs: Array) -> Array:
        """Covariance of architectures with these features and the rows, (N, rows)."""
        return _covariance(_distances(genes, costs, self._genes, self._costs), self.parameters)

    def _roots(self, to_rows: Array) -> Array:
        """Root score that is most likely, by the covariance with the rows. Shape (N,)."""
        return np.asarray(self._mean + self._spread * (to_rows @ self._weights))

    def _features(self, candidates: Sequence[Candidate]) -> tuple[Array, Array]:
        """Genes (N, columns) whose distances by the sum of absolute differences are from 0 to 1:
        a number's rank in one column, a name as a half in one of several. Costs (N, 2)."""
        genotypes = np.array([candidate.genotype for candidate in candidates])
        columns = []
        for gene, chosen in zip(self._space.genes, genotypes.T, strict=True):
            if isinstance(gene.choices[0], int):
                columns.append(chosen[:, None] / max(1, len(gene.choices) - 1))
            else:
                columns.append((chosen[:, None] == np.arange(len(gene.choices))) / 2)
        costs = [(candidate.cost.macs, candidate.cost.params) for candidate in candidates]
        genes = np.concatenate(columns, axis=1) / len(columns)
        return genes, np.log(np.array(costs, dtype=np.float64))


def _distances(
    genes: Array, costs: Array, other_genes: Array, other_costs: Array
) -> tuple[Array, Array]:
    """Mean difference of genes, in 0..1, and mean squared difference of costs; (N, M) each."""
    differing = cdist(genes, other_genes, "cityblock")
    return differing, cdist(costs, other_costs, "sqeuclidean") / costs.shape[1]


def _covariance(distances: tuple[Array, Array], parameters: Array) -> Array:
    differing, apart = distances
    gene_variance, gene_length, cost_variance, cost_length, _ = parameters
    by_genes = gene_variance * np.exp(-differing / gene_length)
    by_costs = cost_variance * np.exp(-apart / (2 * cost_length**2))
    return np.asarray(by_genes + by_costs, dtype=np.float64)


def _noisy_covariance(distances: tuple[Array, Array], parameters: Array) -> Array:
    noise: Array = parameters[-1] * np.eye(len(distances[0]))
    return _covariance(distances, parameters) + noise


def _most_likely(
    distances: tuple[Array, Array], values: Array, doubt: Array, least_noise: float
) -> Array:
    """The parameters, in the order of BOUNDS, of the highest likelihood. doubt: variances."""

    def cost(logarithms: Array) -> float:
        matrix = _noisy_covariance(distances, np.exp(logarithms)) + np.diag(doubt)
        factor = cho_factor(matrix, lower=True)
        fit = values @ cho_solve(factor, values) / 2
        return float(fit + np.log(np.diag(factor[0])).sum())

    ranges = {**BOUNDS, "noise_variance": (least_noise, BOUNDS["noise_variance"][1])}
    bounds = np.log(np.array(list(ranges.values())))
    found = minimize(cost, bounds.mean(axis=1), method="L-BFGS-B", bounds=bounds)
    return np.asarray(np.exp(found.x), dtype=np.float64)
