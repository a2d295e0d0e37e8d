"""How long an architecture takes on a device, as the sum of a table of its layers' times.

A table holds the time of every layer that a space can spell, for one device, number of threads
and image size, in microseconds. The layers are those of `objectives.operators`, with a tower cut
further into its layers, its attention and the convolution that predicts, which it shares with
others. So cut, `SPACE` has 1,857 different layers at one image size, 13 to 45 of which make one
of its 1.7e15 architectures: few enough to measure them all, once, in minutes. A table is
therefore complete or refused, no search ever waits for a measurement, and the table of a device
that is not at hand is a file like any other.

What follows the network, decoding the boxes, is a layer too, the same for all; suppression is
not counted, as in `objectives.latency`.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data.errors import UserError
from objectives.operators import check_image_size
from search_spaces.architecture import STAGE_STRIDES, Architecture, Head, Stage
from search_spaces.blocks import EXPANDING
from search_spaces.heads import CODE_CHANNELS
from search_spaces.space import Space

STEM, LATERAL, PREDICT, DECODE = "stem", "lateral", "predict", "decode"
BLOCK, ATTENTION, CELL, TOWER = "block", "attention", "cell", "tower"
"""Parts of a network; the last four come in kinds."""

IMAGE_CHANNELS = 3
DECODED_NUMBERS = 5
"""Four sides of a box and its score."""


class TimedLayer(NamedTuple):
    """What tells two layers apart whose times may differ.

    part: a name above. kind: of block, attention, cell or tower layer, as its gene says it.
    side: of the square input map in pixels; of a cell the largest of its three; of the decoding
    the image's. kernel_size, stride, expand_ratio: of blocks alone, 0 elsewhere.
    """

    part: str
    kind: str
    c_in: int
    c_out: int
    side: int
    kernel_size: int = 0
    stride: int = 0
    expand_ratio: int = 0

    @property
    def key(self) -> str:
        """Its name in a table: "block inverted 16-32 k3 s2 e2 at 160", "lateral 32-24 at 80"."""
        rule = f" k{self.kernel_size} s{self.stride} e{self.expand_ratio}" * (self.part == BLOCK)
        kind = f" {self.kind}" * bool(self.kind)
        return f"{self.part}{kind} {self.c_in}-{self.c_out}{rule} at {self.side}"


def timed_layers(architecture: Architecture, *, image_size: int) -> tuple[TimedLayer, ...]:
    """The layers of an architecture for square images, each as often as it runs.

    Raises:
        ValueError: image_size, in pixels, is not a positive multiple of 32.
    """
    check_image_size(image_size)
    neck = architecture.neck
    layers = [*_stem(architecture.stem_width, architecture.stem_depth, image_size)]
    c_in, side = 2 * architecture.stem_width, image_size // 4
    for stage in architecture.stages:
        layers += _stage(c_in, stage, side)
        c_in, side = stage.width, side // 2
        layers.append(TimedLayer(LATERAL, "", c_in, neck.width, side))
    layers += [_cell(neck.kind, neck.width, image_size)] * neck.repeats
    for side in _level_sides(image_size):
        layers += _tower(neck.width, architecture.head, side)
    layers.append(_decode(image_size))
    return tuple(layers)


def _stem(width: int, depth: int, image_size: int) -> Iterator[TimedLayer]:
    yield TimedLayer(STEM, "", IMAGE_CHANNELS, width, image_size)
    yield TimedLayer(BLOCK, "depthwise", width, 2 * width, image_size // 2, 3, 2, 1)
    for _ in range(depth - 1):
        yield TimedLayer(BLOCK, "depthwise", 2 * width, 2 * width, image_size // 4, 3, 1, 1)


def _stage(c_in: int, stage: Stage, side: int) -> Iterator[TimedLayer]:
    for i in range(stage.depth):
        size, stride = (side, 2) if i == 0 else (side // 2, 1)
        rule = (size, stage.kernel_size, stride, stage.expand_ratio)
        yield TimedLayer(BLOCK, stage.block, stage.width if i else c_in, stage.width, *rule)
        yield from _attention(stage.attention, stage.width, side // 2)


def _attention(kind: str, channels: int, side: int) -> Iterator[TimedLayer]:
    if kind != "none":
        yield TimedLayer(ATTENTION, kind, channels, channels, side)


def _cell(kind: str, width: int, image_size: int) -> TimedLayer:
    return TimedLayer(CELL, kind, width, width, image_size // STAGE_STRIDES[0])


def _level_sides(image_size: int) -> tuple[int, ...]:
    return tuple(image_size // stride for stride in STAGE_STRIDES)


def _tower(c_in: int, head: Head, side: int) -> Iterator[TimedLayer]:
    """The tower of one level; whether its weights are shared makes no difference to its time."""
    for _ in range(head.depth):
        yield _tower_layer(head.layer, c_in, head.width, side)
        c_in = head.width
    yield from _attention(head.attention, c_in, side)
    yield TimedLayer(PREDICT, "", c_in, CODE_CHANNELS, side)


def _tower_layer(kind: str, c_in: int, c_out: int, side: int) -> TimedLayer:
    """A layer of a tower; the depthwise one is a block of stages too, and measured as such."""
    if kind == "depthwise":
        return TimedLayer(BLOCK, kind, c_in, c_out, side, 3, 1, 1)
    return TimedLayer(TOWER, kind, c_in, c_out, side)


def _decode(image_size: int) -> TimedLayer:
    return TimedLayer(DECODE, "", CODE_CHANNELS, DECODED_NUMBERS, image_size)


# All layers of a space.


class _Genes:
    """The choices of a space by the name of their gene."""

    def __init__(self, space: Space) -> None:
        self._choices = {gene.name: gene.choices for gene in space.genes}

    def words(self, name: str) -> tuple[str, ...]:
        return tuple(str(choice) for choice in self._choices[name])

    def numbers(self, name: str) -> tuple[int, ...]:
        return tuple(int(choice) for choice in self._choices[name])


def space_layers(space: Space, *, image_size: int) -> tuple[TimedLayer, ...]:
    """The different layers of all architectures of a space.

    Raises:
        ValueError: image_size, in pixels, is not a positive multiple of 32.
    """
    check_image_size(image_size)
    genes = _Genes(space)
    stem_widths = genes.numbers("stem_width")
    layers: list[TimedLayer] = []
    for width in stem_widths:
        layers += _stem(width, max(genes.numbers("stem_depth")), image_size)
    c_ins, side = tuple(2 * width for width in stem_widths), image_size // 4
    for stride in STAGE_STRIDES:
        for stage in _stages_of(genes, f"stage{stride}"):
            layers += [layer for c_in in c_ins for layer in _stage(c_in, stage, side)]
        c_ins, side = genes.numbers(f"stage{stride}_width"), side // 2
        layers += [
            TimedLayer(LATERAL, "", c_in, width, side)
            for c_in in c_ins
            for width in genes.numbers("neck_width")
        ]
    layers += [
        _cell(kind, width, image_size)
        for kind in genes.words("neck_kind")
        for width in genes.numbers("neck_width")
    ]
    for head in _heads_of(genes):
        for width in genes.numbers("neck_width"):
            for side in _level_sides(image_size):
                layers += _tower(width, head, side)
    layers.append(_decode(image_size))
    return tuple(dict.fromkeys(layers))


def _stages_of(genes: _Genes, prefix: str) -> Iterator[Stage]:
    """Stages that hold all layers of a stage: each block and each attention at each width."""
    depth = max(genes.numbers(f"{prefix}_depth"))
    for block in genes.words(f"{prefix}_block"):
        ratios = genes.numbers(f"{prefix}_expand_ratio") if block in EXPANDING else (1,)
        for width in genes.numbers(f"{prefix}_width"):
            for kernel_size in genes.numbers(f"{prefix}_kernel_size"):
                for ratio in ratios:
                    for attention in genes.words(f"{prefix}_attention"):
                        yield Stage(block, depth, width, kernel_size, ratio, attention)


def _heads_of(genes: _Genes) -> Iterator[Head]:
    """Heads that hold all layers of a tower."""
    sharing = genes.words("head_sharing")[0]
    for attention in genes.words("head_attention"):
        for depth in genes.numbers("head_depth"):
            if depth == 0:
                yield Head(sharing, "none", 0, 0, attention)
                continue
            for layer in genes.words("head_layer"):
                for width in genes.numbers("head_width"):
                    yield Head(sharing, layer, depth, width, attention)


# Tables.


@dataclass(frozen=True, slots=True)
class TableError:
    """How far the sums of a table are from whole networks that were measured on its device.

    spearman: correlation of the two orders. median_error: of |sum / measured - 1|. bias: median
    of sum / measured - 1.
    """

    architectures: int
    spearman: float
    median_error: float
    bias: float

    @property
    def text(self) -> str:
        """For people."""
        return (
            f"Spearman's correlation {self.spearman:.3f} and a median error of "
            f"{self.median_error:.1%} (median difference {self.bias:+.1%}) "
            f"with {self.architectures} networks measured whole"
        )


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """Times of layers on one device.

    device: its name, for people and to tell tables apart. threads: of one inference.
    image_size: side of the square image in pixels. runtime: what ran the layers, with version.
    entries: key of a layer -> microseconds, median of its runs. error: None while not known.

    Raises:
        ValueError: a value is out of range.
    """

    device: str
    threads: int
    image_size: int
    runtime: str
    entries: Mapping[str, float]
    error: TableError | None = None

    def __post_init__(self) -> None:
        check_image_size(self.image_size)
        if not self.device or self.threads < 1:
            raise ValueError(
                "device must have a name and threads must be 1 or more, "
                f"got {self.device!r} and {self.threads}"
            )
        for key, value in self.entries.items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"time of {key!r} must be 0 or more microseconds, got {value}")

    @property
    def fingerprint(self) -> str:
        """Hash of everything but the error: equal for tables that give equal sums."""
        facts = self.to_json() | {"error": None}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def latency_us(self, architecture: Architecture) -> float:
        """Microseconds that one image takes, decoding included.

        Raises:
            UserError: a layer of the architecture is not in the table.
        """
        layers = timed_layers(architecture, image_size=self.image_size)
        self.require(layers)
        return math.fsum(self.entries[layer.key] for layer in layers)

    def missing(self, layers: Iterable[TimedLayer]) -> tuple[TimedLayer, ...]:
        """Those of the layers that the table has no time of, each once."""
        return tuple(x for x in dict.fromkeys(layers) if x.key not in self.entries)

    def require(self, layers: Iterable[TimedLayer]) -> None:
        """Nothing when the table has all the layers.

        Raises:
            UserError: names the first one that it has not.
        """
        missing = self.missing(layers)
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UserError(
                f"the latency table of {self.device!r} has no block {missing[0].key!r}{more}; "
                "measure what is missing on that device with: python run_search.py latency-table "
                f"--image-size {self.image_size} --threads {self.threads} --output FILE"
            )

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return {**asdict(self), "entries": dict(self.entries)}


def load_latency_table(
    path: Path, *, device: str | None = None, image_size: int | None = None
) -> LatencyTable:
    """The table of a file, which another device may have written.

    The file is JSON: {"device": "name", "threads": 1, "image_size": 640, "runtime": "any text",
    "entries": {"stem 3-16 at 640": 812.5, ...}}, in microseconds; "error" and other fields are
    optional.

    device, image_size: what the table must be of, where given.

    Raises:
        UserError: the file is missing or is no such table, or is of another device or image size.
    """
    if not path.is_file():
        raise UserError(
            f"there is no latency table {path}; "
            f"make it with: python run_search.py latency-table --output {path}"
        )
    table = _parse(path)
    if device is not None and table.device != device:
        raise UserError(
            f"{path} is the latency table of {table.device!r}, not of {device!r}; "
            "give the table of that device, or its name with --device-name"
        )
    if image_size is not None and table.image_size != image_size:
        raise UserError(
            f"{path} is a latency table for images of {table.image_size} px, not of "
            f"{image_size} px; measure one with --image-size {image_size}"
        )
    return table


def _parse(path: Path) -> LatencyTable:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        error = facts.get("error")
        return LatencyTable(
            device=str(facts["device"]),
            threads=int(facts["threads"]),
            image_size=int(facts["image_size"]),
            runtime=str(facts["runtime"]),
            entries={str(key): float(value) for key, value in facts["entries"].items()},
            error=None if error is None else TableError(**error),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as problem:
        raise UserError(
            f"{path} is not a latency table ({type(problem).__name__}: {problem}); "
            f"make one with: python run_search.py latency-table --output {path}"
        ) from problem
