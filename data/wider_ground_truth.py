"""Which validation faces of WIDER FACE count in its easy, medium and hard subset.

The ground-truth folder of the evaluation toolbox holds the annotation, wider_face_val.mat, and a
file a subset that lists the faces which count; every other face is ignored there.
Shape letters: N faces of an image, C of them count in a subset.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import UserError
from data.mat_files import mat_tables, unsound_mat

SUBSETS = ("easy", "medium", "hard")

_ANNOTATION = "wider_face_val.mat"
_KIND = "WIDER FACE ground truth"
_LARGEST = 1e6  # pixels: no image is that wide; refuses nan and infinity too


@dataclass(frozen=True, slots=True, eq=False)
class CountedFaces:
    """The annotated faces of one image.

    boxes_xywh: (N, 4) float64, pixels, as annotated. counted: for each of SUBSETS the indices
    (C,) of the faces that count, each once.
    """

    boxes_xywh: NDArray[np.float64]
    counted: dict[str, NDArray[np.int64]]


def read_ground_truth(folder: Path) -> dict[str, CountedFaces]:
    """The faces of every validation image by its name, 'event/file.jpg' as in WiderSource.

    Raises:
        UserError: the folder or one of its four files is missing, damaged, or of another set.
    """
    paths = {subset: folder / f"wider_{subset}_val.mat" for subset in SUBSETS}
    annotation = folder / _ANNOTATION
    missing = [path.name for path in (annotation, *paths.values()) if not path.is_file()]
    if missing:
        raise UserError(
            f"no ground truth in {folder}: {', '.join(missing)} missing; give the folder "
            f"'ground_truth' of WIDER FACE's evaluation toolbox"
        )
    boxes = dict(_read(annotation, "face_bbx_list"))
    counted = {subset: dict(_read(path, "gt_list")) for subset, path in paths.items()}
    for subset, path in paths.items():
        if list(counted[subset]) != list(boxes):
            raise UserError(
                f"{path} lists other images than {annotation}; copy all four files anew"
            )
    return {
        name: CountedFaces(
            _boxes(cell, name, annotation),
            {
                subset: _indices(counted[subset][name], len(cell), name, path)
                for subset, path in paths.items()
            },
        )
        for name, cell in boxes.items()
    }


def _damaged(path: Path, why: str) -> UserError:
    return unsound_mat(path, _KIND, why)


def _read(path: Path, table: str) -> Iterable[tuple[str, NDArray[Any]]]:
    """Names of the images and their arrays in a table, in the file's order."""
    with mat_tables(path, _KIND, names=("event_list", "file_list", table)) as tables:
        return list(_images(tables, table))


def _images(tables: dict[str, Any], table: str) -> Iterator[tuple[str, NDArray[Any]]]:
    """Cells of events, in them cells of images; events and files are named without suffix."""
    columns = (tables[name].ravel() for name in ("event_list", "file_list", table))
    for event, files, cells in zip(*columns, strict=True):
        for file, cell in zip(files.ravel(), cells.ravel(), strict=True):
            yield f"{event.item()}/{file.item()}.jpg", cell


def _boxes(cell: NDArray[Any], name: str, path: Path) -> NDArray[np.float64]:
    if cell.ndim != 2 or cell.shape[1] != 4 or cell.dtype.kind not in "iuf":
        raise _damaged(path, f"the boxes of {name} are not four numbers a face")
    boxes_xywh = cell.astype(np.float64)
    if not (np.abs(boxes_xywh) < _LARGEST).all():
        raise _damaged(path, f"a box of {name} is not in pixels")
    return boxes_xywh


def _indices(cell: NDArray[Any], faces: int, name: str, path: Path) -> NDArray[np.int64]:
    """From 0; in the file they count from 1."""
    if cell.dtype.kind not in "iuf":
        raise _damaged(path, f"the faces of {name} are not numbers")
    numbers = cell.ravel()
    indices = numbers.astype(np.int64) - 1
    inside = ((numbers >= 1) & (numbers <= faces) & (numbers % 1 == 0)).all()
    if not inside or len(np.unique(indices)) < len(indices):
        raise _damaged(path, f"the faces of {name} are not among the {faces} annotated ones")
    return indices
