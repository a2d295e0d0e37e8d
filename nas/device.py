"""Where networks are trained. Loads torch only to look for CUDA: detecting needs none."""

import ctypes
import platform
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


def keep_freed_memory() -> bool:
    """From now on this process keeps the memory of freed tensors for the next; whether it can.

    glibc's malloc takes blocks of over 32 MB from the system and gives them back when they are
    freed. Each step then has every page of its large tensors handed out and zeroed again.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(trim_threshold, -1) and mallopt(mmap_threshold, 2**30))
