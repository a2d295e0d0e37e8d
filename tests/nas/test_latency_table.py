"""Measuring tables: what is measured, how often, and what becomes of it."""

import json
import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from data.errors import UserError
from nas.latency_table import (
    CHECKED_NETWORKS,
    WARMUP,
    ComparedNetwork,
    LayerTimer,
    build_layer,
    compare_networks,
    empty_table,
    input_shapes,
    make_table,
    measure_network,
    measure_table,
    pinned,
    table_error,
)
from objectives.cost import architecture_cost, count_parameters
from objectives.latency_table import (
    LatencyTable,
    TimedLayer,
    load_latency_table,
    space_layers,
    timed_layers,
)
from search_spaces.architecture import Architecture
from search_spaces.space import SPACE
from tests.objectives.drawn_architectures import random_architectures
from tests.objectives.made_up_table import made_up_us
from tests.tiny_training import SMALLEST

EMPTY = empty_table(image_size=64, device="bench")
LAYERS = tuple(dict.fromkeys(timed_layers(SMALLEST, image_size=64)))


class Meter:
    """Measures as `made_up_us` does, and remembers what; stops before the given layer."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.measured: list[TimedLayer] = []
        self._stop_at = stop_at

    def __call__(self, layer: TimedLayer) -> float:
        if len(self.measured) == self._stop_at:
            raise KeyboardInterrupt
        self.measured.append(layer)
        return made_up_us(layer)


def made_up_network_us(architecture: Architecture, table: LatencyTable) -> float:
    """A tenth more than the sum of the layers."""
    return 1.1 * table.latency_us(architecture)


@cache
def macs_and_params(layer: TimedLayer) -> tuple[int, int]:
    with torch.device("meta"):
        module = build_layer(layer)
        inputs = [torch.zeros(1, *shape) for shape in input_shapes(layer)]
    counter = FlopCounterMode(display=False)
    with counter:
        module(*inputs)
    return counter.get_total_flops() // 2, count_parameters(module)


def test_the_layers_hold_all_products_and_weights_of_the_network() -> None:
    for drawn in random_architectures(12, seed=0):
        architecture = replace(drawn, head=replace(drawn.head, sharing="per_level"))
        cost = architecture_cost(architecture, image_size=64)
        counts = [macs_and_params(layer) for layer in timed_layers(architecture, image_size=64)]
        assert sum(macs for macs, _ in counts) == cost.macs
        assert sum(params for _, params in counts) == cost.params


def test_each_layer_is_measured_once(tmp_path: Path) -> None:
    path, meter = tmp_path / "table.json", Meter()
    first = measure_table(path, EMPTY, LAYERS[:5], measure=meter)
    table = measure_table(path, EMPTY, LAYERS, measure=meter)
    assert measure_table(path, EMPTY, LAYERS, measure=meter) == table
    assert meter.measured == list(LAYERS)
    assert first.entries.items() <= table.entries.items()
    assert load_latency_table(path) == table
    assert table.latency_us(SMALLEST) == pytest.approx(
        sum(made_up_us(layer) for layer in timed_layers(SMALLEST, image_size=64)), rel=1e-2
    )


def test_what_was_measured_before_a_stop_is_kept(tmp_path: Path) -> None:
    path, stopped, meter = tmp_path / "table.json", Meter(stop_at=3), Meter()
    with pytest.raises(KeyboardInterrupt):
        measure_table(path, EMPTY, LAYERS, measure=stopped)
    assert set(load_latency_table(path).entries) == {layer.key for layer in LAYERS[:3]}
    table = measure_table(path, EMPTY, LAYERS, measure=meter)
    assert [*stopped.measured, *meter.measured] == list(LAYERS)
    assert not table.missing(LAYERS)


def test_progress_is_told_from_where_it_goes_on(tmp_path: Path) -> None:
    path, told = tmp_path / "table.json", list[tuple[str, int, int]]()
    measure_table(path, EMPTY, LAYERS[:2], measure=Meter())
    measure_table(path, EMPTY, LAYERS, measure=Meter(), progress=lambda *step: told.append(step))
    count = len(LAYERS)
    assert told == [("latency table", done, count) for done in range(2, count + 1)]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (replace(EMPTY, device="phone"), "latency table of 'bench', not of 'phone'"),
        (replace(EMPTY, image_size=96), "images of 64 px, not of 96 px"),
        (replace(EMPTY, threads=2), "with threads 1 and cannot go on with 2"),
        (replace(EMPTY, runtime="other 2"), "cannot go on with other 2"),
    ],
)
def test_a_table_goes_on_only_as_it_began(
    tmp_path: Path, other: LatencyTable, message: str
) -> None:
    path = tmp_path / "table.json"
    measure_table(path, EMPTY, LAYERS[:2], measure=Meter())
    before = path.read_bytes()
    with pytest.raises(UserError, match=message):
        measure_table(path, other, LAYERS, measure=Meter())
    assert path.read_bytes() == before


def test_sums_that_are_right_have_no_error(tmp_path: Path) -> None:
    layers = space_layers(SPACE, image_size=64)
    table = measure_table(tmp_path / "table.json", EMPTY, layers, measure=Meter())
    networks = random_architectures(8, seed=2)
    error = table_error(compare_networks(table, networks, measure=made_up_network_us))
    assert error.architectures == 8
    assert error.spearman == pytest.approx(1)
    assert error.median_error == pytest.approx(1 - 1 / 1.1)
    assert error.bias == pytest.approx(1 / 1.1 - 1)


def test_sums_in_the_wrong_order_have_one() -> None:
    measured = [10.0, 20.0, 40.0]
    turned = [ComparedNetwork("", a, b) for a, b in zip(measured[::-1], measured, strict=True)]
    error = table_error(turned)
    assert error.spearman == pytest.approx(-1)
    assert error.median_error == pytest.approx(0.75)  # of 3, 0 and 3 / 4
    assert error.bias == pytest.approx(0)
    with pytest.raises(ValueError, match="3 networks or more, got 2"):
        table_error(turned[:2])


def test_a_made_table_is_complete_and_knows_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = Meter()
    monkeypatch.setattr("nas.latency_table.LayerTimer", lambda **_: meter)
    monkeypatch.setattr("nas.latency_table.measure_network", made_up_network_us)
    path = tmp_path / "table.json"
    table = make_table(path, EMPTY, SPACE, seed=0)
    assert not table.missing(space_layers(SPACE, image_size=64))
    assert table.error is not None
    assert table.error.architectures == CHECKED_NETWORKS
    assert load_latency_table(path) == table
    record = json.loads(path.read_text())
    assert (record["schema_version"], record["seed"], record["device"]) == (1, 0, "bench")
    assert make_table(path, EMPTY, SPACE, seed=0) == table
    assert len(meter.measured) == len(table.entries)


def test_pinning_ends_with_its_block() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no affinities")
    before = os.sched_getaffinity(0)
    with pinned(1):
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


def test_the_layer_is_what_a_run_with_it_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock by which the graph takes 7 s with the layer and 2 s without, and warming up 90 s."""
    timer = LayerTimer(runs=2)
    one_run = [0.0, 7.0, 7.0, 9.0]
    ticks = [0.0, 90.0, 90.0, 90.0] * WARMUP + one_run * 2
    monkeypatch.setattr("nas.latency_table.time.perf_counter", lambda: ticks.pop(0))
    (layer,) = [layer for layer in LAYERS if layer.part == "lateral" and layer.side == 2]
    assert timer(layer) == pytest.approx(5e6)
    assert not ticks


@pytest.mark.parametrize(("threads", "runs"), [(0, 1), (1, 0)])
def test_counts_out_of_range_are_refused(threads: int, runs: int) -> None:
    with pytest.raises(ValueError, match="threads and runs must be 1 or more"):
        LayerTimer(threads=threads, runs=runs)


@pytest.mark.slow
def test_every_kind_of_layer_can_be_timed() -> None:
    layers = {
        (layer.part, layer.kind): layer for layer in reversed(space_layers(SPACE, image_size=64))
    }
    timer = LayerTimer(runs=1)
    assert all(timer(layer) >= 0 for layer in layers.values())
    assert len(layers) == 5 + 6 + 4 + 2 + 4


@pytest.mark.slow
def test_more_work_takes_more_time() -> None:
    timer = LayerTimer(runs=10)
    light = TimedLayer("block", "depthwise", 16, 16, 8, 3, 1, 1)
    heavy = TimedLayer("block", "residual", 64, 64, 40, 5, 1, 1)
    assert 10 * timer(light) < timer(heavy)
    assert measure_network(SMALLEST, EMPTY) > timer(light)
