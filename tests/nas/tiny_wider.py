"""A WIDER FACE folder for the tiny detector: white 8x8 cells on black, each a face 12 px wide."""

from pathlib import Path

import numpy as np

from data.wider_ground_truth import SUBSETS
from nas.drawing import write_image
from tests.data.test_wider_ground_truth import write_mat
from tests.tiny_onnx import CELL

SIZE = 128
CELLS = {
    "0--Parade/a.jpg": [(2, 2), (6, 4), (10, 9)],
    "0--Parade/b.jpg": [(4, 4)],
    "1--Handshaking/c.jpg": [(3, 8), (9, 3)],
}
DARK = "1--Handshaking/c.jpg", (9, 3)
"""The face that cannot be seen."""

DIM = {"0--Parade/b.jpg": 128}
"""Grey levels of cells that are not white: scores must differ for the protocol."""

ABSENT = "2--Absent/d.jpg"
"""In the ground truth, but not among the images."""


def boxes_xywh(cells: list[tuple[int, int]]) -> np.ndarray:
    """The faces of cells given by row and column."""
    return np.array([[CELL * x - 2, CELL * y - 2, CELL + 4, CELL + 4] for y, x in cells])


def write_tiny_wider(root: Path) -> Path:
    """Images and annotation of a val split. Every second face is blurred (2), occlusion counts up.

    All faces can be seen but one, and in the last image a cell shines that is none.
    """
    blocks = []
    for name, cells in CELLS.items():
        image = np.zeros((SIZE, SIZE, 3), np.uint8)
        shining = [cell for cell in cells if (name, cell) != DARK]
        for y, x in [*shining, *([(13, 13)] if name == DARK[0] else [])]:
            image[CELL * y : CELL * (y + 1), CELL * x : CELL * (x + 1)] = DIM.get(name, 255)
        write_image(root / "WIDER_val" / "images" / name, image)
        blocks += [name, str(len(cells))]
        for number, box in enumerate(boxes_xywh(cells).tolist()):
            blocks.append(" ".join(map(str, [*box, 2 * (number % 2), 0, 0, 0, number % 3, 0])))
    annotation = root / "wider_face_split" / "wider_face_val_bbx_gt.txt"
    annotation.parent.mkdir(parents=True)
    annotation.write_text("\n".join(blocks) + "\n")
    return root


def write_tiny_truth(folder: Path) -> Path:
    """The ground truth: the first face of an image is easy and medium, too, all are hard."""
    folder.mkdir(parents=True)
    cells = {name.removesuffix(".jpg"): cells for name, cells in CELLS.items()}
    cells[ABSENT.removesuffix(".jpg")] = [(1, 1)]
    write_mat(
        folder / "wider_face_val.mat",
        "face_bbx_list",
        {name: boxes_xywh(some) for name, some in cells.items()},
    )
    for subset in SUBSETS:
        counted = {
            name: np.arange(1, (len(some) if subset == "hard" else 1) + 1).reshape(-1, 1)
            for name, some in cells.items()
        }
        write_mat(folder / f"wider_{subset}_val.mat", "gt_list", counted)
    return folder
