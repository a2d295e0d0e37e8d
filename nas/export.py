"""Writing a network as one ONNX file that needs nothing of this project to run.

The file takes float32 images (B, 3, H, W), BGR in 0..255, of any batch and of sides that are
multiples of 32, and gives decoded boxes (B, N, 4), corners in pixels, and scores (B, N).

torch's tracing exporter is used, not the newer one built on torch.export: the graphs run equally
fast, but tracing takes half a second where torch.export takes twelve, and folds every batch norm
into its convolution. The networks have no data-dependent branches for tracing to miss, and each
file is compared with torch at sizes it was not traced at.
"""

import copy
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxscript import optimizer
from torch import Tensor, nn

from data.files import sha256_of, whole_file
from data.quantities import SIZE_MULTIPLE
from nas.records import CHECKOUT, SCHEMA_VERSION, commit_of
from objectives.session import INPUT_NAME, OUTPUT_NAMES, open_session
from search_spaces.face_network import FaceNetwork

OPSET = 18
TRACED_SHAPE = (2, 3, 96, 128)
CHECK_SHAPES = ((1, 64, 64), (1, 256, 256), (2, 96, 160), (3, 224, 32))
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written and how closely it agrees with torch.

    score_difference: largest difference of a score. box_difference: largest difference of a box
    coordinate, as a share of the image's longer side. checked_shapes: the (B, H, W) compared.
    """

    file_bytes: int
    sha256: str
    opset: int
    nodes: int
    score_difference: float
    box_difference: float
    checked_shapes: tuple[tuple[int, int, int], ...]

    @property
    def max_difference(self) -> float:
        """The larger of the two differences, which the export keeps to at most 1e-4."""
        return max(self.score_difference, self.box_difference)

    def to_json(self) -> dict[str, Any]:
        """The fields by name, and the larger difference."""
        return asdict(self) | {"max_difference": self.max_difference}


class DecodedDetector(nn.Module):
    """A detector with its decoding: images -> (boxes (B, N, 4), scores (B, N))."""

    def __init__(self, network: FaceNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.code.decode(self.network(images))


def export_onnx(
    model: FaceNetwork,
    path: Path,
    *,
    metadata: Mapping[str, str],
    check_shapes: Sequence[tuple[int, int, int]] = CHECK_SHAPES,
) -> ExportReport:
    """Write a network as ONNX, whole or not at all, after comparing it with torch.

    Equal weights and metadata give equal files. The model is left as it was. `metadata` is kept
    in the file beside the architecture's key, the strides, the input convention and the commit.

    Raises:
        ValueError: metadata would replace one of those, or there is no shape to check.
        RuntimeError: ONNX Runtime and torch differ by more than 1e-4 in a score, or by more than
            1e-4 of the image's longer side in a box; nothing is written.
    """
    if not check_shapes:
        raise ValueError("check_shapes must not be empty")
    facts = _facts(model)
    if taken := sorted(facts.keys() & metadata.keys()):
        raise ValueError(f"metadata must not name {', '.join(taken)}: the exporter writes them")
    decoded = DecodedDetector(copy.deepcopy(model)).cpu().float().eval()
    with whole_file(path) as temporary:
        _trace(decoded, temporary)
        nodes = _finish(temporary, facts | dict(metadata))
        differences = [_compare(decoded, temporary, shape) for shape in check_shapes]
        file_bytes, sha256 = temporary.stat().st_size, sha256_of(temporary)
    scores, boxes = (max(column) for column in zip(*differences, strict=True))
    return ExportReport(
        file_bytes=file_bytes,
        sha256=sha256,
        opset=OPSET,
        nodes=nodes,
        score_difference=scores,
        box_difference=boxes,
        checked_shapes=tuple(check_shapes),
    )


def _facts(model: FaceNetwork) -> dict[str, str]:
    """What every file says about itself."""
    return {
        "schema_version": str(SCHEMA_VERSION),
        "architecture": model.key,
        "strides": json.dumps(model.code.strides),
        "input": f"float32 BGR 0..255, (B, 3, H, W), H and W multiples of {SIZE_MULTIPLE}",
        "outputs": "boxes: x1, y1, x2, y2 in pixels; scores: 0..1; before suppression",
        "commit": commit_of(CHECKOUT) or "unknown",
    }


def _trace(decoded: DecodedDetector, target: Path) -> None:
    image_axes = {0: "batch", 2: "height", 3: "width"}
    axes = {INPUT_NAME: image_axes} | {n: {0: "batch", 1: "positions"} for n in OUTPUT_NAMES}
    with warnings.catch_warnings():
        # Tracing is announced to end in a later torch; the version is pinned.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            decoded,
            (torch.zeros(TRACED_SHAPE),),
            str(target),
            input_names=[INPUT_NAME],
            output_names=list(OUTPUT_NAMES),
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )


def _finish(target: Path, metadata: dict[str, str]) -> int:
    """Fold constants, add metadata in sorted order, validate; gives the number of nodes."""
    graph = optimizer.optimize(onnx.load(target), num_iterations=1)  # a second finds nothing
    onnx.helper.set_model_props(graph, dict(sorted(metadata.items())))
    onnx.checker.check_model(graph, full_check=True)
    target.write_bytes(graph.SerializeToString(deterministic=True))
    return len(graph.graph.node)


def _compare(
    decoded: DecodedDetector, onnx_file: Path, shape: tuple[int, int, int]
) -> tuple[float, float]:
    """Largest differences (scores, boxes as a share of the longer side) on random pixels."""
    batch, height, width = shape
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 3, height, width))
    images = pixels.astype(np.float32)
    with torch.no_grad():
        expected = [output.numpy() for output in decoded(torch.from_numpy(images))]
    found = open_session(onnx_file, threads=1).run(OUTPUT_NAMES, {INPUT_NAME: images})
    boxes, scores = (float(np.abs(a - b).max()) for a, b in zip(expected, found, strict=True))
    boxes /= max(height, width)
    if not (scores <= TOLERANCE and boxes <= TOLERANCE):
        raise RuntimeError(
            f"ONNX and torch must agree within {TOLERANCE}, got {scores:.2g} in scores and "
            f"{boxes:.2g} in boxes for a batch of {batch} at {height}x{width}"
        )
    return scores, boxes
