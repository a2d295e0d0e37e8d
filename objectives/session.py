"""Opening exported networks: what their input and outputs are called and how they are loaded.

An exported network takes "images", float32 (B, 3, H, W), BGR in 0..255, H and W multiples of 32,
and gives "boxes" (B, N, 4), corners in pixels, and "scores" (B, N) in 0..1.
"""

from pathlib import Path

import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import (
    Fail,
    InvalidArgument,
    InvalidGraph,
    InvalidProtobuf,
)

from data.errors import UserError

INPUT_NAME = "images"
OUTPUT_NAMES = ("boxes", "scores")

ONNX_ERRORS = (Fail, InvalidArgument, InvalidGraph, InvalidProtobuf)


def load_session(network: str | bytes, *, threads: int) -> onnxruntime.InferenceSession:
    """A session on the CPU of a file's path or of a graph's bytes, whatever the graph takes.

    All that is timed or run here is loaded in this way: `threads` threads in an operator, 0 for
    all cores, and operators one after another.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only: they are raised, warnings are for the exporter
    return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])


def open_session(onnx: Path, *, threads: int) -> onnxruntime.InferenceSession:
    """The session of an exported network, loaded as by `load_session`.

    Raises:
        ValueError: threads is negative.
        UserError: the file is missing, is not ONNX, or is not a network exported by this project.
    """
    if threads < 0:
        raise ValueError(f"threads must be 0 or more, got {threads}")
    if not onnx.is_file():
        raise UserError(f"there is no file {onnx}; give the path of an exported model.onnx")
    try:
        session = load_session(str(onnx), threads=threads)
    except ONNX_ERRORS as error:
        raise UserError(
            f"{onnx} is not a readable ONNX file; export the network again with `export`"
        ) from error
    inputs = [node.name for node in session.get_inputs()]
    outputs = [node.name for node in session.get_outputs()]
    if inputs != [INPUT_NAME] or outputs != list(OUTPUT_NAMES):
        raise UserError(
            f"{onnx} is not a face detector exported by this project: expected input "
            f"{INPUT_NAME} and outputs {', '.join(OUTPUT_NAMES)}, found input "
            f"{', '.join(inputs)} and outputs {', '.join(outputs)}; use `export` to make one"
        )
    return session
