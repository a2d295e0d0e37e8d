"""Numbers as people write them: 285000, 285K, 1G, 16MB."""

import re

from data.errors import UserError

SIZE_MULTIPLE = 32
"""The coarsest stride: sides of images that a network sees are multiples of it, in pixels."""

_FACTORS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]?)B?", re.IGNORECASE)


def parse_quantity(text: str) -> int:
    """A positive whole number with a decimal K, M or G, and an optional B for bytes.

    Raises:
        UserError: the text is not such a number.
    """
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise UserError(f"{text!r} is not a quantity; write a number such as 285000, 285K or 16MB")
    value = round(float(match[1]) * _FACTORS[match[2].upper()])
    if value < 1:
        raise UserError(f"{text!r} is not positive; write a number such as 285000, 285K or 16MB")
    return value


def show_quantity(value: float) -> str:
    """A number with three significant digits and a decimal K, M or G."""
    value = float(f"{value:.3g}")  # rounded first: 999,600 is 1M, not 1000K
    for suffix in ("G", "M", "K"):
        if abs(value) >= _FACTORS[suffix]:
            return f"{value / _FACTORS[suffix]:g}{suffix}"
    return f"{value:.3g}"


def parse_image_size(pixels: int, *, largest: int | None = None) -> int:
    """A side that every stride divides.

    Raises:
        UserError: it is not a positive multiple of SIZE_MULTIPLE, or over the largest allowed.
    """
    if pixels < SIZE_MULTIPLE or pixels % SIZE_MULTIPLE:
        raise UserError(
            f"--image-size must be a positive multiple of {SIZE_MULTIPLE}, got {pixels}"
        )
    if largest is not None and pixels > largest:
        raise UserError(f"--image-size must be at most {largest}, got {pixels}")
    return pixels


def parse_long_side(text: str) -> int | None:
    """Pixels of an image's longer side, or None for "original".

    Raises:
        UserError: the text is neither.
    """
    if text == "original":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--image-size must be original or a number of pixels, got {text!r}")
    return int(text)
