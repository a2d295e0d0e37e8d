import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
from torch import Tensor, nn

from data.loader import FullSizeLoader
from data.sample import Batch
from nas.distributed import OwnRows, SharedBatchNorm, equal_start, shared_batch_norms, torchrun_team
from nas.recipe import Recipe
from nas.retrain import Company, retrain
from nas.team import Team, work_together
from nas.weights import load_detector
from objectives.assignment import AssignmentSettings
from objectives.loss import LossSettings
from search_spaces.face_network import FaceNetwork
from tests.data.drawn_faces import DrawnFaces
from tests.tiny_training import CPU, FIT, TinyBatches, tiny_network, tiny_shards, weights_of

SGD = replace(FIT, steps=20, batch_size=4, optimizer="sgd", learning_rate=1e-3, average_decay=0.9)
"""SGD's steps are linear in the gradients, so rounding stays as small as it is. AdamW divides a
gradient by its own size: where that is all rounding, whole steps differ."""

FIXED = LossSettings(assignment=AssignmentSettings(most_positives=1, iou_weight=0.0))
"""Each face has the point that is nearest: where predictions had a say, rounding could decide."""

LOADER = FullSizeLoader(DrawnFaces(count=6), batch_size=4, image_size=64, seed=0, augment=None)


@dataclass(frozen=True)
class Noise:
    """Batches of noise with two faces a picture, made from the step. Drawn pictures are mostly of
    one colour: batch norms then divide by next to nothing, which blows rounding up to steps."""

    batch_size: int = 4
    image_size: int = 64
    batches_per_epoch: int = 10

    def batch(self, step: int) -> Batch:
        rng = np.random.default_rng(step)
        images = rng.integers(0, 256, (self.batch_size, 64, 64, 3), dtype=np.uint8)
        corners = rng.uniform(0, 32, (self.batch_size, 2, 2))
        sides = rng.uniform(8, 32, (self.batch_size, 2, 1))
        boxes = np.concatenate([corners, corners + sides], -1).astype(np.float32)
        wanted = np.ones((self.batch_size, 2), dtype=bool)
        wanted[: self.batch_size // 2, 1] = False  # members have unequal numbers of faces
        return Batch(images, boxes, wanted, np.zeros_like(wanted))


@dataclass(frozen=True)
class Job:
    """A retraining that every member of a team can make for itself."""

    folder: Path
    recipe: Recipe


def ap_of(network: FaceNetwork) -> dict[str, float]:
    return {"ap": float(sum(value.double().sum() for value in network.parameters()))}


def train(team: Team, job: Job) -> None:
    retrain(
        tiny_network(seed=team.rank),
        Noise(),
        job.recipe,
        folder=job.folder,
        facts={},
        company=Company(team=team, validate=ap_of if job.recipe.validate_every else None),
    )


def trained_by(size: int, job: Job) -> dict[str, Tensor]:
    work_together(train, job, size=size, lead=lambda team: train(team, job))
    return weights_of(load_detector(job.folder / "weights.safetensors")[0])


def differences(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def test_two_processes_train_the_network_that_one_trains(tmp_path: Path) -> None:
    recipe = Recipe(fit=SGD, loss=FIXED, validate_every=10)
    alone = trained_by(1, Job(tmp_path / "alone", recipe))
    together = trained_by(2, Job(tmp_path / "together", recipe))
    assert differences(alone, together) < 1e-5
    start = weights_of(tiny_network())
    assert differences(alone, start) > 1e-3  # it did move
    for name in ("training.jsonl", "evaluations.jsonl"):
        one, other = (
            (tmp_path / folder / name).read_text().count("\n") for folder in ("alone", "together")
        )
        assert one == other == 2


def normalise(team: Team, job: tuple[Path, Tensor]) -> None:
    """Both directions of a shared batch norm on a member's rows; rank 0 writes what came out."""
    folder, images = job
    norm = nn.BatchNorm2d(3)
    network = nn.Sequential(norm)
    nn.init.uniform_(norm.weight, generator=torch.Generator().manual_seed(0))
    rows = images.chunk(team.size)[team.rank].clone().requires_grad_()
    with shared_batch_norms(network, team):
        out = network(rows)
    (out * torch.arange(out.shape[-1]) * out).sum().backward()
    gradients = [value.grad for value in network.parameters() if value.grad is not None]
    team.add_up(gradients)
    assert rows.grad is not None
    result = {"out": out, "rows": rows.grad, "weight": gradients[0], "bias": gradients[1]}
    path = folder / f"{team.size}-{team.rank}.pt"
    torch.save({**{k: v.detach() for k, v in result.items()}, **network.state_dict()}, path)
    if team.size > 1:
        torch.distributed.barrier()


def test_a_shared_batch_norm_is_torchs_over_all_rows(tmp_path: Path) -> None:
    images = torch.randn(4, 3, 5, 7, generator=torch.Generator().manual_seed(1)) * 3 + 5
    job = (tmp_path, images)
    for size in (1, 2):
        work_together(normalise, job, size=size, lead=lambda team: normalise(team, job))
    whole, first, second = (
        torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1")
    )
    for name in ("out", "rows"):
        assert torch.cat([first[name], second[name]]).allclose(whole[name], atol=1e-4), name
    for name in whole.keys() - {"out", "rows"}:
        assert torch.equal(first[name], second[name])
        assert first[name].allclose(whole[name], rtol=1e-4), name


def test_shared_batch_norms_are_put_in_and_taken_out_with_the_same_tensors() -> None:
    network = tiny_network()
    before = dict(network.state_dict(keep_vars=True))
    kinds = [type(module) for module in network.modules()]
    with shared_batch_norms(network, Team(0, 2)):
        assert any(type(module) is SharedBatchNorm for module in network.modules())
        assert not any(type(module) is nn.BatchNorm2d for module in network.modules())
        inside = network.state_dict(keep_vars=True)
        assert list(inside) == list(before)
        assert all(inside[name] is value for name, value in before.items())
    assert [type(module) for module in network.modules()] == kinds
    assert all(network.state_dict(keep_vars=True)[n] is value for n, value in before.items())
    with shared_batch_norms(network, Team()):
        assert [type(module) for module in network.modules()] == kinds


def test_in_eval_mode_a_shared_batch_norm_needs_no_team() -> None:
    network, images = tiny_network().eval(), torch.rand(1, 3, 64, 64) * 255
    alone = network(images)
    with shared_batch_norms(network, Team(0, 2)):
        assert all(torch.equal(a, b) for a, b in zip(network(images), alone, strict=True))


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("is_parted", [True, False])
def test_members_rows_are_the_batch(tmp_path: Path, size: int, *, is_parted: bool) -> None:
    whole = LOADER if is_parted else TinyBatches(tiny_shards(tmp_path)[0], batch_size=4)
    parts = [OwnRows(whole, Team(rank, size)).batch(3) for rank in range(size)]
    batch: Batch = whole.batch(3)
    assert np.array_equal(np.concatenate([part.images for part in parts]), batch.images)
    wanted = np.concatenate([part.boxes_xyxy[part.wanted] for part in parts])
    assert np.array_equal(wanted, batch.boxes_xyxy[batch.wanted])


def test_rows_that_cannot_be_shared_equally_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size must be a multiple of the team's 3, got 4"):
        OwnRows(LOADER, Team(0, 3))


def test_alone_nothing_is_shared() -> None:
    network = tiny_network()
    before = weights_of(network)
    equal_start(network, Team())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    with torchrun_team(CPU) as (team, device):
        assert (team.rank, team.size, device) == (0, 1, CPU)


SCRIPT = """
import torch
from nas.distributed import same_for_all, torchrun_team

with torchrun_team(torch.device("cpu")) as (team, device):
    value = same_for_all(7.0 + team.rank, team, device)
    print(f"rank {team.rank} of {team.size}: {value}", flush=True)
"""


@pytest.mark.slow
def test_torchrun_makes_a_team(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(script)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    said = re.findall(r"rank \d of \d: \d+\.\d", done.stdout)  # both may write to one line
    assert sorted(said) == ["rank 0 of 2: 7.0", "rank 1 of 2: 7.0"]
