"""How much work a search is given: one dial, the budget, sets every other length."""

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from nas.distillation import DistillationSettings
from nas.fitting import FitSettings
from nas.proxy import ProxySettings
from nas.recipe import USUAL, Recipe, settings_from_json
from nas.supernet_training import SupernetSettings

SMALL_BUDGET, FULL_BUDGET = 10, 200
STOPPING_BUDGET = 50
"""With fewer trials a rung has too few to compare with to pay for its judgement, and a teacher too
few to teach to pay for its training."""

SHORT_FIT_BATCH = 4
"""Images a step of the supernet and of all short fits: with few pixels to see, more steps on less
each teach most (docs/results/fit_speed.json)."""

TEACHING = DistillationSettings(output_weight=1.0, feature_weight=4.0, face_score=0.0)
"""How a trial learns from its teacher, which after so short a training is sure of few faces: from
all that it sees, by its score. Taught fits of 200 steps from the supernet order networks of like
cost as fits of 450 do without a teacher (docs/results/README.md, What a teacher does)."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Steps of each stage, and networks of the finals, at SMALL_BUDGET and at FULL_BUDGET.

    alone: of each fit alone, of the finals among them.
    """

    supernet: tuple[int, int]
    teacher: tuple[int, int]
    proxy: tuple[int, int]
    alone: tuple[int, int]
    finalists: tuple[int, int]


DRAWN = Lengths(
    supernet=(200, 500), teacher=(200, 500), proxy=(80, 100), alone=(160, 500), finalists=(4, 8)
)
"""Drawn faces are learned soon, and serve to try things out: in half an hour."""

REAL = Lengths(
    supernet=(200, 800), teacher=(300, 1950), proxy=(120, 200), alone=(240, 1200), finalists=(4, 16)
)
"""Real faces are learned more slowly, by larger networks most of all."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The lengths of all stages of one search; frozen with the study.

    synthetic_images: drawn when there is no data set. fidelity_candidates, finalists: fitted alone
    with `alone` after the search, the first to measure how far trials can be believed, the others,
    the networks nearest the front, to make the front that is shown; None, as in studies older than
    finals: trials make it. retrain: the full-size training of a chosen network. teacher: the
    training of the network that trials learn from, where they do; None in studies older than that.
    """

    synthetic_images: int
    supernet: SupernetSettings
    proxy: ProxySettings
    fidelity_candidates: int
    alone: FitSettings
    retrain: FitSettings
    finalists: int | None = None
    teacher: FitSettings | None = None

    def with_steps(
        self,
        *,
        supernet: int | None = None,
        teacher: int | None = None,
        proxy: int | None = None,
        retrain: int | None = None,
    ) -> "Schedule":
        """The same with some lengths, in steps, replaced."""

        def longer(settings: FitSettings, steps: int | None) -> FitSettings:
            return settings if steps is None else replace(settings, steps=steps)

        return replace(
            self,
            supernet=replace(self.supernet, fit=longer(self.supernet.fit, supernet)),
            proxy=replace(self.proxy, fit=longer(self.proxy.fit, proxy)),
            retrain=longer(self.retrain, retrain),
            teacher=None if self.teacher is None else longer(self.teacher, teacher),
        )

    def with_wishes(
        self,
        *,
        early_stopping: bool | None = None,
        inherit: bool | None = None,
        teach: bool | None = None,
    ) -> "Schedule":
        """The same with hopeless fits ended early or not, with or without a supernet to inherit
        from, and with or without a teacher to learn from; None: as it is."""
        proxy = self.proxy
        if teach is not None:
            proxy = replace(proxy, teaching=TEACHING if teach else None)
        if early_stopping is not None:
            proxy = replace(proxy, early_stopping=early_stopping)
        if inherit is not None:
            proxy = replace(proxy, inherit=inherit)
        return replace(self, proxy=proxy)

    @property
    def line(self) -> str:
        """The lengths in one line for people."""
        rungs = " at most, with early stopping" if self.proxy.early_stopping else ""
        before = f"supernet {self.supernet.fit.steps} steps, " if self.proxy.inherit else ""
        origin = "" if self.proxy.inherit else " from weights of its own"
        if self.proxy.teaching is not None and self.teacher is not None:
            before += f"teacher {self.teacher.steps} steps, "
        return (
            f"{before}proxy {self.proxy.fit.steps} steps a trial{origin}{rungs}, "
            f"retraining {self.retrain.steps} steps"
        )

    @property
    def teacher_recipe(self) -> Recipe:
        """How the network is trained that trials learn from: by the loss that they have.

        Raises:
            ValueError: the schedule is of a study older than teachers.
        """
        if self.teacher is None:
            raise ValueError("teacher must be set where trials are taught, got None")
        return Recipe(fit=self.teacher, loss=self.proxy.loss)

    def to_json(self) -> dict[str, Any]:
        """The same as plain dicts and numbers; `schedule_from_json` reads it back."""
        return asdict(self)


def schedule_for(budget: int, *, cuda: bool, real: bool = False) -> Schedule:
    """The schedule that goes with a number of trials.

    real: the images are not drawn ones, and lengths are REAL and not DRAWN.

    Lengths grow in proportion from SMALL_BUDGET to FULL_BUDGET trials and stay there: more
    trials then make the search longer, not its parts. On CUDA retraining is long and at 640 px;
    on the CPU it is short, on crops of 320 px at the scale of the full-size image.
    """
    size = min(1.0, max(0.0, (budget - SMALL_BUDGET) / (FULL_BUDGET - SMALL_BUDGET)))
    lengths = REAL if real else DRAWN
    between = partial(_between, size)

    def short_fit(steps: tuple[int, int]) -> FitSettings:
        return FitSettings(steps=between(*steps), batch_size=SHORT_FIT_BATCH)

    return Schedule(
        synthetic_images=between(300, 1000),
        supernet=SupernetSettings(fit=replace(short_fit(lengths.supernet), learning_rate=3e-3)),
        proxy=ProxySettings(
            fit=short_fit(lengths.proxy),
            teaching=TEACHING if budget >= STOPPING_BUDGET else None,
            early_stopping=budget >= STOPPING_BUDGET,
        ),
        fidelity_candidates=between(4, 8),
        alone=short_fit(lengths.alone),
        retrain=retrain_settings(size, cuda=cuda),
        finalists=between(*lengths.finalists),
        teacher=FitSettings(steps=between(*lengths.teacher)),
    )


def _between(size: float, small: int, full: int) -> int:
    """A length: `small` at size 0, `full` at size 1, in proportion between them."""
    return round(small + size * (full - small))


def retrain_settings(size: float, *, cuda: bool) -> FitSettings:
    """Full-size training. size: 0 for the shortest, 1 for the usual length."""

    between = partial(_between, size)
    if cuda:
        return replace(USUAL.fit, steps=between(2_000, USUAL.fit.steps))
    return FitSettings(
        steps=between(150, 1200),
        batch_size=8,
        image_size=320,
        learning_rate=2e-3,
        average_decay=0.98,
    )


def schedule_from_json(value: dict[str, Any]) -> Schedule:
    """The schedule that `Schedule.to_json` wrote."""
    schedule: Schedule = settings_from_json(Schedule, value)
    return schedule
