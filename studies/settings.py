"""What a study is: the settings that may not change while it grows."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TypeAlias

from data.errors import UserError, unknown_name
from objectives.limits import Limits

JSON: TypeAlias = Mapping[str, "JSON"] | list["JSON"] | str | int | float | bool | None

OBJECTIVES = {"macs": "macs", "latency": "latency_ms"}
"""Objective -> the name of the value that is lowered."""

AVERAGE_PRECISION, PROMISE = "ap", "promise"
"""Scores that older studies raise, and go on with, as `nas.proxy.report_scores` names them. New
ones raise `nas.outlook.OUTLOOK`, which says more of longer fits (docs/results/README.md, Which
score a trial has)."""

SAMPLERS = ("tpe", "gp", "nsga2", "random")
DEFAULT_SAMPLER = SAMPLERS[0]
"""The finals of its searches are as good as any sampler's, and its trials take less time than
those of "gp" (docs/results/README.md, Which sampler)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySettings:
    """All that decides which trials come out. The budget does not: a study may grow.

    space: fingerprint of the search space.
    data: hash of the images that trials see.
    objective: a name of `OBJECTIVES`; sampler: a name of `SAMPLERS`.
    lookahead: trials in flight at once; trial n is chosen from the results of the trials up to
        n - lookahead, whatever else is known, so that neither the number of workers nor their
        speed changes a study. More workers than this have nothing to do.
    starts: keys of the architectures that are tried first, those that keep the limits.
    stages: settings of the other stages (shards, supernet, proxy), name -> plain JSON.
    raised: the score that trials raise; None, as in studies older than others: average precision.

    Raises:
        UserError: the objective or the sampler is unknown.
        ValueError: the seed is negative or the lookahead is below 1.
    """

    space: str
    data: str
    limits: Limits = field(default_factory=Limits)
    objective: str = "macs"
    sampler: str = DEFAULT_SAMPLER
    seed: int = 0
    lookahead: int = 4
    starts: tuple[str, ...] = ()
    stages: Mapping[str, JSON] = field(default_factory=dict)
    raised: str | None = None

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise unknown_name("objective", self.objective, tuple(OBJECTIVES))
        if self.sampler not in SAMPLERS:
            raise unknown_name("sampler", self.sampler, SAMPLERS)
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if self.lookahead < 1:
            raise ValueError(f"lookahead must be at least 1, got {self.lookahead}")

    @property
    def metric_names(self) -> tuple[str, str]:
        """Names of the two objective values: up, down."""
        return name_of_score(self.raised), OBJECTIVES[self.objective]

    def to_json(self) -> dict[str, JSON]:
        """Plain values only, tuples as lists."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def name_of_score(raised: str | None) -> str:
    """The score that trials raise. raised: as `StudySettings` keeps it."""
    return AVERAGE_PRECISION if raised is None else raised


def require_same(study_name: str, *, saved: Mapping[str, JSON], wanted: StudySettings) -> None:
    """Nothing when a study was made with the wanted settings.

    Raises:
        UserError: names every setting that differs, with both values.
    """
    before, now = _flat(saved), _flat(wanted.to_json())
    differing = [
        f"{name} was {before.get(name)!r} and is now {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if differing:
        raise UserError(
            f"study {study_name!r} was made with other settings: {'; '.join(differing)}; "
            "choose another --study name, or give the settings it was made with"
        )


def _plain(value: JSON | tuple[JSON, ...]) -> JSON:
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def _flat(value: JSON, prefix: str = "") -> dict[str, JSON]:
    """Nested mappings as one, names joined by dots."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, JSON] = {}
    for name, inner in value.items():
        flat |= _flat(inner, f"{prefix}.{name}" if prefix else name)
    return flat
