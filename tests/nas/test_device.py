import pytest
import torch

from data.errors import UserError
from nas.device import choose_device


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
