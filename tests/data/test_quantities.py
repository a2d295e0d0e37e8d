import numpy as np
import pytest

from data.errors import UserError
from data.quantities import parse_image_size, parse_long_side, parse_quantity, show_quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("285000", 285_000),
        ("285K", 285_000),
        ("285k", 285_000),
        ("1G", 10**9),
        ("0.5G", 5 * 10**8),
        ("16MB", 16_000_000),
        (" 16 mb ", 16_000_000),
        ("1.5", 2),
        ("7B", 7),
    ],
)
def test_people_write_quantities_in_several_ways(text: str, value: int) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize("text", ["", "K", "-1", "1e9", "1,000", "16MiB", "1.", "ten", "1T", "nan"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is not a quantity; write a number such as"):
        parse_quantity(text)


@pytest.mark.parametrize("text", ["0", "0.0", "0K", "0.4"])
def test_a_quantity_is_positive(text: str) -> None:
    with pytest.raises(UserError, match="is not positive"):
        parse_quantity(text)


def test_what_is_shown_reads_back_within_three_digits() -> None:
    drawn = np.exp(np.random.default_rng(0).uniform(0, np.log(9e11), 2000)).astype(int)
    edges = [x + d for x in (10**3, 10**6, 10**9) for d in (-600, -500, -1, 0, 1, 4999, 5001)]
    for value in map(int, [*drawn, *edges]):
        shown = show_quantity(value)
        assert "e" not in shown
        assert len(shown) <= 5
        assert abs(parse_quantity(shown) - value) <= 0.005 * value


def test_a_number_that_rounds_up_to_the_next_suffix_takes_it() -> None:
    assert show_quantity(999_499) == "999K"
    assert show_quantity(999_500) == "1M"
    assert show_quantity(285_000) == "285K"
    assert show_quantity(0) == "0"


@pytest.mark.parametrize("pixels", [32, 256, 640])
def test_an_image_size_is_a_multiple_of_32(pixels: int) -> None:
    assert parse_image_size(pixels) == pixels


@pytest.mark.parametrize("pixels", [0, -32, 16, 100, 650])
def test_any_other_image_size_is_refused(pixels: int) -> None:
    with pytest.raises(UserError, match=f"must be a positive multiple of 32, got {pixels}"):
        parse_image_size(pixels)


def test_a_long_side_is_pixels_or_original() -> None:
    assert parse_long_side("original") is None
    assert parse_long_side("640") == 640


@pytest.mark.parametrize("text", ["", "0", "-5", "64.5", "Original", "640px", "²"])
def test_any_other_long_side_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="must be original or a number of pixels"):
        parse_long_side(text)
