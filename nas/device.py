"""Where networks are trained. Loads torch only to look for CUDA: detecting needs none."""

from typing import TYPE_CHECKING

from data.errors import UserError, unknown_name

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda")


def require_cpu(name: str) -> None:
    """Nothing, when a stage that runs on the CPU alone was asked to run there or anywhere.

    Raises:
        UserError: the name is unknown, or it is cuda.
    """
    if name not in DEVICES:
        raise unknown_name("device", name, DEVICES)
    if name == "cuda":
        raise UserError(
            "this command measures or runs exported networks with ONNX Runtime on the CPU, "
            "where they are deployed; use --device cpu or auto"
        )


def choose_device(name: str) -> tuple["torch.device", str]:
    """The device and, for people, why it is this one.

    Raises:
        UserError: the name is unknown, or CUDA is asked for and not there.
    """
    if name not in DEVICES:
        raise unknown_name("device", name, DEVICES)
    import torch

    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise UserError("no CUDA device was found; use --device cpu, or --device auto")
    if name == "cpu":
        return torch.device("cpu"), "device cpu: asked for"
    if has_cuda:
        why = "asked for" if name == "cuda" else "CUDA found"
        return torch.device("cuda"), f"device cuda ({torch.cuda.get_device_name()}): {why}"
    return torch.device("cpu"), "device cpu: no CUDA device found"
