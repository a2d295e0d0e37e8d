"""The network that trials learn from: trained in the search, or given."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from data.errors import UserError
from data.progress import Progress, silent
from data.shards import ShardSet
from nas.fitting import NotFiniteError, seeded
from nas.recipe import Recipe
from nas.resident import crops_on, light_batches
from nas.retrain import Company, retrain
from nas.teachers import WEIGHTS, open_teacher
from nas.weights import load_weights
from search_spaces.architecture import Architecture
from search_spaces.heads import STRIDES
from search_spaces.network import build
from studies.given_weights import HASH_DIGITS, keep_copy, warn_of_other_crops
from studies.say import Say, unsaid
from studies.workspace import Workspace

TEACHER = (
    "stem16x2_inverted.48x4k3e2.none-residual.32x1k3e1.dynamic-inverted.32x3k5e3.eca_"
    "bifpn.64x1_shared.none.0x0.se"
)
"""The network that is trained to teach: trial 115 of an early search on real faces, which beats the
best reference at fewer MACs when both are trained alike (docs/results/references)."""

RECIPE = 1
"""Part of a teacher's hash: raise it when the same settings would train other weights."""


@dataclass(frozen=True, slots=True)
class TeacherJob:
    """All that decides what a teacher becomes.

    shards: the crops, of which held_out_share is kept for the judgement of trials, and never seen
    by the teacher. seed: of that split, of first weights and of the order of images.
    """

    shards: ShardSet
    held_out_share: float
    recipe: Recipe
    seed: int
    device: torch.device


def train_teacher(
    workspace: Workspace, job: TeacherJob, *, say: Say = unsaid, progress: Progress = silent
) -> Path:
    """The folder of a network trained on the crops that trials learn from; one that was trained
    before, or in part, is not begun anew.

    Raises:
        UserError: the loss is not finite any more, or what was trained in part is damaged.
    """
    facts = {"data_hash": job.shards.hash, "held_out_share": job.held_out_share, "seed": job.seed}
    digest = hashlib.sha256(json.dumps([RECIPE, TEACHER, asdict(job.recipe), facts]).encode())
    name = digest.hexdigest()[:HASH_DIGITS]
    folder = workspace.teacher(name)
    if (folder / WEIGHTS).is_file():
        say(f"teacher {name}: trained before")
        return folder
    train, _ = job.shards.split(job.held_out_share, seed=job.seed)
    with seeded(job.seed):
        network = build(Architecture.from_key(TEACHER)).to(job.device)
    on_device = crops_on(job.device, train)
    batches = light_batches(train, job.recipe.fit, seed=job.seed, crops=on_device)
    company = Company(progress=lambda _, done, total: progress("teacher", done, total))
    try:
        retrain(network, batches, job.recipe, folder=folder, facts=facts, company=company)
    except UserError as error:
        if not isinstance(error.__cause__, NotFiniteError):
            raise
        raise UserError(
            f"the teacher's {error.__cause__}; search with another --seed, or with --no-teach"
        ) from error
    say(f"teacher {name}: trained; --teacher {folder} gives it to another study")
    return folder


def keep_teacher(
    workspace: Workspace, given: Path, *, data_hash: str, seed: int, say: Say = unsaid
) -> Path:
    """A copy of a trained network in the cache, named by its content, where the study finds it.

    given: its weights or their folder, which `check_teacher` accepts. data_hash, seed: of the
    study; of a teacher with others it is said that it may have seen what trials are judged on.

    Raises:
        UserError: the file is missing or damaged.
    """
    weights = _weights_of(given)
    folder = keep_copy(weights, lambda name: workspace.teacher(name) / WEIGHTS).parent
    _, facts = load_weights(weights)
    say(f"teacher {folder.name}: given, {facts.get('architecture')}")
    warn_of_other_crops("teacher", facts, data_hash=data_hash, seed=seed, say=say)
    return folder


def check_teacher(given: Path) -> None:
    """Nothing, where trials can learn from this network.

    Raises:
        UserError: it is missing or damaged, shows no feature maps, or has other strides than the
            networks of the space.
    """
    teacher = open_teacher(str(_weights_of(given)), device=torch.device("cpu"))
    if teacher.code.strides != STRIDES:
        raise UserError(
            f"the teacher {given} ({teacher.key}) has levels at the strides "
            f"{teacher.code.strides}, the networks of the space at {STRIDES}; "
            "choose another one"
        )


def _weights_of(given: Path) -> Path:
    """The weights that a path names.

    Raises:
        UserError: it names an exported network.
    """
    if given.suffix == ".onnx":
        raise UserError(
            f"trials learn from feature maps, which the exported {given} does not show; give the "
            f"{WEIGHTS} it was made from"
        )
    return given / WEIGHTS if given.is_dir() else given
