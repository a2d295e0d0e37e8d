"""Measuring a latency table on this machine, and how far its sums are from whole networks.

A layer is not timed alone: ONNX Runtime keeps maps of 16 channels and more in blocks of channels,
and a graph that begins and ends with a layer pays for the change of order at both ends, which a
network pays nowhere or once. So a layer stands between two convolutions, as it does in a network:
one makes its input from a map of one channel, one looks at one position of its output. What the
same graph takes without the layer is subtracted. The changes of order that a layer does force on
its neighbours, an attention's for instance, are in its time.

Each run of the graph with the layer is followed by one without, and the median of the differences
counts, so that a processor that slows down for a while slows both.
"""

import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxscript import optimizer
from scipy.stats import spearmanr
from torch import Tensor, nn

from data.errors import UserError
from data.files import write_json
from data.progress import Progress, silent
from nas.export import OPSET, export_onnx
from nas.records import cpu_model, package_version, record_header
from nas.supernet_training import feasible_pool
from objectives.latency import measure_latency
from objectives.latency_table import (
    ATTENTION,
    BLOCK,
    CELL,
    DECODE,
    LATERAL,
    PREDICT,
    STEM,
    TOWER,
    LatencyTable,
    TableError,
    TimedLayer,
    load_latency_table,
    space_layers,
)
from objectives.limits import Limits
from objectives.session import load_session
from search_spaces.architecture import STAGE_STRIDES, Architecture
from search_spaces.attention import ATTENTION as ATTENTION_MODULES
from search_spaces.blocks import BLOCKS, conv_norm_act
from search_spaces.codes import AnchorFreeCode
from search_spaces.heads import HEAD_LAYERS
from search_spaces.necks import CELLS
from search_spaces.network import build
from search_spaces.space import Space

Measure = Callable[[TimedLayer], float]
"""Microseconds that a layer takes."""

NetworkMeasure = Callable[[Architecture, LatencyTable], float]
"""Microseconds that a whole network takes, with a table's image size and threads."""

RUNS, WARMUP = 30, 3
NETWORK_RUNS = 50
CHECKED_NETWORKS = 12
LOOKED_AT_CHANNELS = 16
WRITE_EVERY = 25
"""Layers measured between two times that the file is written."""


# Layers as modules.


class _Stem(nn.Module):
    """The scaling of pixels and the first convolution."""

    def __init__(self, layer: TimedLayer) -> None:
        super().__init__()
        self.conv = conv_norm_act(layer.c_in, layer.c_out, 3, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        y: Tensor = self.conv((images - 127.5) / 64)
        return y


class _Cell(nn.Module):
    """A fusion cell that takes its three levels one by one."""

    def __init__(self, layer: TimedLayer) -> None:
        super().__init__()
        self.cell = CELLS[layer.kind](layer.c_in)

    def forward(self, *levels: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.cell(list(levels)))


class _Decode(nn.Module):
    """Three levels to boxes and scores."""

    def forward(self, *levels: Tensor) -> tuple[Tensor, ...]:
        return AnchorFreeCode().decode(levels)


def _block(layer: TimedLayer) -> nn.Module:
    return BLOCKS[layer.kind](
        layer.c_in,
        layer.c_out,
        kernel_size=layer.kernel_size,
        stride=layer.stride,
        expand_ratio=layer.expand_ratio,
    )


_MAKE: dict[str, Callable[[TimedLayer], nn.Module]] = {
    STEM: _Stem,
    BLOCK: _block,
    ATTENTION: lambda layer: ATTENTION_MODULES[layer.kind](layer.c_in),
    LATERAL: lambda layer: conv_norm_act(layer.c_in, layer.c_out, 1),
    CELL: _Cell,
    TOWER: lambda layer: HEAD_LAYERS[layer.kind](layer.c_in, layer.c_out),
    PREDICT: lambda layer: nn.Conv2d(layer.c_in, layer.c_out, 1),
    DECODE: lambda _layer: _Decode(),
}


def build_layer(layer: TimedLayer) -> nn.Module:
    """A layer as the networks have it, freshly initialised, ready to run."""
    return _MAKE[layer.part](layer).eval()


def input_shapes(layer: TimedLayer) -> tuple[tuple[int, int, int], ...]:
    """Channels, height and width of each map that a layer reads."""
    if layer.part == DECODE:
        sides = [layer.side // stride for stride in STAGE_STRIDES]
    elif layer.part == CELL:
        sides = [layer.side * STAGE_STRIDES[0] // stride for stride in STAGE_STRIDES]
    else:
        sides = [layer.side]
    return tuple((layer.c_in, side, side) for side in sides)


# Layers between convolutions.


class _Between(nn.Module):
    """A layer, or none, between convolutions that make its inputs and look at its outputs.

    Shape: as many maps (1, 1, H, W) as the layer reads -> as many (1, 16, 1, 1) as it gives.
    The first convolution is followed by a ReLU, as the ones before most layers are: without it
    an addition at the start of a layer would become a part of it.
    """

    def __init__(self, layer: nn.Module | None, shapes: Sequence[tuple[int, int, int]]) -> None:
        super().__init__()
        self.make = nn.ModuleList(nn.Conv2d(1, c, 1, bias=False) for c, _, _ in shapes)
        self.layer = layer
        inputs = [torch.zeros(1, *shape) for shape in shapes]
        self.look = nn.ModuleList(
            nn.Conv2d(y.shape[1], LOOKED_AT_CHANNELS, 1, stride=y.shape[2], bias=False)
            for y in self._outputs(inputs)
        )

    def _outputs(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        if self.layer is None:
            return inputs
        with torch.no_grad():
            outputs = self.layer(*inputs)
        return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        made = [make(x).relu() for make, x in zip(self.make, inputs, strict=True)]
        outputs = self._outputs(made)
        return tuple(look(y) for look, y in zip(self.look, outputs, strict=True))


class _Timed(NamedTuple):
    """A graph that ONNX Runtime has loaded, and what it is fed."""

    session: onnxruntime.InferenceSession
    feed: dict[str, NDArray[np.float32]]

    def run_us(self) -> float:
        start = time.perf_counter()
        self.session.run(None, self.feed)
        return 1e6 * (time.perf_counter() - start)


def _load(module: nn.Module, shapes: Sequence[tuple[int, int, int]], *, threads: int) -> _Timed:
    names = [f"x{i}" for i in range(len(shapes))]
    session = load_session(_trace(module, shapes, names), threads=threads)
    generator = np.random.default_rng(0)
    feed = {
        name: generator.random((1, *shape), np.float32)
        for name, shape in zip(names, shapes, strict=True)
    }
    return _Timed(session, feed)


def _trace(module: nn.Module, shapes: Sequence[tuple[int, int, int]], names: list[str]) -> bytes:
    """A module as ONNX, by the way of `nas.export`: any height and width, constants folded."""
    inputs = tuple(torch.zeros(1, *shape) for shape in shapes)
    axes = {name: {0: "batch", 2: f"height{name}", 3: f"width{name}"} for name in names}
    with warnings.catch_warnings(), tempfile.NamedTemporaryFile(suffix=".onnx") as written:
        # Tracing is announced to end in a later torch; the version is pinned. What tracing warns
        # of, a shape read as a number, is right for the one shape that is timed.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            inputs,
            written.name,
            input_names=names,
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
        graph = optimizer.optimize(onnx.load(written.name), num_iterations=1)
    serialized: bytes = graph.SerializeToString()
    return serialized


class LayerTimer:
    """Times layers on this machine's CPU with ONNX Runtime.

    runs: measured ones of a layer, after WARMUP more.

    Raises:
        ValueError: threads or runs is below 1.
    """

    def __init__(self, *, threads: int = 1, runs: int = RUNS) -> None:
        if threads < 1 or runs < 1:
            raise ValueError(f"threads and runs must be 1 or more, got {threads} and {runs}")
        self._threads = threads
        self._runs = runs
        self._without: dict[tuple[tuple[int, int, int], ...], _Timed] = {}

    def __call__(self, layer: TimedLayer) -> float:
        """Median microseconds; 0 for a layer too small to be told from the noise."""
        shapes = input_shapes(layer)
        if layer.part in (STEM, DECODE):  # the ends of a network: nothing before, nothing after
            alone = _load(build_layer(layer), shapes, threads=self._threads)
            return self._median(alone.run_us)
        narrow = [(1, height, width) for _, height, width in shapes]
        between = _Between(build_layer(layer), shapes)
        timed = _load(between, narrow, threads=self._threads)
        if shapes not in self._without:
            plain = _Between(None, shapes)
            self._without[shapes] = _load(plain, narrow, threads=self._threads)
        without = self._without[shapes]
        return max(0.0, self._median(lambda: timed.run_us() - without.run_us()))

    def _median(self, run: Callable[[], float]) -> float:
        return float(np.median([run() for _ in range(WARMUP + self._runs)][WARMUP:]))


@contextmanager
def pinned(cores: int) -> Iterator[None]:
    """The calling thread, and those it starts, stay on the first `cores` of its cores.

    Where the system cannot do that, nothing happens.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, sorted(before)[:cores])
        yield
    finally:
        os.sched_setaffinity(0, before)


# Tables.


def empty_table(*, image_size: int, threads: int = 1, device: str | None = None) -> LatencyTable:
    """The table of this machine before anything is measured.

    device: its name; the processor's if not said.

    Raises:
        ValueError: image_size is not a positive multiple of 32, or threads is below 1.
    """
    runtime = f"onnxruntime {package_version('onnxruntime')}"
    return LatencyTable(device or cpu_model(), threads, image_size, runtime, {})


def measure_table(
    path: Path,
    empty: LatencyTable,
    layers: Sequence[TimedLayer],
    *,
    measure: Measure | None = None,
    progress: Progress = silent,
) -> LatencyTable:
    """Complete the table of a file, or begin it: every layer that it lacks is measured once.

    Stopped at any time, it goes on from where it was. empty: says of what the table is.
    measure: by a `LayerTimer`, unless another is given.

    Raises:
        UserError: the file is no table, or one of another device, image size, number of threads
            or runtime.
    """
    table = _begun(path, empty) if path.is_file() else empty
    missing = table.missing(layers)
    done = len(layers) - len(missing)
    if not missing:
        return table
    measure = measure or LayerTimer(threads=table.threads)
    entries, record = dict(table.entries), record_header(seed=None, data_hash=None)
    table = replace(table, error=None)  # it was of fewer layers
    try:
        with pinned(table.threads):
            for count, layer in enumerate(missing):
                progress("latency table", done + count, len(layers))
                entries[layer.key] = round(measure(layer), 2)
                if (count + 1) % WRITE_EVERY == 0:
                    _write(path, replace(table, entries=entries), record)
    finally:
        table = replace(table, entries=entries)
        _write(path, table, record)
    progress("latency table", len(layers), len(layers))
    return table


def _begun(path: Path, wanted: LatencyTable) -> LatencyTable:
    table = load_latency_table(path, device=wanted.device, image_size=wanted.image_size)
    for name in ("threads", "runtime"):
        before, now = getattr(table, name), getattr(wanted, name)
        if before != now:
            raise UserError(
                f"{path} was measured with {name} {before} and cannot go on with {now}; "
                "choose another --output"
            )
    return table


def _write(path: Path, table: LatencyTable, record: dict[str, Any]) -> None:
    write_json(path, record | table.to_json())


# Whole networks.


class ComparedNetwork(NamedTuple):
    """One network by its table and by its measurement, in microseconds."""

    key: str
    table_us: float
    measured_us: float


def measure_network(architecture: Architecture, table: LatencyTable) -> float:
    """Median microseconds of an exported network, with fresh weights, on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        onnx_file = Path(folder) / "model.onnx"
        export_onnx(build(architecture), onnx_file, metadata={}, check_shapes=((1, 64, 64),))
        with pinned(table.threads):
            latency = measure_latency(
                onnx_file,
                image_size=table.image_size,
                threads=table.threads,
                runs=NETWORK_RUNS,
            )
    return 1000 * latency.p50_ms


def compare_networks(
    table: LatencyTable,
    architectures: Sequence[Architecture],
    *,
    measure: NetworkMeasure | None = None,
    progress: Progress = silent,
) -> list[ComparedNetwork]:
    """Sums of the table beside measurements of the whole networks.

    measure: `measure_network`, unless another is given.
    """
    measure = measure or measure_network
    compared = []
    for done, architecture in enumerate(architectures):
        progress("whole networks", done, len(architectures))
        measured_us = measure(architecture, table)
        compared.append(
            ComparedNetwork(architecture.key, table.latency_us(architecture), measured_us)
        )
    progress("whole networks", len(architectures), len(architectures))
    return compared


def table_error(compared: Sequence[ComparedNetwork]) -> TableError:
    """How far the sums are from the measurements.

    Raises:
        ValueError: there are fewer than three networks, too few for an order.
    """
    if len(compared) < 3:
        raise ValueError(f"compared must be 3 networks or more, got {len(compared)}")
    sums = np.array([network.table_us for network in compared])
    measured = np.array([network.measured_us for network in compared])
    off = sums / measured - 1
    return TableError(
        architectures=len(compared),
        spearman=float(spearmanr(sums, measured).statistic),
        median_error=float(np.median(np.abs(off))),
        bias=float(np.median(off)),
    )


# All of it.


def make_table(
    path: Path, empty: LatencyTable, space: Space, *, seed: int, progress: Progress = silent
) -> LatencyTable:
    """The complete table of a space on this machine, with its error, and its file.

    Stopped at any time, it goes on from where it was. empty: says of what the table is. seed: of
    the CHECKED_NETWORKS networks that keep the usual limits and give the error.

    Raises:
        UserError: the file is no table, or one of something else.
    """
    layers = space_layers(space, image_size=empty.image_size)
    table = measure_table(path, empty, layers, progress=progress)
    if table.error is None:
        limits = Limits(image_size=table.image_size)
        networks = feasible_pool(space, limits, size=CHECKED_NETWORKS, seed=seed)
        error = table_error(compare_networks(table, networks, progress=progress))
        table = replace(table, error=error)
        _write(path, table, record_header(seed=seed, data_hash=None))
    return table
