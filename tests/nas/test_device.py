import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data.errors import UserError
from nas.device import choose_device

ROOT = Path(__file__).parents[2]


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def one_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")


@pytest.mark.usefixtures("no_cuda")
def test_without_cuda_the_cpu_is_taken_and_the_reason_given() -> None:
    assert choose_device("auto") == (torch.device("cpu"), "device cpu: no CUDA device found")
    assert choose_device("cpu") == (torch.device("cpu"), "device cpu: asked for")


@pytest.mark.usefixtures("no_cuda")
def test_cuda_that_is_not_there_is_refused_with_a_way_on() -> None:
    with pytest.raises(UserError, match="no CUDA device was found; use --device cpu"):
        choose_device("cuda")


@pytest.mark.usefixtures("one_cuda")
@pytest.mark.parametrize(("name", "why"), [("auto", "CUDA found"), ("cuda", "asked for")])
def test_cuda_is_taken_where_it_is(name: str, why: str) -> None:
    assert choose_device(name) == (torch.device("cuda"), f"device cuda (Some GPU): {why}")


@pytest.mark.usefixtures("one_cuda")
def test_the_cpu_is_taken_when_asked_for_beside_cuda() -> None:
    assert choose_device("cpu")[0] == torch.device("cpu")


def test_an_unknown_device_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"unknown device 'cudda'; known: auto, cpu, cuda\. Did"):
        choose_device("cudda")


def test_freed_memory_is_kept_where_malloc_can() -> None:
    """In a process of its own, as it cannot be undone: large blocks come back without faults."""
    program = (
        "import resource, numpy\n"
        "from nas.device import keep_freed_memory\n"
        "kept = keep_freed_memory()\n"
        "numpy.ones(2**23)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(5): numpy.ones(2**23)\n"
        "faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "assert not kept or faults < 2000, faults\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
