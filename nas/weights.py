"""Weights on disk: safetensors files that say which network they are for."""

import io
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from data.errors import UserError
from data.files import whole_file
from search_spaces.catalogue import build_network
from search_spaces.face_network import FaceNetwork


def save_weights(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and JSON facts about them, whole or not at all."""
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    content = save(plain, {name: json.dumps(value) for name, value in facts.items()})
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write what training can go on from, whole or not at all; `torch.load` reads it."""
    content = io.BytesIO()  # torch, writing to a full disk itself, hides the cause
    torch.save(state, content)
    with whole_file(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def load_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the facts of a file that `save_weights` wrote.

    Raises:
        UserError: the file is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"no weights at {path}")
    try:
        with safe_open(path, framework="pt") as stream:
            facts = {k: json.loads(v) for k, v in (stream.metadata() or {}).items()}
            return {name: stream.get_tensor(name) for name in stream.keys()}, facts  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and run again") from error


def save_detector(path: Path, network: FaceNetwork, facts: dict[str, Any]) -> None:
    """Write a detector's weights, with its architecture's key among the facts."""
    save_weights(path, network.state_dict(), {**facts, "architecture": network.key})


def load_detector(path: Path) -> tuple[FaceNetwork, dict[str, Any]]:
    """The detector of a weights file, in eval mode, and the file's facts.

    Raises:
        UserError: the file is missing or damaged, or its weights are not its architecture's.
    """
    tensors, facts = load_weights(path)
    if "architecture" not in facts:
        raise UserError(f"{path} names no architecture; was it written by retrain?")
    with torch.random.fork_rng(devices=[]):  # first weights are drawn, and then replaced
        network = build_network(facts["architecture"])
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    got = {name: tuple(value.shape) for name, value in tensors.items()}
    if wanted != got:
        name = next(n for n in sorted(wanted | got) if wanted.get(n) != got.get(n))
        raise UserError(
            f"{path} does not fit its architecture: {name} must be {wanted.get(name)}, "
            f"got {got.get(name)}"
        )
    network.load_state_dict(tensors)
    return network.eval(), facts
