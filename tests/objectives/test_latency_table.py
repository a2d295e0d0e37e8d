"""Sums of blocks, and tables that do not fit."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.errors import UserError
from data.files import write_json
from objectives.latency_table import (
    LatencyTable,
    TableError,
    TimedLayer,
    load_latency_table,
    space_layers,
    timed_layers,
)
from search_spaces.architecture import Architecture
from search_spaces.space import SPACE, Gene, Space
from tests.objectives.drawn_architectures import random_architectures
from tests.objectives.made_up_table import made_up_table, made_up_us

ARCHITECTURE = Architecture.from_key(
    "stem8x2_inverted.16x2k3e2.se-depthwise.32x1k5e1.none-residual.48x1k3e1.none"
    "_fpn.24x2_shared.grouped.32x1.eca"
)
ERROR = TableError(architectures=50, spearman=0.97, median_error=0.05, bias=-0.02)


@pytest.fixture(scope="module")
def table() -> LatencyTable:
    return made_up_table()


def test_an_architecture_is_the_layers_it_runs() -> None:
    keys = [layer.key for layer in timed_layers(ARCHITECTURE, image_size=64)]
    towers = [
        f"{layer} at {side}"
        for side in (8, 4, 2)
        for layer in ("tower grouped 24-32", "attention eca 32-32", "predict 32-6")
    ]
    assert keys == [
        "stem 3-8 at 64",
        "block depthwise 8-16 k3 s2 e1 at 32",
        "block depthwise 16-16 k3 s1 e1 at 16",
        "block inverted 16-16 k3 s2 e2 at 16",
        "attention se 16-16 at 8",
        "block inverted 16-16 k3 s1 e2 at 8",
        "attention se 16-16 at 8",
        "lateral 16-24 at 8",
        "block depthwise 16-32 k5 s2 e1 at 8",
        "lateral 32-24 at 4",
        "block residual 32-48 k3 s2 e1 at 4",
        "lateral 48-24 at 2",
        "cell fpn 24-24 at 8",
        "cell fpn 24-24 at 8",
        *towers,
        "decode 6-5 at 64",
    ]


def test_a_latency_is_the_sum_of_the_entries(table: LatencyTable) -> None:
    for architecture in random_architectures(20, seed=0):
        layers = timed_layers(architecture, image_size=64)
        assert table.latency_us(architecture) == pytest.approx(sum(map(made_up_us, layers)))


def test_one_entry_counts_as_often_as_its_layer_runs(table: LatencyTable) -> None:
    runs = Counter(layer.key for layer in timed_layers(ARCHITECTURE, image_size=64))
    assert runs["attention se 16-16 at 8"] == 2
    for key, count in runs.items():
        slower = replace(table, entries={**table.entries, key: table.entries[key] + 10})
        added = slower.latency_us(ARCHITECTURE) - table.latency_us(ARCHITECTURE)
        assert added == pytest.approx(10 * count)


def test_sharing_weights_takes_the_same_time(table: LatencyTable) -> None:
    other = replace(ARCHITECTURE, head=replace(ARCHITECTURE.head, sharing="per_level"))
    assert table.latency_us(other) == table.latency_us(ARCHITECTURE)


def test_the_space_has_every_layer_of_its_architectures(table: LatencyTable) -> None:
    for architecture in random_architectures(200, seed=1):
        assert not table.missing(timed_layers(architecture, image_size=64))


def test_every_layer_of_a_space_is_of_one_of_its_architectures() -> None:
    space = Space([Gene(gene.name, gene.choices[:2]) for gene in SPACE.genes])
    generator = np.random.default_rng(0)
    seen: set[TimedLayer] = set()
    for _ in range(1500):
        architecture = space.decode(space.random_genotype(generator))
        seen.update(timed_layers(architecture, image_size=96))
    layers = space_layers(space, image_size=96)
    assert len(layers) == len(set(layers))
    assert set(layers) == seen


def test_layers_have_keys_of_their_own() -> None:
    layers = space_layers(SPACE, image_size=640)
    assert len({layer.key for layer in layers}) == len(layers) == 1857


def test_a_missing_block_is_named_with_what_to_do(table: LatencyTable) -> None:
    gone = ("lateral 16-24 at 8", "cell fpn 24-24 at 8")
    holed = replace(table, entries={k: v for k, v in table.entries.items() if k not in gone})
    with pytest.raises(UserError, match=r"'phone' has no block 'lateral 16-24 at 8' and 1 more;"):
        holed.latency_us(ARCHITECTURE)
    with pytest.raises(UserError, match=r"latency-table --image-size 64 --threads 1 --output"):
        holed.latency_us(ARCHITECTURE)


def test_a_table_comes_back_from_its_file(table: LatencyTable, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    for written in (table, replace(table, error=ERROR)):
        write_json(path, {"date": "of a record", **written.to_json()})
        assert load_latency_table(path, device="phone", image_size=64) == written


def test_the_fingerprint_is_of_what_makes_the_sums(table: LatencyTable) -> None:
    key = next(iter(table.entries))
    assert replace(table, error=ERROR).fingerprint == table.fingerprint
    assert replace(table, device="other").fingerprint != table.fingerprint
    changed = replace(table, entries={**table.entries, key: 0.5})
    assert changed.fingerprint != table.fingerprint
    turned = replace(table, entries=dict(reversed(list(table.entries.items()))))
    assert turned.fingerprint == table.fingerprint


def test_a_table_of_something_else_is_refused(table: LatencyTable, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    write_json(path, table.to_json())
    with pytest.raises(UserError, match="latency table of 'phone', not of 'laptop'"):
        load_latency_table(path, device="laptop")
    with pytest.raises(UserError, match="for images of 64 px, not of 640 px"):
        load_latency_table(path, image_size=640)
    with pytest.raises(UserError, match=r"there is no latency table .*none\.json; make it with"):
        load_latency_table(tmp_path / "none.json")


@pytest.mark.parametrize(
    "change",
    [
        {"entries": {"stem 3-8 at 64": -1.0}},
        {"entries": {"stem 3-8 at 64": float("nan")}},
        {"entries": {"stem 3-8 at 64": "fast"}},
        {"entries": [1.0]},
        {"threads": 0},
        {"image_size": 65},
        {"device": ""},
        {"error": {"spearman": 1.0}},
    ],
)
def test_a_file_that_is_no_table_is_refused(
    table: LatencyTable, tmp_path: Path, change: dict[str, Any]
) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps(table.to_json() | change))
    with pytest.raises(UserError, match=r"table\.json is not a latency table"):
        load_latency_table(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "no table"])
def test_a_file_of_anything_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(UserError, match="is not a latency table"):
        load_latency_table(tmp_path / "table.json")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not a latency table"):
        load_latency_table(tmp_path / "table.json")


def test_the_error_is_told_in_words() -> None:
    assert "0.970" in ERROR.text
    assert "5.0% (median difference -2.0%) with 50 networks" in ERROR.text
