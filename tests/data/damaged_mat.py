"""Ways in which a .mat file is damaged."""

from collections.abc import Callable
from pathlib import Path

from scipy.io import loadmat, savemat

ZLIB_HEADER = b"\x78\x9c"


def compress(path: Path) -> None:
    """Keep the tables of a .mat file compressed, as MATLAB does."""
    tables = {name: table for name, table in loadmat(path).items() if not name.startswith("__")}
    savemat(path, tables, do_compression=True)


def break_header(content: bytes) -> bytes:
    assert ZLIB_HEADER in content
    return content.replace(ZLIB_HEADER, b"\0\0", 1)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _content: b"",
    "text": lambda _content: b"no MATLAB file, but text",
    "only its head": lambda content: content[:200],
    "half": lambda content: content[: len(content) // 2],
    "all but a byte": lambda content: content[:-1],
    "no zlib header": break_header,
    "wrong checksum": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
}
"""What each makes of the bytes of a compressed file."""
