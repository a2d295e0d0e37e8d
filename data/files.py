"""Files are written whole or not at all: a temporary file beside the target, then a rename."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.errors import UserError


@contextlib.contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A temporary path to write to; it becomes `target` when the block ends without an error.

    After an error, or a kill, `target` is what it was before.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    temporary = None
    try:
        with _writing_trouble(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
            os.close(handle)
            temporary = Path(name)
            yield temporary
            temporary.chmod(0o644)
            temporary.replace(target)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A temporary folder to fill; it becomes `target` when the block ends without an error.

    Raises:
        UserError: the disk is full or the folder cannot be written.
    """
    temporary = None
    try:
        with _writing_trouble(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
            yield temporary
            temporary.chmod(0o755)
            temporary.replace(target)
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _writing_trouble(target: Path) -> Iterator[None]:
    """Turns what keeps a file from being written, and a person can put right, into a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
            raise
        raise UserError(
            f"cannot write {target}: {error.strerror}; free some space or choose another folder"
        ) from error


def write_text(target: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with whole_file(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any, *, indent: int | None = 2) -> None:
    """Write JSON, whole or not at all. NaN and infinity are refused with ValueError.

    indent: spaces a level; None: all in one line, which is half as much where most are numbers.
    """
    write_text(target, json.dumps(value, indent=indent, allow_nan=False) + "\n")


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
