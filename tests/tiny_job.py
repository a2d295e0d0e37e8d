"""The main job, from drawn images to a benchmarked detector, in seconds."""

from dataclasses import replace
from pathlib import Path

import pytest

from nas.proxy import ProxySettings
from objectives.limits import Limits
from studies.main_job import JobRequest
from studies.schedule import Schedule, schedule_for
from studies.workspace import Workspace
from tests.tiny_training import FIT

LIMITS = Limits(max_params=60_000, image_size=64)


def tiny_schedule(budget: int, *, cuda: bool, real: bool) -> Schedule:
    """Twelve images and one to two steps of everything."""
    usual = schedule_for(budget, cuda=cuda, real=real)
    return replace(
        usual,
        synthetic_images=12,
        supernet=replace(usual.supernet, fit=FIT),
        proxy=ProxySettings(fit=replace(FIT, steps=1), recalibration_images=4, held_out_images=6),
        alone=replace(FIT, steps=1),
        retrain=FIT,
        teacher=FIT,
    )


def make_jobs_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `run_job` use the tiny schedule, one process and few random architectures."""
    monkeypatch.setattr("studies.main_job.schedule_for", tiny_schedule)
    monkeypatch.setattr("studies.space_stage.AUDIT_SAMPLES", 300)
    monkeypatch.setattr("nas.supernet_training.POOL_SIZE", 12)
    for module in ("main_job", "preparation", "chosen"):
        monkeypatch.setattr(f"studies.{module}.usable_cores", lambda: 1)


def tiny_request(runs: Path, *, budget: int = 4, study: str = "tiny") -> JobRequest:
    """A search of the drawn images that retrains the knee."""
    return JobRequest(
        workspace=Workspace(runs, study),
        budget=budget,
        limits=LIMITS,
        device="cpu",
        retrain="1",
        supernet_steps=2,
        proxy_steps=1,
        retrain_steps=2,
    )
