"""Training one set of weights for all feasible architectures: the sandwich rule.

Each step trains, on one batch, an architecture from the heaviest feasible ones, one from the
lightest, and one drawn from all feasible ones; the last two also learn from the first one's
predictions (in-place distillation).

Source: Yu et al., BigNAS, arXiv:2003.11142, sections 3.1 and 3.2, with two differences: the
largest architecture breaks every limit of a tiny detector, so a heavy feasible one stands in
for it, another one at each step; and so does a light one for the smallest. Training the very
smallest at every step gave that one network, of 3,766 weights, ten times the AP of all others
(0.024 against 0.002), and the search believed it.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.errors import UserError
from data.loader import BatchSource
from data.progress import Progress, silent
from data.sample import Batch
from data.shards import open_shards
from nas.distillation import dense_distillation_loss
from nas.fitting import (
    FitSettings,
    NotFiniteError,
    half_type,
    images_to_tensor,
    learning_rate_at,
    make_optimizer,
    targets_to_tensors,
)
from nas.resident import crops_on, light_batches
from nas.team import Team, work_together
from nas.weights import load_weights, save_state, save_weights
from objectives.cost import architecture_cost
from objectives.limits import Limits
from objectives.loss import SHORT_FIT, LossSettings, detection_loss
from search_spaces.architecture import Architecture
from search_spaces.space import SPACE, Space
from search_spaces.supernet import Supernet

RECIPE = 5
"""Part of a supernet's hash: raise it when the same settings would train other weights."""

POOL_SIZE = 1024
END_SHARE = 0.05
"""Share of the pool, by MACs, that counts as heavy, and as light."""

STRATA = 8
"""Parts of the pool, equally wide in the logarithm of MACs, of which one is drawn before an
architecture is: most random architectures lie in the middle, most decisions do not."""

CHECKPOINT_STEPS = 100


@dataclass(frozen=True, slots=True)
class SupernetSettings:
    """How a supernet is trained.

    fit: steps, images of one share of a step, image size and rate. shares: parts of a step's
    batch, each normalised by itself; their gradients are averaged, whichever process found
    them. random_architectures: drawn each step beside the heavy and the light one, from all
    STRATA alike. distillation_weight: of the distillation beside the detection loss.
    """

    fit: FitSettings
    shares: int = 2
    random_architectures: int = 1
    distillation_weight: float = 1.0
    loss: LossSettings = SHORT_FIT


def feasible_pool(space: Space, limits: Limits, *, size: int, seed: int) -> list[Architecture]:
    """Random architectures that meet the limits, all different, lightest first (by MACs).

    Raises:
        UserError: too few of 1,000 times as many random genotypes meet the limits.
    """
    generator = np.random.default_rng(seed)
    found: dict[Architecture, int] = {}
    for _ in range(1000 * size):
        architecture = space.decode(space.random_genotype(generator))
        cost = architecture_cost(architecture, image_size=limits.image_size)
        if limits.allow(cost):
            found[architecture] = cost.macs
        if len(found) == size:
            return sorted(found, key=found.__getitem__)
    raise UserError(
        f"only {len(found)} of {1000 * size} random architectures meet the limits; loosen them"
    )


def strata(pool: Sequence[Architecture], *, image_size: int) -> list[list[Architecture]]:
    """The pool in STRATA parts, less those that would be empty."""
    macs = [architecture_cost(architecture, image_size=image_size).macs for architecture in pool]
    edges = np.geomspace(min(macs), max(macs), STRATA + 1)[1:-1]
    parts: list[list[Architecture]] = [[] for _ in range(STRATA)]
    for architecture, part in zip(pool, np.searchsorted(edges, macs), strict=True):
        parts[part].append(architecture)
    return [part for part in parts if part]


def supernet_hash(
    space: Space, limits: Limits, settings: SupernetSettings, *, data_hash: str, seed: int
) -> str:
    """Names the supernet that training with these would give."""
    facts = [RECIPE, space.fingerprint, asdict(limits), asdict(settings), data_hash, seed]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def load_supernet(path: Path, space: Space) -> Supernet:
    """The trained supernet of a file, on the CPU.

    Raises:
        UserError: the file is missing, damaged, or of another space.
    """
    weights, facts = load_weights(path)
    if facts.get("space") != space.fingerprint:
        raise UserError(
            f"{path} is a supernet of the space {facts.get('space')}, not {space.fingerprint}; "
            "train one for this space by running the search again"
        )
    supernet = Supernet(space)
    supernet.load_state_dict(weights)
    return supernet


class SupernetTrainer:
    """A supernet in training; the same seed and batches give the same weights.

    On CUDA its networks run in half precision, as in `nas.fitting.Trainer`.
    """

    def __init__(
        self,
        supernet: Supernet,
        pool: Sequence[Architecture],
        settings: SupernetSettings,
        *,
        seed: int,
        team: Team,
    ) -> None:
        if settings.shares % team.size:
            raise ValueError(f"team size must divide the {settings.shares} shares, got {team.size}")
        self.supernet = supernet
        self.settings = settings
        self.device = next(supernet.parameters()).device
        self._team = team
        self.step_count = 0
        self._pool = pool
        ends = max(1, round(END_SHARE * len(pool)))
        self._light, self._heavy = pool[:ends], pool[-ends:]
        self._strata = strata(pool, image_size=settings.fit.image_size)
        self._seed = seed
        self._optimizer = make_optimizer(supernet.parameters(), settings.fit)
        self._half = half_type(self.device)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self._half is torch.float16)

    def sandwich(self, step: int) -> list[Architecture]:
        """The architectures of a step: a heavy one, a light one, then random ones."""
        generator = np.random.default_rng((self._seed, step))
        heavy = self._heavy[int(generator.integers(len(self._heavy)))]
        light = self._light[int(generator.integers(len(self._light)))]
        drawn = []
        for _ in range(self.settings.random_architectures):
            stratum = self._strata[int(generator.integers(len(self._strata)))]
            drawn.append(stratum[int(generator.integers(len(stratum)))])
        return [heavy, light, *drawn]

    def step(self, batches: BatchSource) -> float:
        """Train this step's architectures; the heavy one's loss on this process's shares.

        Raises:
            NotFiniteError: a loss became NaN or infinite; the weights are those before the step.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step_count, self.settings.fit)
        first_share = self.step_count * self.settings.shares
        losses: list[float] = []
        gradients: list[Tensor] = []
        for share in range(self._team.rank, self.settings.shares, self._team.size):
            self._optimizer.zero_grad(set_to_none=True)  # shares are added whole, as members add
            losses.append(self._learn(batches.batch(first_share + share)))
            before = gradients
            gradients = [p.grad for p in self.supernet.parameters() if p.grad is not None]
            if before:
                torch._foreach_add_(gradients, before)
        self._team.add_up(gradients)
        torch._foreach_div_(gradients, self.settings.shares)
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self.supernet.parameters(), self.settings.fit.gradient_clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self.step_count += 1
        return sum(losses) / len(losses)

    def _learn(self, batch: Batch) -> float:
        """Add the gradients of one share of the batch; the heavy architecture's loss."""
        images = images_to_tensor(batch.images, self.device)
        targets = targets_to_tensors(batch, self.device)
        teacher: tuple[Tensor, ...] | None = None
        teacher_loss = 0.0
        for architecture in self.sandwich(self.step_count):
            with torch.autocast(self.device.type, dtype=self._half, enabled=self._half is not None):
                levels = self.supernet(images, architecture)
            loss = detection_loss(levels, *targets, settings=self.settings.loss).total
            if teacher is None:
                teacher, teacher_loss = levels, loss.item()
            else:
                loss = loss + self.settings.distillation_weight * dense_distillation_loss(
                    levels, teacher
                )
            if not torch.isfinite(loss):
                raise NotFiniteError(f"loss is {loss.item()} at supernet step {self.step_count}")
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return teacher_loss

    def state_dict(self) -> dict[str, Any]:
        """Everything the next step depends on."""
        return {
            "step_count": self.step_count,
            "supernet": self.supernet.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where another trainer with the same settings was."""
        self.step_count = state["step_count"]
        self.supernet.load_state_dict(state["supernet"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])


@dataclass(frozen=True, slots=True)
class SupernetJob:
    """All that the processes of one supernet training need, picklable.

    shards: folder of the crops. held_out_share: of their source images, never trained on.
    path: of the weights. facts: JSON values stored in the file beside the space and the
    settings. device: where to train. space: whose feasible architectures are trained; `SPACE` or
    a narrower one. The weights are those of `SPACE` in any case.
    """

    shards: Path
    held_out_share: float
    limits: Limits
    settings: SupernetSettings
    seed: int
    path: Path
    facts: dict[str, Any]
    device: str
    space: Space = SPACE

    @property
    def checkpoint(self) -> Path:
        """Holds the state of an unfinished training."""
        return self.path.with_suffix(".checkpoint")


def train_supernet(job: SupernetJob, *, processes: int, progress: Progress = silent) -> None:
    """Train to the last step and write the weights; go on from a checkpoint if there is one.

    The weights do not depend on the number of processes; more than the shares of a step have
    nothing to do.
    """
    size = max(n for n in range(1, processes + 1) if job.settings.shares % n == 0)
    work_together(_work, job, size=size, lead=lambda team: _train(team, job, progress=progress))


def _work(team: Team, job: SupernetJob) -> None:
    _train(team, job, progress=silent)


def _train(team: Team, job: SupernetJob, *, progress: Progress) -> None:
    settings = job.settings
    train, _ = open_shards(job.shards).split(job.held_out_share, seed=job.seed)
    crops = crops_on(torch.device(job.device), train)
    batches = light_batches(train, settings.fit, seed=job.seed, crops=crops)
    trainer = SupernetTrainer(
        Supernet(SPACE, seed=job.seed).to(job.device),
        feasible_pool(job.space, job.limits, size=POOL_SIZE, seed=job.seed),
        settings,
        seed=job.seed,
        team=team,
    )
    if job.checkpoint.is_file():
        state = torch.load(job.checkpoint, weights_only=True, map_location=trainer.device)
        trainer.load_state_dict(state)
    leads = team.rank == 0
    while trainer.step_count < settings.fit.steps:
        trainer.step(batches)
        if not leads:
            continue
        progress("supernet", trainer.step_count, settings.fit.steps)
        if trainer.step_count % CHECKPOINT_STEPS == 0:
            save_state(job.checkpoint, trainer.state_dict())
    if leads:
        facts = {**job.facts, "space": SPACE.fingerprint, "settings": asdict(settings)}
        save_weights(job.path, trainer.supernet.state_dict(), facts)
        job.checkpoint.unlink(missing_ok=True)
