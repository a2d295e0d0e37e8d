"""The listing of the reference architectures: complete, and true of the networks they make."""

import pytest
import torch

from nas.zoo import zoo_rows
from objectives.traced_cost import traced_peak
from search_spaces import catalogue
from search_spaces.catalogue import REFERENCES, Reference
from search_spaces.network import build
from search_spaces.space import SPACE

SMALLEST = SPACE.corner(largest=False)


def test_every_reference_has_a_row_with_the_parameters_it_claims() -> None:
    rows = zoo_rows(64)
    assert [row.name for row in rows] == list(REFERENCES)
    for row in rows:
        assert row.params == REFERENCES[row.name].params
        assert row.source == REFERENCES[row.name].source
        assert row.macs > 0
        assert row.peak_bytes >= 4 * 3 * 64 * 64


@pytest.mark.parametrize("name", REFERENCES)
def test_its_memory_is_the_best_orders_and_no_upper_bound(name: str) -> None:
    with torch.device("meta"):
        network = REFERENCES[name].make()
    peaks = [traced_peak(network, image_size=size) for size in (320, 640)]
    assert all(peak.is_exact for peak in peaks)
    assert peaks[0].peak_bytes < peaks[1].peak_bytes


def test_a_row_has_the_fields_that_are_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = Reference(make=lambda: build(SMALLEST), params=1, source="a paper")
    monkeypatch.setitem(catalogue.REFERENCES, "mine", reference)
    row = zoo_rows(64)[-1].to_json()
    assert list(row) == ["name", "params", "macs", "peak_bytes", "source"]
    assert (row["name"], row["source"]) == ("mine", "a paper")


def test_listing_draws_nothing_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    zoo_rows(64)
    assert torch.equal(before, torch.get_rng_state())


def test_a_wrong_image_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = Reference(make=lambda: build(SMALLEST), params=1, source="a paper")
    monkeypatch.setitem(catalogue.REFERENCES, "mine", reference)
    with pytest.raises(ValueError, match="image_size must be a positive multiple of 32"):
        zoo_rows(100)
