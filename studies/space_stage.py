"""The space of a study: audited under its limits, and narrowed where a person asks for it."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.files import write_json
from data.progress import Progress, silent
from nas.records import record_header
from objectives.cost import architecture_cost
from objectives.limits import Limits, audit, draw_sample
from objectives.shrink import ShrinkProposal, dropped_text, propose_shrink
from search_spaces.space import SPACE, Space
from search_spaces.starting_points import starting_points
from studies.say import Say, unsaid
from studies.settings import JSON

AUDIT_SAMPLES = 20_000
DROPPED = "dropped"
"""Name, among the stages of a study's settings, of the choices that its space is without."""


def audit_space(
    target: Path,
    limits: Limits,
    *,
    seed: int,
    say: Say = unsaid,
    progress: Progress = silent,
) -> ShrinkProposal:
    """Say and write to `target` what the limits leave of the space, and a narrower one.

    Raises:
        UserError: next to nothing keeps the limits.
    """
    cost = partial(architecture_cost, image_size=limits.image_size)
    sample = draw_sample(SPACE, cost, samples=AUDIT_SAMPLES, seed=seed, progress=progress)
    result = audit(sample, limits)
    result.check()
    fresh = seed + 1  # with the sample's own seed the draws would follow it
    proposal = propose_shrink(sample, limits, cost=cost, seed=fresh, progress=progress)
    for line in (*result.summary_lines(), *proposal.summary_lines()):
        say(line)
    header = record_header(seed=seed, data_hash=None)
    write_json(target, {**header, **result.to_json(), "shrink": proposal.to_json()})
    return proposal


def narrowed_space(proposal: ShrinkProposal, *, say: Say = unsaid) -> Space:
    """The proposed space; says which starting points it does not hold."""
    space = SPACE.narrowed(proposal.dropped)
    usual, held = len(starting_points(SPACE)), len(starting_points(space))
    if held < usual:
        say(f"starting points: {usual - held} of {usual} are not in the narrower space, left out")
    return space


def dropped_choices(space: Space) -> dict[str, JSON]:
    """What a narrower space is without: gene -> choices."""
    return {
        whole.name: [choice for choice in whole.choices if choice not in narrow.choices]
        for whole, narrow in zip(SPACE.genes, space.genes, strict=True)
        if whole != narrow
    }


def space_of_study(
    study: str, saved: Mapping[str, Any] | None, *, shrink: bool, say: Say = unsaid
) -> Space:
    """The space of a study that is gone on with; of a new one the whole space.

    saved: settings of the study, None for a new one. shrink: whether a narrower space is asked
    for.

    Raises:
        UserError: the study has a narrower space and none is asked for, or the other way round,
            or the space has changed since.
    """
    if saved is None:
        return SPACE
    dropped = saved["stages"].get(DROPPED)
    if shrink != (dropped is not None):
        has, do = ("the whole", "leave --shrink out") if shrink else ("a narrower", "give --shrink")
        raise UserError(
            f"study {study!r} searches {has} space; {do}, or choose another --study name"
        )
    if dropped is None:
        return SPACE
    try:
        space = SPACE.narrowed(dropped)
    except ValueError as error:
        raise UserError(
            f"study {study!r} searches another space ({error}); choose another --study name"
        ) from error
    say(f"space: the study's own, without {dropped_text(dropped) or 'nothing'}")
    return space
