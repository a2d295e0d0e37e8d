"""Trained networks that others learn from: opening them, and what they say of a batch.

Shape letters: B images, N predictions of all levels in the order of the network's code.
"""

import hashlib
import json
import math
import statistics
import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException
from torch import Tensor

from data.errors import UserError
from data.files import sha256_of
from nas.fitting import to_channels_last
from nas.weights import load_detector
from objectives.session import INPUT_NAME, ONNX_ERRORS, OUTPUT_NAMES, open_session
from search_spaces.catalogue import build_network
from search_spaces.codes import BoxCode
from search_spaces.face_network import FaceNetwork

WEIGHTS = "weights.safetensors"
"""The file of a trained network in its folder."""

PROBE_SHAPE = (1, 3, 64, 64)

LEAST_VARIANCE = 1e-5

TIMED_EVERY = 20
"""Of so many batches one is timed: on CUDA, timing waits for the device."""


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What a teacher says of a batch, without gradients.

    boxes_xyxy: (B, N, 4) pixels, float32. scores: (B, N) in 0..1, float32. features: one map a
    level, those of `FaceNetwork.features` `standardised`, so that no channel drowns the others;
    none of a teacher that does not show them.
    """

    boxes_xyxy: Tensor
    scores: Tensor
    features: tuple[Tensor, ...] = ()

    @property
    def nbytes(self) -> int:
        """Memory that the tensors take."""
        return sum(one.nbytes for one in (self.boxes_xyxy, self.scores, *self.features))


@dataclass(frozen=True, slots=True)
class TeacherCost:
    """What asking a teacher took. seconds_per_batch: median of the timed batches, or None."""

    batches: int
    timed_batches: int
    seconds_per_batch: float | None

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


class Teacher(ABC):
    """A trained network that answers and never changes.

    path: its file. sha256: of the file. key: its architecture. code: of its predictions.
    feature_widths: channels of each of its feature maps; empty where it shows none.

    Raises:
        UserError: its answer is not its architecture's, or not finite.
    """

    def __init__(self, path: Path, key: str, code: BoxCode, device: torch.device) -> None:
        self.path = path
        self.sha256 = sha256_of(path)
        self.key = key
        self.code = code
        self.device = device
        self.feature_widths = self._try()
        self._batches = 0
        self._seconds: list[float] = []
        self._answers: dict[tuple[tuple[int, ...], bytes], Targets] | None = None
        self._room_bytes = 0

    def remember(self, room_bytes: int) -> None:
        """Keep answers, as many as there is room for, and give them again to a batch that comes
        again, as those of one fit do in the next: the same to the last bit, and sooner."""
        self._answers, self._room_bytes = {}, room_bytes

    @abstractmethod
    def _answer(self, images: Tensor) -> Targets:
        """What it says of a batch."""

    def ask(self, images: Tensor) -> Targets:
        """What it says of images (B, 3, H, W), float, BGR in 0..255, on its device."""
        if self._answers is None:
            return self._ask(images)
        pixels = images.numpy(force=True)
        name = pixels.shape, hashlib.sha256(pixels.tobytes()).digest()
        if name in self._answers:
            return self._answers[name]
        targets = self._ask(images)
        if targets.nbytes <= self._room_bytes:
            self._answers[name] = targets
            self._room_bytes -= targets.nbytes
        return targets

    def _ask(self, images: Tensor) -> Targets:
        """What it says, found anew."""
        self._batches += 1
        with torch.no_grad():
            if self._batches % TIMED_EVERY:
                return self._answer(images)
            self._wait()
            start = time.perf_counter()
            targets = self._answer(images)
            self._wait()
            self._seconds.append(time.perf_counter() - start)
            return targets

    def _try(self) -> tuple[int, ...]:
        """The widths of its feature maps; what is wrong with it must not be blamed on a student."""
        with torch.no_grad():
            targets = self._answer(torch.full(PROBE_SHAPE, 127.0, device=self.device))
        sizes = level_sizes(self.code, *PROBE_SHAPE[2:])
        expected = sum(anchors * positions for anchors, positions in sizes)
        if targets.scores.shape != (1, expected) or targets.boxes_xyxy.shape != (1, expected, 4):
            raise UserError(
                f"{self.path} gives {targets.scores.shape[-1]} predictions where its architecture "
                f"{self.key} gives {expected}; export the teacher again"
            )
        if not (targets.scores.isfinite().all() and targets.boxes_xyxy.isfinite().all()):
            raise UserError(
                f"the teacher {self.path} gives numbers that are not finite; retrain it"
            )
        return tuple(features.shape[1] for features in targets.features)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @property
    def cost(self) -> TeacherCost:
        """What it took so far."""
        median = statistics.median(self._seconds) if self._seconds else None
        return TeacherCost(self._batches, len(self._seconds), median)

    def facts(self) -> dict[str, Any]:
        """Which network it is, in JSON's types."""
        return {"file": str(self.path), "sha256": self.sha256, "architecture": self.key}


class TorchTeacher(Teacher):
    """A network with its weights; under autocast it runs in half precision like the student."""

    def __init__(self, path: Path, network: FaceNetwork, device: torch.device) -> None:
        network = network.to(device).eval().requires_grad_(requires_grad=False)
        self._network = to_channels_last(network)
        super().__init__(path, network.key, network.code, device)

    def _answer(self, images: Tensor) -> Targets:
        features = self._network.features(images)
        answer = self.code.decode(self._network.predict(features))
        return Targets(*answer, tuple(standardised(level) for level in features))


class OnnxTeacher(Teacher):
    """An exported network on ONNX Runtime, on the CPU wherever the student is."""

    def __init__(self, path: Path, *, device: torch.device, threads: int) -> None:
        self._session = open_session(path, threads=threads)
        facts = self._session.get_modelmeta().custom_metadata_map
        if not facts.keys() >= {"architecture", "strides"}:
            raise UserError(
                f"{path} does not name its architecture and strides, so its predictions cannot be "
                "told apart; export the teacher again with `export`"
            )
        with torch.device("meta"):
            code = build_network(facts["architecture"]).code
        if facts["strides"] != json.dumps(code.strides):
            raise UserError(
                f"{path} has the strides {facts['strides']}, its architecture "
                f"{facts['architecture']} has {json.dumps(code.strides)}; export the teacher again"
            )
        super().__init__(path, facts["architecture"], code, device)

    def _answer(self, images: Tensor) -> Targets:
        pixels = images.float().contiguous().cpu().numpy()
        try:
            outputs = self._session.run(OUTPUT_NAMES, {INPUT_NAME: pixels})
        except (RuntimeException, *ONNX_ERRORS) as error:
            raise UserError(
                f"the teacher {self.path} cannot run on images of {pixels.shape[2]}x"
                f"{pixels.shape[3]}; export it again with `export`"
            ) from error
        boxes_xyxy, scores = (torch.from_numpy(output).to(images.device) for output in outputs)
        return Targets(boxes_xyxy, scores)


def standardised(features: Tensor) -> Tensor:
    """A map (B, C, H, W) with mean 0 and variance 1 in every channel, float32; constants give 0."""
    variance, mean = torch.var_mean(features.float(), (0, 2, 3), correction=0, keepdim=True)
    return (features.float() - mean) * (variance + LEAST_VARIANCE).rsqrt()


def open_teacher(text: str, *, device: torch.device, threads: int = 0) -> Teacher:
    """The teacher that a text names: an exported network (.onnx), weights, or a folder with them.

    device: where the student learns. threads: of an .onnx file's operators, 0 for all cores.

    Raises:
        UserError: there is no such file, it is damaged, or it holds no face detector.
    """
    path = Path(text)
    if path.is_dir():
        path /= WEIGHTS
    if path.suffix not in (".onnx", ".safetensors"):
        raise UserError(
            f"a teacher is an exported .onnx file, a {WEIGHTS} or a folder that holds one, "
            f"got {text!r}"
        )
    if not path.is_file():
        raise UserError(f"there is no teacher at {path}; train it first with `retrain`")
    if path.suffix == ".onnx":
        return OnnxTeacher(path, device=device, threads=threads)
    network, _ = load_detector(path)
    return TorchTeacher(path, network, device)


def level_sizes(code: BoxCode, height: int, width: int) -> list[tuple[int, int]]:
    """Predictions of a position, and positions, of each level for images of a size in pixels."""
    return [
        (code.anchors_of(level), math.ceil(height / stride) * math.ceil(width / stride))
        for level, stride in enumerate(code.strides)
    ]
