"""A detector without a network: an ONNX file that calls bright 8x8 cells faces.

For tests that need a file with the exported interface and answers that can be worked out.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

CELL = 8


def write_tiny_onnx(path: Path, *, outputs: Sequence[str] = ("boxes", "scores")) -> Path:
    """Each cell is a box 2 pixels larger than itself on every side; its score is the cell's
    mean blue value over 255."""
    constants: dict[str, NDArray[Any]] = {
        "cell": np.array([CELL, CELL], np.int64),
        "reach": np.array([-2, -2, CELL + 2, CELL + 2], np.float32),
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.int64),
        "two": np.array(2, np.int64),
        "three": np.array(3, np.int64),
        "eight": np.array(CELL, np.int64),
        "flat": np.array([0, -1], np.int64),
        "corners": np.array([1, -1, 4], np.int64),
        "white": np.array(255, np.float32),
        "last": np.array([-1], np.int64),
        "first_axis": np.array([0], np.int64),
        "blue": np.array([0], np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Gather", ["images", "blue"], ["channel"], axis=1),
        node("AveragePool", ["channel"], ["means"], kernel_shape=[8, 8], strides=[8, 8]),
        node("Div", ["means", "white"], ["shares"]),
        node("Reshape", ["shares", "flat"], [outputs[1]]),
        node("Shape", ["images"], ["shape"]),
        node("Gather", ["shape", "two"], ["height"], axis=0),
        node("Gather", ["shape", "three"], ["width"], axis=0),
        node("Range", ["zero", "height", "eight"], ["rows"]),
        node("Range", ["zero", "width", "eight"], ["columns"]),
        node("Unsqueeze", ["rows", "last"], ["rows_2d"]),
        node("Unsqueeze", ["columns", "first_axis"], ["columns_2d"]),
        node("Mul", ["rows_2d", "zero"], ["no_rows"]),
        node("Mul", ["columns_2d", "zero"], ["no_columns"]),
        node("Add", ["rows_2d", "no_columns"], ["y"]),
        node("Add", ["columns_2d", "no_rows"], ["x"]),
        node("Unsqueeze", ["x", "last"], ["x_3d"]),
        node("Unsqueeze", ["y", "last"], ["y_3d"]),
        node("Concat", ["x_3d", "y_3d", "x_3d", "y_3d"], ["places"], axis=2),
        node("Cast", ["places"], ["pixels"], to=TensorProto.FLOAT),
        node("Add", ["pixels", "reach"], ["cells"]),
        node("Reshape", ["cells", "corners"], [outputs[0]]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["B", 3, "H", "W"])],
        [
            helper.make_tensor_value_info(outputs[0], TensorProto.FLOAT, [1, "N", 4]),
            helper.make_tensor_value_info(outputs[1], TensorProto.FLOAT, ["B", "N"]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"architecture": "tiny"})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path
