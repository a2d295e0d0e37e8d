"""Whether a network is what it says it is: checks that every network must pass, each by itself.

A model is the name of a reference, the key of an architecture, a weights file or an exported
network. What cannot be checked here is said to be unchecked; it neither passes nor fails.
"""

import copy
import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException
from torch import Tensor, nn

from data.errors import UserError
from data.progress import Progress, silent
from data.quantities import show_quantity
from nas.export import export_onnx
from nas.fitting import seeded
from nas.inference import recalibrate
from nas.weights import load_detector
from objectives.cost import architecture_cost, count_parameters
from objectives.network_loss import network_loss
from objectives.session import INPUT_NAME, ONNX_ERRORS, OUTPUT_NAMES, open_session
from objectives.traced_cost import activation_peak
from search_spaces.architecture import Architecture
from search_spaces.catalogue import REFERENCES, build_network
from search_spaces.face_network import FaceNetwork

SHAPES = ((1, 64, 64), (2, 96, 160), (3, 224, 32), (1, 320, 320))
"""Batch, height and width of the images a network is tried on."""

BATCH_SHAPE = (3, 96, 160)
MEMORY_SIZES = (256, 320, 640)
TOLERANCE = 1e-3
"""Largest difference of numbers that must be equal but for rounding, as a share of their range."""

TRAINING_SHAPE = (2, 512, 512)
FACE_SIDES = tuple(8 * 1.3**step for step in range(16))
"""Pixels, 8 to 409: in each image a face for every level of every network."""

TRAINING_BATCHES = 5
"""Drawn at most, until each level has had to answer for a face."""

LANDMARK = "landmark"
"""Parameters with this in their name predict what nobody has annotated; nothing trains them."""

METADATA = ("architecture", "commit", "input", "outputs", "schema_version", "strides")

CHECKED_ERRORS = (
    *(RuntimeError, ValueError, TypeError, IndexError),
    *(*ONNX_ERRORS, RuntimeException),
    *(onnx.checker.ValidationError, onnx.shape_inference.InferenceError),
)
"""What a network or a file raises that does not fit its input or itself."""


@dataclass(frozen=True, slots=True)
class Check:
    """passed: None for what could not be checked. detail: what was found, or why not."""

    name: str
    passed: bool | None
    detail: str

    @property
    def verdict(self) -> str:
        """For people."""
        return {True: "pass", False: "FAIL", None: "not checked"}[self.passed]

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {"name": self.name, "passed": self.passed, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """What was checked, in order."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return all(check.passed is not False for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Whether it passed, and the checks."""
        return {"passed": self.passed, "checks": [check.to_json() for check in self.checks]}


class _FailedError(Exception):
    """A check found something wrong."""


class _UncheckedError(Exception):
    """Something could not be checked."""


Measure = Callable[[], str]
"""One check: says what it found, or raises one of the two above."""

Run = Callable[[NDArray[np.float32]], Sequence[NDArray[np.float32]]]
"""Images (B, 3, H, W) -> levels, or boxes (B, N, 4) and scores (B, N)."""


def validate_model(
    model: str, *, device: torch.device, progress: Progress = silent
) -> ValidationReport:
    """Check what a text names: a reference, an architecture, a weights file or an exported network.

    A network without trained weights gets random ones and the batch-norm statistics of noise.

    Raises:
        UserError: it names nothing, or its file is missing or damaged.
    """
    if model.endswith(".onnx"):
        return validate_onnx(Path(model), progress=progress)
    if model.endswith(".safetensors"):
        network, _ = load_detector(Path(model))
    else:
        network = _named_network(model)
    expected = _expected_params(network.key)
    return validate_network(network, expected_params=expected, device=device, progress=progress)


def validate_network(
    network: FaceNetwork,
    *,
    expected_params: int | None,
    device: torch.device,
    progress: Progress = silent,
) -> ValidationReport:
    """Check a network, which is left as it was. CUDA is compared if `device` is a CUDA device."""
    checks = {
        "parameter count": lambda: _check_parameters(network, expected_params),
        "sizes and batches": lambda: _check_network_sizes(network),
        "a batch equals its images": lambda: _check_batch(_levels_of(network)),
        "CPU and CUDA agree": lambda: _check_cuda(network, device),
        "gradient reaches every parameter": lambda: _check_gradient(network),
        "memory by size": lambda: _check_memory(network),
        "ONNX equals torch": lambda: _check_export(network),
    }
    return _run_checks(checks, progress)


def validate_onnx(path: Path, *, progress: Progress = silent) -> ValidationReport:
    """Check an exported network by its file alone.

    Raises:
        UserError: there is no such file.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}; give the path of an exported model.onnx")
    checks = {
        "opens, with the right names": lambda: _check_opens(path),
        "sizes and batches": lambda: _check_sizes(_onnx_run(path)),
        "a batch equals its images": lambda: _check_batch(_onnx_run(path)),
        "metadata": lambda: _check_metadata(path),
        "parameter count": lambda: _check_kernels(path),
    }
    return _run_checks(checks, progress)


def _run_checks(checks: dict[str, Measure], progress: Progress) -> ValidationReport:
    done: list[Check] = []
    for name, measure in checks.items():
        progress("validate", len(done), len(checks))
        try:
            done.append(Check(name, passed=True, detail=measure()))
        except _UncheckedError as error:
            done.append(Check(name, passed=None, detail=f"not checked: {error}"))
        except _FailedError as error:
            done.append(Check(name, passed=False, detail=str(error)))
        except CHECKED_ERRORS as error:
            first_line = (str(error).strip().splitlines() or ["no message"])[0]
            done.append(Check(name, passed=False, detail=f"{type(error).__name__}: {first_line}"))
    progress("validate", len(checks), len(checks))
    return ValidationReport(tuple(done))


def _named_network(model: str) -> FaceNetwork:
    try:
        return _fresh_network(model)
    except UserError as error:
        raise UserError(
            f"{error} A model is one of these names, the key of an architecture, a weights file "
            f"(.safetensors) or an exported network (.onnx)"
        ) from error


def _fresh_network(key: str) -> FaceNetwork:
    """Random weights, the same for the same key, and the batch-norm statistics of noise."""
    with seeded(0):
        network = build_network(key)
    noise = np.random.default_rng(0).integers(0, 256, (8, 128, 128, 3)).astype(np.uint8)
    recalibrate(network, noise, device=torch.device("cpu"))
    return network


def _expected_params(key: str) -> int:
    if key in REFERENCES:
        return REFERENCES[key].params
    return architecture_cost(Architecture.from_key(key), image_size=MEMORY_SIZES[0]).params


# What a network and a file are both asked.


def _pixels(shape: tuple[int, int, int]) -> NDArray[np.float32]:
    batch, height, width = shape
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 3, height, width))
    return pixels.astype(np.float32)


def _agree(pairs: Iterable[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> str:
    """Compare arrays with what is expected of them."""
    worst = 0.0
    for found, expected in pairs:
        if not (np.isfinite(found).all() and np.isfinite(expected).all()):
            raise _FailedError("all numbers must be finite, they are not")
        spread = max(np.ptp(expected), 0.01 * np.abs(expected).max(), 1e-6)
        worst = max(worst, float(np.abs(found - expected).max() / spread))
    if worst > TOLERANCE:
        raise _FailedError(f"must agree within {TOLERANCE:g} of their range, differ by {worst:.2g}")
    return f"largest difference {worst:.1e} of the range"


def _check_sizes(run: Run) -> str:
    for shape in SHAPES:
        boxes, scores = run(_pixels(shape))
        if boxes.ndim != 3 or len(boxes) != shape[0] or boxes.shape != (*scores.shape, 4):
            raise _FailedError(
                f"boxes and scores must be (B, N, 4) and (B, N), got {boxes.shape} and "
                f"{scores.shape} for images {shape}"
            )
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise _FailedError(f"boxes and scores must be finite, they are not for images {shape}")
        if scores.min() < 0 or scores.max() > 1:
            raise _FailedError(
                f"scores must lie in 0..1, got {scores.min():.3g} to {scores.max():.3g}"
            )
    return "B x H x W: " + ", ".join("x".join(map(str, shape)) for shape in SHAPES)


def _check_batch(run: Run) -> str:
    images = _pixels(BATCH_SHAPE)
    alone = zip(*(run(images[i : i + 1]) for i in range(len(images))), strict=True)
    return _agree(zip(run(images), map(np.concatenate, alone), strict=True))


# What a network is asked.


def _on_cpu(network: FaceNetwork) -> FaceNetwork:
    return copy.deepcopy(network).cpu().float().eval()


def _levels_of(network: FaceNetwork) -> Run:
    evaluated = _on_cpu(network)

    def run(images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        with torch.no_grad():
            return [level.numpy() for level in evaluated(torch.from_numpy(images))]

    return run


def _decoded(network: FaceNetwork) -> Run:
    levels_of, code = _levels_of(network), network.code

    def run(images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        levels = [torch.from_numpy(level) for level in levels_of(images)]
        return [output.numpy() for output in code.decode(levels)]

    return run


def _check_parameters(network: FaceNetwork, expected: int | None) -> str:
    count = count_parameters(network)
    if expected is None:
        raise _UncheckedError(f"{count:,} parameters, and no number to compare them with")
    if count != expected:
        raise _FailedError(f"expected {expected:,} parameters, got {count:,}")
    return f"{count:,} parameters, as expected"


def _check_network_sizes(network: FaceNetwork) -> str:
    levels_of, strides = _levels_of(network), network.code.strides
    for batch, height, width in SHAPES:
        levels = levels_of(_pixels((batch, height, width)))
        found = [(len(level), *level.shape[2:]) for level in levels]
        expected = [(batch, math.ceil(height / s), math.ceil(width / s)) for s in strides]
        if found != expected:
            raise _FailedError(
                f"levels must be {expected} (B, H, W) at the strides {strides}, got {found}"
            )
    return _check_sizes(_decoded(network))


def _check_cuda(network: FaceNetwork, device: torch.device) -> str:
    if device.type != "cuda":
        has_cuda = torch.cuda.is_available()
        raise _UncheckedError("the CPU was asked for" if has_cuda else "no CUDA device found")
    images, there = _pixels(BATCH_SHAPE), copy.deepcopy(network).to(device).float().eval()
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        found = [level.cpu().numpy() for level in there(torch.from_numpy(images).to(device))]
    return _agree(zip(found, _levels_of(network)(images), strict=True))


def _nudge(network: nn.Module) -> None:
    """Move every parameter a little: none is zero, or equal to another, by construction."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in network.parameters():
            usual = value.abs().mean()
            step = 0.01 * torch.where(usual > 0, usual, 1)
            value.add_(step * torch.randn(value.shape, generator=generator))


def _training_batch(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noise with faces of every size: images, boxes_xyxy (B, F, 4), wanted and ignore (B, F)."""
    count, height, _ = TRAINING_SHAPE
    sides = torch.tensor(FACE_SIDES)[:, None]
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand((count, len(FACE_SIDES), 2), generator=generator) * (height - sides)
    wanted = torch.ones(corners.shape[:2], dtype=torch.bool)
    boxes = torch.cat([corners, corners + sides], 2)
    return torch.from_numpy(_pixels(TRAINING_SHAPE)), boxes, wanted, ~wanted


def _unreached(network: FaceNetwork) -> set[str]:
    """Parameters whose gradient was None or all zero in every batch; gradients are left behind.

    Raises:
        _FailedError: a loss is not finite.
    """
    unreached: set[str] = set()
    for seed in range(TRAINING_BATCHES):
        images, *faces = _training_batch(seed)
        loss = network_loss(network.code, network(images), *faces).total
        if not loss.isfinite():
            raise _FailedError(f"the loss of a batch is {loss.item()}")
        loss.backward()  # type: ignore[no-untyped-call]
        trained = [(name, p.grad) for name, p in network.named_parameters() if p.requires_grad]
        unreached = {name for name, grad in trained if grad is None or not grad.any()}
        if all(LANDMARK in name for name in unreached):
            break
    return unreached


def _check_gradient(network: FaceNetwork) -> str:
    trained = _on_cpu(network).train()
    _nudge(trained)
    unreached = _unreached(trained)
    grads = {name: p.grad for name, p in trained.named_parameters() if p.requires_grad}
    if missed := [name for name in grads if name in unreached and LANDMARK not in name]:
        raise _FailedError(f"none reaches {', '.join(missed)}")
    if broken := [n for n, grad in grads.items() if grad is not None and not grad.isfinite().all()]:
        raise _FailedError(f"it is not finite at {', '.join(broken)}")
    reached = f"{len(grads) - len(unreached)} of {len(grads)} tensors"
    if not unreached:
        return reached
    landmarks = ", ".join(name for name in grads if name in unreached)
    return f"{reached}; untrained, for want of annotated landmarks: {landmarks}"


def _check_memory(network: FaceNetwork) -> str:
    peaks = [activation_peak(network, image_size=size) for size in MEMORY_SIZES]
    table = [
        f"{size} px {'' if peak.is_exact else 'at most '}{show_quantity(peak.peak_bytes)}B"
        for size, peak in zip(MEMORY_SIZES, peaks, strict=True)
    ]
    numbers = [peak.peak_bytes for peak in peaks]
    if numbers != sorted(set(numbers)):
        raise _FailedError(f"larger images must need more memory, got {', '.join(table)}")
    return ", ".join(table)


def _check_export(network: FaceNetwork) -> str:
    with tempfile.TemporaryDirectory() as folder:
        report = export_onnx(network, Path(folder) / "model.onnx", metadata={})
    return (
        f"largest difference {report.max_difference:.1e} at {len(report.checked_shapes)} shapes; "
        f"{report.nodes} nodes, {show_quantity(report.file_bytes)}B"
    )


# What a file is asked.


def _open(path: Path) -> onnxruntime.InferenceSession:
    try:
        return open_session(path, threads=1)
    except UserError as error:
        raise _FailedError(str(error)) from error


def _onnx_run(path: Path) -> Run:
    session = _open(path)

    def run(images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        found: list[NDArray[np.float32]] = session.run(list(OUTPUT_NAMES), {INPUT_NAME: images})
        return found

    return run


def _check_opens(path: Path) -> str:
    session = _open(path)
    kinds = {node.name: node.type for node in (*session.get_inputs(), *session.get_outputs())}
    if other := {name: kind for name, kind in kinds.items() if kind != "tensor(float)"}:
        raise _FailedError(f"input and outputs must be float32, got {other}")
    return f"{INPUT_NAME} -> {', '.join(OUTPUT_NAMES)}, float32"


def _metadata(path: Path) -> dict[str, str]:
    return dict(_open(path).get_modelmeta().custom_metadata_map)


def _check_metadata(path: Path) -> str:
    facts = _metadata(path)
    if missing := [name for name in METADATA if name not in facts]:
        raise _FailedError(f"the file does not say its {', '.join(missing)}")
    return f"architecture {facts['architecture']}, commit {facts['commit']}"


def _kernel_numbers(path: Path) -> int:
    """Numbers of the kernels and matrices that a file's operators read.

    Counted at each reader, for equal tensors are stored once. Not biases: those that are zero are
    left out of a file.
    """
    graph = onnx.load(path).graph
    sizes = {w.name: math.prod(w.dims) for w in graph.initializer if len(w.dims) > 1}
    return sum(sizes.get(name, 0) for node in graph.node for name in node.input)


def _check_kernels(path: Path) -> str:
    """Against fresh exports of the architecture that the file names: an untrained one first, in
    which equal convolutions of one map are one, then one whose numbers all differ."""
    if (key := _metadata(path).get("architecture")) is None:
        raise _UncheckedError("the file names no architecture")
    try:
        network = _fresh_network(key)
    except UserError as error:
        raise _UncheckedError(str(error)) from error
    count = _kernel_numbers(path)
    expected = _exported_kernel_numbers(network)
    if count != expected:
        _nudge(network)
        expected = _exported_kernel_numbers(network)
    if count != expected:
        raise _FailedError(f"expected {expected:,} numbers in the kernels of {key}, got {count:,}")
    return (
        f"{count:,} numbers in kernels, as {key} has them; "
        f"{count_parameters(network):,} parameters with biases and norms"
    )


def _exported_kernel_numbers(network: FaceNetwork) -> int:
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(network, Path(folder) / "model.onnx", metadata={})
        return _kernel_numbers(Path(folder) / "model.onnx")
