"""Detections as WIDER FACE's toolbox reads them: one text file an image, <event>/<image>.txt.

A file has a line with the image's name, a line with the number of detections, and a line
`x y width height score` for each. Shape letters: N detections of an image; a row is such a line.
"""

import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data.boxes import box_xyxy_to_xywh
from data.errors import UserError
from data.files import write_text

LAYOUT = "<event>/<image>.txt"
ARCHIVES = (".tar.xz", ".tar.gz", ".tgz", ".tar.bz2", ".tar", ".zip")

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_LARGEST = 1e6  # pixels, and scores: refuses nan and infinity too
_LARGEST_ARCHIVE = 2**30  # bytes of text in it; all of val at 750 detections an image is a tenth
_COUNT = re.compile("[0-9]{1,9}")
_BOX_DECIMALS, _SCORE_DECIMALS = 3, 9

# What the archive modules raise for a file that is cut short, damaged, encrypted or another kind.
_UNSOUND = (
    tarfile.TarError,
    zipfile.BadZipFile,
    LZMAError,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,
    NotImplementedError,
)


class Found(Protocol):
    """What a detector found in an image, as objectives.average_precision.Detections has it."""

    @property
    def boxes_xyxy(self) -> NDArray[np.float32]:
        """(N, 4), pixels."""

    @property
    def scores(self) -> NDArray[np.float32]:
        """(N,), higher is surer."""


def prediction_rows(found: Found) -> NDArray[np.float64]:
    """Rows (N, 5) x, y, width, height, score by falling score, rounded as they are written.

    Boxes to a thousandth of a pixel, scores to 1e-9: reading the file gives these numbers.
    """
    order = np.argsort(-found.scores, kind="stable")
    boxes_xywh = box_xyxy_to_xywh(found.boxes_xyxy[order].astype(np.float64))
    scores = found.scores[order].astype(np.float64)
    return np.column_stack([boxes_xywh.round(_BOX_DECIMALS), scores.round(_SCORE_DECIMALS)])


def write_predictions(folder: Path, found: Mapping[str, Found]) -> None:
    """Write one text file an image, named 'event/file.jpg' (the suffix may be missing).

    Files of the same images are replaced.

    Raises:
        ValueError: a name is not of that form, or two differ in their suffix only.
        UserError: the folder holds predictions of other images, or cannot be written.
    """
    stems = {name: _stem(name) for name in found}
    if len(set(stems.values())) < len(stems):
        raise ValueError("names must differ in more than their suffix")
    targets = {folder / f"{stem}.txt" for stem in stems.values()}
    others = [path for path in folder.rglob("*.txt") if path not in targets]
    if others:
        raise UserError(
            f"{folder} holds {len(others)} text files of something else, such as {others[0].name}; "
            f"give an empty folder"
        )
    for name, stem in stems.items():
        rows = prediction_rows(found[name]).tolist()
        lines = [stem.split("/")[1], str(len(rows)), *(" ".join(map(repr, row)) for row in rows)]
        write_text(folder / f"{stem}.txt", "\n".join(lines) + "\n")


def read_predictions(source: Path) -> dict[str, NDArray[np.float64]]:
    """Rows (N, 5) of every image by its name, 'event/file.jpg', in the order of the file.

    source: a folder or an archive (see ARCHIVES) that holds <event>/<image>.txt, at any depth;
    an archive is read in memory, nothing is unpacked. Files of other kinds and those whose name
    begins with a dot are not looked at. The event's folder and the file's name say which image
    it is; the name in its first line is not compared.

    Raises:
        UserError: nothing to read, another layout, two files of one image, or a file that is
            empty, cut short or no such text.
    """
    predictions: dict[str, NDArray[np.float64]] = {}
    for path, text in _texts(source):
        where = f"{path} in {source}"
        if len(path.parts) < 2:
            raise UserError(
                f"{where} lies in no event's folder; give the folder that holds {LAYOUT}"
            )
        name = f"{path.parts[-2]}/{path.stem}.jpg"
        if name in predictions:
            raise UserError(f"{source} has two files of {name}; keep one set of predictions in it")
        predictions[name] = _parse(text, where)
    if not predictions:
        raise UserError(f"there are no predictions in {source}; put them there as {LAYOUT}")
    return predictions


def _stem(name: str) -> str:
    """'event/file' of 'event/file.jpg'."""
    path = PurePosixPath(name)
    if len(path.parts) != 2 or str(path) != name or {"..", "/"} & {*path.parts} or "\\" in name:
        raise ValueError(f"names must be 'event/file.jpg', got {name!r}")
    return str(path.with_suffix("")) if path.suffix.lower() in _IMAGE_SUFFIXES else name


# The text of one image


def _parse(text: str, where: str) -> NDArray[np.float64]:
    lines = text.rstrip().splitlines()
    if len(lines) < 2:
        raise UserError(
            f"{where} is {'cut short' if lines else 'empty'}: expected the image's name, the "
            f"number of detections and a line for each; write it anew"
        )
    if not _COUNT.fullmatch(lines[1].strip()):
        raise UserError(
            f"{where}, line 2: expected the number of detections, got {lines[1][:80]!r}; "
            f"correct the line or write the file anew"
        )
    count, listed = int(lines[1]), lines[2:]
    if len(listed) != count:
        raise UserError(
            f"{where} says {count} detections and lists {len(listed)}; write the file anew"
        )
    if not count:
        return np.empty((0, 5))
    rows = _numbers(listed)
    if rows is None:
        number, line = next((i, line) for i, line in enumerate(listed) if _numbers([line]) is None)
        raise UserError(
            f"{where}, line {number + 3}: expected x y width height score, five numbers under "
            f"{_LARGEST:.0f}, got {line[:80]!r}; correct the line or write the file anew"
        )
    return rows


def _numbers(lines: list[str]) -> NDArray[np.float64] | None:
    """(lines, 5), or None where a line is not five numbers of sensible size."""
    fields = [line.split() for line in lines]
    if any(len(row) != 5 for row in fields):
        return None
    try:
        rows = np.array(fields, dtype=np.float64)
    except ValueError:
        return None
    return rows if (np.abs(rows) < _LARGEST).all() else None


# Folders and archives


def _texts(source: Path) -> Iterator[tuple[PurePosixPath, str]]:
    """The text files and what is in them."""
    read: Callable[[Path], Iterator[tuple[PurePosixPath, bytes]]]
    if source.is_dir():
        read = _folder_texts
    elif source.name.lower().endswith(ARCHIVES) and source.is_file():
        read = _zip_texts if source.name.lower().endswith(".zip") else _tar_texts
    else:
        what = "neither a folder nor an archive" if source.exists() else "not there"
        raise UserError(
            f"{source} is {what}; give a folder that holds {LAYOUT}, or an archive of one "
            f"({', '.join(ARCHIVES)})"
        )
    try:
        for path, content in read(source):
            yield path, content.decode("utf-8-sig", errors="replace")
    except _UNSOUND as error:
        raise UserError(
            f"cannot read the predictions in {source} ({error}); copy it anew"
        ) from error


def _is_text(path: PurePosixPath) -> bool:
    return path.suffix.lower() == ".txt" and not path.name.startswith(".")


def _folder_texts(folder: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    for file in sorted(folder.rglob("*")):
        path = PurePosixPath(file.relative_to(folder).as_posix())
        if _is_text(path):
            yield path, file.read_bytes()


def _tar_texts(archive: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    with tarfile.open(archive) as tar:
        size_bytes = 0
        for member in tar:
            path = PurePosixPath(member.name)
            if not _is_text(path):
                continue
            content = tar.extractfile(member) if member.isfile() else None
            if content is None:
                raise UserError(f"{archive} holds {path}, which is not a file; pack it anew")
            size_bytes = _within_limit(size_bytes + member.size, archive)
            yield path, content.read()


def _zip_texts(archive: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    with zipfile.ZipFile(archive) as packed:
        size_bytes = 0
        for member in packed.infolist():
            path = PurePosixPath(member.filename)
            if _is_text(path) and not member.is_dir():
                size_bytes = _within_limit(size_bytes + member.file_size, archive)
                yield path, packed.read(member)


def _within_limit(size_bytes: int, archive: Path) -> int:
    if size_bytes > _LARGEST_ARCHIVE:
        raise UserError(
            f"{archive} unpacks to over {_LARGEST_ARCHIVE / 1e9:.0f} GB of text, more than any "
            f"set of predictions; give a folder instead if it is one"
        )
    return size_bytes
