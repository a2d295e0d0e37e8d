"""What a network computes, operator by operator, told from its architecture alone.

The network is laid out as layers, each a small graph of operators that is made once and then
remembered, so that laying out one more architecture is a few look-ups. What an operator is:

- A convolution with the batch norm and the activation behind it is one operator.
- An elementwise operator (addition, multiplication by a gate or a share, division) may write
  its output over an input of equal size that nobody reads any more. One that has a single input
  with no other reader therefore costs nothing, and is left out: normalising the image, an
  activation after an addition.
- Views (reshape, transpose, slice, split) are free and are no operators; the tensor under a
  view lives as long as the view.
- Concatenation, resizing, pooling, means, maxima, sums and matrix products make new tensors.
- What depends on weights alone (the shares of a weighted sum) is known before the image comes.
- Decoding and suppression come after the network and are not part of it; neither are the
  optional landmarks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

from search_spaces.architecture import STAGE_STRIDES, Architecture, Head, Stage
from search_spaces.attention import bottleneck_width
from search_spaces.blocks import GROUP_CHANNELS, HEAD_CHANNELS
from search_spaces.heads import CODE_CHANNELS
from search_spaces.necks import ATTENTION_KERNEL_SIZE

LARGEST_STRIDE = STAGE_STRIDES[-1]
PLAIN, BIAS, NORM = 0, 1, 2
"""Weights of a convolution beside its kernel, for each output channel."""


@dataclass(frozen=True, slots=True)
class Operator:
    """One step of a network, and so one tensor: its output.

    inputs: positions, in the list this operator stands in, of the operators whose outputs it
    reads; none for what comes from outside. elements: numbers in the output, batch of one.
    params: weights that no operator before it uses. macs: multiply-accumulates.
    overwrites: those inputs in whose place the output may be written.
    """

    name: str
    inputs: tuple[int, ...]
    elements: int
    params: int = 0
    macs: int = 0
    overwrites: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """Operators in an order they can run in; the first few are the layer's inputs.

    inputs: how many. outputs: positions of the results, an input passed on among them perhaps.
    Each layer exists once: compare and hash it by identity.
    """

    operators: tuple[Operator, ...]
    inputs: int
    outputs: tuple[int, ...]
    params: int
    macs: int


@dataclass(frozen=True, slots=True)
class FeatureMap:
    """The output of the operator at `position`: channels x height x width numbers."""

    position: int
    channels: int
    height: int
    width: int


class _Graph:
    """Operators being written down, in the words that the modules of `search_spaces` use."""

    def __init__(self) -> None:
        self.operators: list[Operator] = []

    def layer(self, outputs: Sequence[FeatureMap]) -> Layer:
        operators = tuple(self.operators)
        return Layer(
            operators,
            inputs=sum(not operator.inputs for operator in operators),
            outputs=tuple(y.position for y in outputs),
            params=sum(operator.params for operator in operators),
            macs=sum(operator.macs for operator in operators),
        )

    def make(
        self,
        name: str,
        reads: Sequence[FeatureMap],
        shape: tuple[int, int, int],
        *,
        params: int = 0,
        macs: int = 0,
    ) -> FeatureMap:
        """An operator whose output is a new tensor of `shape`."""
        channels, height, width = shape
        inputs = tuple(dict.fromkeys(x.position for x in reads))
        self.operators.append(Operator(name, inputs, channels * height * width, params, macs))
        return FeatureMap(len(self.operators) - 1, channels, height, width)

    def input(self, channels: int, side: int) -> FeatureMap:
        return self.make("input", (), (channels, side, side))

    def elementwise(
        self, name: str, x: FeatureMap, *others: FeatureMap, params: int = 0
    ) -> FeatureMap:
        """An operator with an output of x's size; smaller inputs are spread over it."""
        reads = (x, *others)
        elements = x.channels * x.height * x.width
        overwrites = tuple(
            y.position for y in reads if self.operators[y.position].elements == elements
        )
        inputs = tuple(dict.fromkeys(y.position for y in reads))
        self.operators.append(Operator(name, inputs, elements, params, 0, overwrites))
        return FeatureMap(len(self.operators) - 1, x.channels, x.height, x.width)

    def convolution(
        self, x: FeatureMap, channels: int, kernel_size: int = 1, *, stride: int = 1, beside: int
    ) -> FeatureMap:
        return self.grouped(x, channels, kernel_size, x.channels, stride=stride, beside=beside)

    def grouped(
        self,
        x: FeatureMap,
        channels: int,
        kernel_size: int,
        group: int,
        *,
        stride: int = 1,
        beside: int,
    ) -> FeatureMap:
        """A convolution whose every output reads `group` channels."""
        height, width = -(-x.height // stride), -(-x.width // stride)
        kernels = group * channels * kernel_size**2
        return self.make(
            f"convolution {kernel_size}x{kernel_size}",
            (x,),
            (channels, height, width),
            params=kernels + beside * channels,
            macs=kernels * height * width,
        )

    def depthwise(
        self, x: FeatureMap, kernel_size: int, *, stride: int = 1, beside: int = NORM
    ) -> FeatureMap:
        return self.grouped(x, x.channels, kernel_size, 1, stride=stride, beside=beside)

    def enlarge(self, x: FeatureMap) -> FeatureMap:
        return self.make("enlarge", (x,), (x.channels, 2 * x.height, 2 * x.width))

    def halve(self, x: FeatureMap) -> FeatureMap:
        return self.make("maximum 2x2", (x,), (x.channels, x.height // 2, x.width // 2))

    def pool(self, name: str, x: FeatureMap) -> FeatureMap:
        """One number a channel."""
        return self.make(name, (x,), (x.channels, 1, 1))


# Blocks: as in search_spaces.blocks.


class _Block(NamedTuple):
    """What tells two layers of stages apart; a tuple, because it is looked up often."""

    kind: str
    c_in: int
    c_out: int
    kernel_size: int
    stride: int
    expand_ratio: int


def _depthwise_separable(
    graph: _Graph, x: FeatureMap, c_out: int, kernel_size: int = 3, *, stride: int = 1
) -> FeatureMap:
    if stride == 1:
        mixed = graph.convolution(x, c_out, beside=PLAIN)
        return graph.depthwise(mixed, kernel_size)
    filtered = graph.depthwise(x, kernel_size, stride=stride, beside=PLAIN)
    return graph.convolution(filtered, c_out, beside=NORM)


def _with_residual(graph: _Graph, x: FeatureMap, y: FeatureMap, *, stride: int) -> FeatureMap:
    is_residual = stride == 1 and x.channels == y.channels
    return graph.elementwise("add", x, y) if is_residual else y


def _inverted_residual(graph: _Graph, x: FeatureMap, block: _Block) -> FeatureMap:
    wide = graph.convolution(x, x.channels * block.expand_ratio, beside=PLAIN)
    filtered = graph.depthwise(wide, block.kernel_size, stride=block.stride)
    y = graph.convolution(filtered, block.c_out, beside=NORM)
    return _with_residual(graph, x, y, stride=block.stride)


def _linear_attention(graph: _Graph, x: FeatureMap) -> FeatureMap:
    channels, positions = x.channels, x.height * x.width
    heads = channels // HEAD_CHANNELS
    query, key, value = (graph.convolution(x, channels, beside=PLAIN) for _ in range(3))
    products = channels * HEAD_CHANNELS * positions
    summary = graph.make("v k^T", (value, key), (channels, HEAD_CHANNELS, 1), macs=products)
    key_sum = graph.pool("sum k", key)
    weight_shape = (heads, x.height, x.width)
    weight = graph.make("(sum k) q", (key_sum, query), weight_shape, macs=channels * positions)
    mixed_shape = (channels, x.height, x.width)
    mixed = graph.make("(v k^T) q", (summary, query), mixed_shape, macs=products)
    shared_out = graph.elementwise("divide", mixed, weight)
    return graph.convolution(shared_out, channels, beside=NORM)


def _depthwise_block(graph: _Graph, x: FeatureMap, block: _Block) -> FeatureMap:
    return _depthwise_separable(graph, x, block.c_out, block.kernel_size, stride=block.stride)


def _residual_block(graph: _Graph, x: FeatureMap, block: _Block) -> FeatureMap:
    y = graph.convolution(x, block.c_out, block.kernel_size, stride=block.stride, beside=NORM)
    return _with_residual(graph, x, y, stride=block.stride)


def _linear_attention_block(graph: _Graph, x: FeatureMap, block: _Block) -> FeatureMap:
    if block.stride != 1 or x.channels != block.c_out:
        x = _depthwise_block(graph, x, block)
    x = graph.elementwise("add", x, _linear_attention(graph, x))
    return _inverted_residual(graph, x, block._replace(stride=1))


def _partial_attention(graph: _Graph, x: FeatureMap, attended: int) -> FeatureMap:
    if attended == x.channels:
        return graph.elementwise("add", x, _linear_attention(graph, x))
    part = replace(x, channels=attended)
    part = graph.elementwise("add", _linear_attention(graph, part), part)
    return graph.make("concatenate", (part, x), (x.channels, x.height, x.width))


def _ultra_efficient_layer(graph: _Graph, x: FeatureMap, block: _Block) -> FeatureMap:
    if block.stride != 1 or x.channels != block.c_out:
        x = _depthwise_block(graph, x, block)
    x = graph.elementwise("add", x, graph.depthwise(x, block.kernel_size))
    x = _partial_attention(graph, x, HEAD_CHANNELS)
    hidden = graph.convolution(x, x.channels // 2, beside=NORM)
    return graph.elementwise("add", x, graph.convolution(hidden, x.channels, beside=NORM))


BLOCK_OPERATORS: dict[str, Callable[[_Graph, FeatureMap, _Block], FeatureMap]] = {
    "depthwise": _depthwise_block,
    "inverted": _inverted_residual,
    "linear_attention": _linear_attention_block,
    "residual": _residual_block,
    "ultra_efficient": _ultra_efficient_layer,
}
"""The operators of every block in `search_spaces.blocks.BLOCKS`."""


# Attention variants: as in search_spaces.attention.


def _squeeze_excitation(graph: _Graph, x: FeatureMap) -> FeatureMap:
    hidden = graph.convolution(graph.pool("mean", x), bottleneck_width(x.channels), beside=BIAS)
    gate = graph.convolution(hidden, x.channels, beside=BIAS)
    return graph.elementwise("multiply", x, gate)


def _efficient_channel_attention(graph: _Graph, x: FeatureMap) -> FeatureMap:
    means = graph.pool("mean", x)
    shape = (x.channels, 1, 1)
    gate = graph.make("convolution of 3 channels", (means,), shape, params=3, macs=3 * x.channels)
    return graph.elementwise("multiply", x, gate)


def _convolutional_block_attention(graph: _Graph, x: FeatureMap) -> FeatureMap:
    hidden = bottleneck_width(x.channels)
    of_mean = graph.convolution(graph.pool("mean", x), hidden, beside=PLAIN)
    of_mean = graph.convolution(of_mean, x.channels, beside=PLAIN)
    macs = x.channels * hidden  # the same two convolutions again: no more weights
    of_peak = graph.make("convolution 1x1", (graph.pool("maximum", x),), (hidden, 1, 1), macs=macs)
    of_peak = graph.make("convolution 1x1", (of_peak,), (x.channels, 1, 1), macs=macs)
    x = graph.elementwise("multiply", x, graph.elementwise("add", of_mean, of_peak))
    plane = (1, x.height, x.width)
    maps = graph.make("mean of channels", (x,), plane), graph.make("maximum", (x,), plane)
    both = graph.make("concatenate", maps, (2, x.height, x.width))
    return graph.elementwise("multiply", x, graph.convolution(both, 1, 7, beside=PLAIN))


def _coordinate_attention(graph: _Graph, x: FeatureMap) -> FeatureMap:
    rows = graph.make("mean of rows", (x,), (x.channels, x.height, 1))
    columns = graph.make("mean of columns", (x,), (x.channels, 1, x.width))
    hidden = bottleneck_width(x.channels)
    both = graph.make("concatenate", (rows, columns), (x.channels, x.height + x.width, 1))
    both = graph.convolution(both, hidden, beside=NORM)
    weights = (hidden + BIAS) * x.channels
    by_row, by_column = (
        graph.make(
            "convolution 1x1",
            (both,),
            (x.channels, side, 1),
            params=weights,
            macs=hidden * x.channels * side,
        )
        for side in (x.height, x.width)
    )
    return graph.elementwise("multiply", graph.elementwise("multiply", x, by_row), by_column)


def _cbam_plus(graph: _Graph, x: FeatureMap) -> FeatureMap:
    pools = graph.pool("mean", x), graph.pool("maximum", x)
    pooled = graph.make("concatenate", pools, (2, x.channels, 1))
    macs = 2 * 3 * x.channels
    shape = (x.channels, 1, 1)
    gate = graph.make("convolution of 3 channels", (pooled,), shape, params=7, macs=macs)
    x = graph.elementwise("multiply", x, gate)
    plane = (1, x.height, x.width)
    maps = graph.make("mean of channels", (x,), plane), graph.make("maximum", (x,), plane)
    both = graph.make("concatenate", maps, (2, x.height, x.width))
    return graph.elementwise("multiply", x, graph.convolution(both, 1, 3, beside=BIAS))


def _dynamic_channel_attention(graph: _Graph, x: FeatureMap) -> FeatureMap:
    hidden = max(bottleneck_width(x.channels), x.channels // 2)
    of_mean = graph.convolution(graph.pool("mean", x), hidden, beside=BIAS)
    of_peak = graph.convolution(graph.pool("maximum", x), hidden, beside=PLAIN)
    squeezed = graph.elementwise("add", of_mean, of_peak)
    first, second = (graph.convolution(squeezed, x.channels, beside=BIAS) for _ in range(2))
    choice = graph.convolution(x, 1, beside=BIAS)
    gates = graph.elementwise("blend", replace(choice, channels=x.channels), first, second)
    return graph.elementwise("multiply", x, gates)


ATTENTION_OPERATORS: dict[str, Callable[[_Graph, FeatureMap], FeatureMap]] = {
    "none": lambda _graph, x: x,
    "se": _squeeze_excitation,
    "eca": _efficient_channel_attention,
    "cbam": _convolutional_block_attention,
    "cbam_plus": _cbam_plus,
    "coordinate": _coordinate_attention,
    "dynamic": _dynamic_channel_attention,
}
"""The operators of every variant in `search_spaces.attention.ATTENTION`."""


# Fusion cells: as in search_spaces.necks.


def _feature_pyramid(graph: _Graph, levels: list[FeatureMap]) -> list[FeatureMap]:
    x8, x16, x32 = levels
    y16 = graph.elementwise("add", x16, graph.enlarge(x32))
    y16 = _depthwise_separable(graph, y16, x16.channels)
    y8 = graph.elementwise("add", x8, graph.enlarge(y16))
    return [_depthwise_separable(graph, y8, x8.channels), y16, x32]


def _path_aggregation(graph: _Graph, levels: list[FeatureMap]) -> list[FeatureMap]:
    y8, y16, y32 = _feature_pyramid(graph, levels)
    width = y8.channels
    reduced8 = _depthwise_separable(graph, y8, width, stride=2)
    z16 = _depthwise_separable(graph, graph.elementwise("add", y16, reduced8), width)
    reduced16 = _depthwise_separable(graph, z16, width, stride=2)
    z32 = _depthwise_separable(graph, graph.elementwise("add", y32, reduced16), width)
    return [y8, z16, z32]


def _smooth_sum(graph: _Graph, *terms: FeatureMap) -> FeatureMap:
    """Each term by its share, one added to the next, and the smoothing convolution."""
    total = graph.elementwise("multiply", terms[0], params=1)
    for term in terms[1:]:
        total = graph.elementwise("add", total, graph.elementwise("multiply", term, params=1))
    return _depthwise_separable(graph, total, total.channels)


def _bidirectional(graph: _Graph, levels: list[FeatureMap]) -> list[FeatureMap]:
    x8, x16, x32 = levels
    y16 = _smooth_sum(graph, x16, graph.enlarge(x32))
    z8 = _smooth_sum(graph, x8, graph.enlarge(y16))
    z16 = _smooth_sum(graph, x16, y16, graph.halve(z8))
    return [z8, z16, _smooth_sum(graph, x32, graph.halve(z16))]


def _cross_scale_attention(graph: _Graph, levels: list[FeatureMap]) -> list[FeatureMap]:
    positions = sum(x.height * x.width for x in levels)
    channels = levels[0].channels
    row = graph.make("concatenate", levels, (channels, positions, 1))
    joined = _partial_attention(graph, row, HEAD_CHANNELS)
    return [replace(x, position=joined.position) for x in levels]


def _adaptive_sum(graph: _Graph, *terms: FeatureMap) -> FeatureMap:
    """Each term by its share at each position, one added to the next, and the smoothing."""
    height, width = terms[0].height, terms[0].width
    scores = [graph.convolution(term, 1, beside=BIAS) for term in terms]
    scored = graph.make("concatenate", scores, (len(terms), height, width))
    shares = graph.make("softmax", (scored,), (len(terms), height, width))
    share = replace(shares, channels=1)
    total = graph.elementwise("multiply", terms[0], share)
    for term in terms[1:]:
        total = graph.elementwise("add", total, graph.elementwise("multiply", term, share))
    return _depthwise_separable(graph, total, total.channels, ATTENTION_KERNEL_SIZE)


def _pyramid_attention(graph: _Graph, levels: list[FeatureMap]) -> list[FeatureMap]:
    x8, x16, x32 = _cross_scale_attention(graph, levels)
    y16 = _adaptive_sum(graph, x16, graph.enlarge(x32))
    z8 = _adaptive_sum(graph, x8, graph.enlarge(y16))
    z16 = _adaptive_sum(graph, x16, y16, graph.halve(z8))
    return [z8, z16, _adaptive_sum(graph, x32, graph.halve(z16))]


CELL_OPERATORS: dict[str, Callable[[_Graph, list[FeatureMap]], list[FeatureMap]]] = {
    "fpn": _feature_pyramid,
    "pan": _path_aggregation,
    "bifpn": _bidirectional,
    "pyramid_attention": _pyramid_attention,
}
"""The operators of every cell in `search_spaces.necks.CELLS`."""


# Layers of a tower: as in search_spaces.heads.


def _grouped_convolution(graph: _Graph, x: FeatureMap, c_out: int) -> FeatureMap:
    mixed = graph.convolution(x, c_out, beside=PLAIN)
    return graph.grouped(mixed, c_out, 3, GROUP_CHANNELS, beside=NORM)


def _context_module(graph: _Graph, x: FeatureMap, c_out: int) -> FeatureMap:
    quarter = c_out // 4
    window3 = graph.convolution(x, 2 * quarter, 3, beside=NORM)
    hidden = graph.convolution(x, quarter, 3, beside=NORM)
    window5 = graph.convolution(hidden, quarter, 3, beside=NORM)
    deeper = graph.convolution(hidden, quarter, 3, beside=NORM)
    window7 = graph.convolution(deeper, quarter, 3, beside=NORM)
    return graph.make("concatenate", (window3, window5, window7), (c_out, x.height, x.width))


TOWER_OPERATORS: dict[str, Callable[[_Graph, FeatureMap, int], FeatureMap]] = {
    "depthwise": _depthwise_separable,
    "grouped": _grouped_convolution,
    "context": _context_module,
}
"""The operators of every layer in `search_spaces.heads.HEAD_LAYERS`."""


# Layers: made once, then looked up.


@cache
def _stem_layers(width: int, depth: int, image_size: int) -> tuple[Layer, ...]:
    graph = _Graph()
    x = graph.convolution(graph.input(3, image_size), width, 3, stride=2, beside=NORM)
    layers = [graph.layer([x])]
    for i in range(depth):
        graph = _Graph()
        x = graph.input(x.channels, x.height)
        x = _depthwise_separable(graph, x, 2 * width, stride=2 if i == 0 else 1)
        layers.append(graph.layer([x]))
    return tuple(layers)


@cache
def _block_layer(block: _Block, side: int) -> Layer:
    graph = _Graph()
    return graph.layer([BLOCK_OPERATORS[block.kind](graph, graph.input(block.c_in, side), block)])


@cache
def _attention_layer(kind: str, channels: int, side: int) -> Layer:
    graph = _Graph()
    return graph.layer([ATTENTION_OPERATORS[kind](graph, graph.input(channels, side))])


def _stage_layers(c_in: int, side: int, stage: Stage) -> tuple[Layer, ...]:
    width = stage.width
    rule = (stage.kernel_size, 2, stage.expand_ratio)
    first = _block_layer(_Block(stage.block, c_in, width, *rule), side)
    attention: tuple[Layer, ...] = ()
    if stage.attention != "none":
        attention = (_attention_layer(stage.attention, width, side // 2),)
    if stage.depth == 1:
        return (first, *attention)
    rule = (stage.kernel_size, 1, stage.expand_ratio)
    again = _block_layer(_Block(stage.block, width, width, *rule), side // 2)
    return (first, *attention) + (again, *attention) * (stage.depth - 1)


@cache
def _lateral_layer(c_in: int, width: int, side: int) -> Layer:
    graph = _Graph()
    return graph.layer([graph.convolution(graph.input(c_in, side), width, beside=NORM)])


@cache
def _cell_layer(kind: str, width: int, image_size: int) -> Layer:
    graph = _Graph()
    levels = [graph.input(width, image_size // stride) for stride in STAGE_STRIDES]
    return graph.layer(CELL_OPERATORS[kind](graph, levels))


@cache
def _tower_layers(c_in: int, head: Head, image_size: int) -> tuple[Layer, ...]:
    """The tower of each level; where they share weights, the first one counts them."""
    layers: list[Layer] = []
    for stride in STAGE_STRIDES:
        graph = _Graph()
        x = graph.input(c_in, image_size // stride)
        for _ in range(head.depth):
            x = TOWER_OPERATORS[head.layer](graph, x, head.width)
        x = ATTENTION_OPERATORS[head.attention](graph, x)
        x = graph.convolution(x, CODE_CHANNELS, beside=BIAS)
        if layers and head.sharing == "shared":
            graph.operators = [replace(operator, params=0) for operator in graph.operators]
        layers.append(graph.layer([x]))
    return tuple(layers)


# Networks.


@dataclass(frozen=True, slots=True)
class Layout:
    """The layers of a network, in the order of `search_spaces.network`.

    stem: from the image to stride 4, one after another. stages: those of each stage, likewise.
    laterals, towers: one a level. cells: one after another, three levels in and out.
    """

    stem: tuple[Layer, ...]
    stages: tuple[tuple[Layer, ...], ...]
    laterals: tuple[Layer, ...]
    cells: tuple[Layer, ...]
    towers: tuple[Layer, ...]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All layers, each as often as it runs."""
        stage8, stage16, stage32 = self.stages
        return (
            *(*self.stem, *stage8, *stage16, *stage32),
            *(*self.laterals, *self.cells, *self.towers),
        )

    @property
    def params(self) -> int:
        return sum([layer.params for layer in self.layers])

    @property
    def macs(self) -> int:
        return sum([layer.macs for layer in self.layers])


def check_image_size(image_size: int) -> None:
    """The side of a square image that every network takes.

    Raises:
        ValueError: image_size, in pixels, is not a positive multiple of 32.
    """
    if image_size <= 0 or image_size % LARGEST_STRIDE:
        raise ValueError(
            f"image_size must be a positive multiple of {LARGEST_STRIDE} pixels, got {image_size}"
        )


def lay_out(architecture: Architecture, *, image_size: int) -> Layout:
    """The layers of an architecture for square images, one at a time.

    Raises:
        ValueError: image_size, in pixels, is not a positive multiple of 32.
    """
    check_image_size(image_size)
    neck, head = architecture.neck, architecture.head
    c_in, side = 2 * architecture.stem_width, image_size // 4
    stages, laterals = [], []
    for stage in architecture.stages:
        stages.append(_stage_layers(c_in, side, stage))
        c_in, side = stage.width, side // 2
        laterals.append(_lateral_layer(c_in, neck.width, side))
    return Layout(
        stem=_stem_layers(architecture.stem_width, architecture.stem_depth, image_size),
        stages=tuple(stages),
        laterals=tuple(laterals),
        cells=(_cell_layer(neck.kind, neck.width, image_size),) * neck.repeats,
        towers=_tower_layers(neck.width, head, image_size),
    )


class _Joined:
    """Layers joined into one list of operators."""

    def __init__(self, input_elements: Sequence[int]) -> None:
        self.operators = [Operator("input", (), elements) for elements in input_elements]

    def add(self, layer: Layer, inputs: Sequence[int]) -> list[int]:
        """Positions of the layer's outputs, its inputs being at the given positions."""
        place = list(inputs)
        for operator in layer.operators[layer.inputs :]:
            place.append(len(self.operators))
            self.operators.append(
                Operator(
                    operator.name,
                    tuple(place[i] for i in operator.inputs),
                    operator.elements,
                    operator.params,
                    operator.macs,
                    tuple(place[i] for i in operator.overwrites),
                )
            )
        return [place[i] for i in layer.outputs]

    def add_chain(self, layers: Sequence[Layer], position: int) -> int:
        for layer in layers:
            (position,) = self.add(layer, [position])
        return position


def after_first_stage(layout: Layout) -> Layer:
    """Everything from the feature of the first stage to the three levels, as one layer."""
    feature = layout.laterals[0].operators[0].elements
    joined = _Joined([feature])
    return _finish(joined, layout, [0])


def whole_network(layout: Layout) -> Layer:
    """Everything from the image to the three levels, as one layer."""
    joined = _Joined([layout.stem[0].operators[0].elements])
    return _finish(joined, layout, [joined.add_chain((*layout.stem, *layout.stages[0]), 0)])


def _finish(joined: _Joined, layout: Layout, features: list[int]) -> Layer:
    for layers in layout.stages[1:]:
        features.append(joined.add_chain(layers, features[-1]))
    laterals = zip(layout.laterals, features, strict=True)
    levels = [joined.add_chain([lateral], x) for lateral, x in laterals]
    for cell in layout.cells:
        levels = joined.add(cell, levels)
    towers = zip(layout.towers, levels, strict=True)
    outputs = tuple(joined.add_chain([tower], x) for tower, x in towers)
    operators = tuple(joined.operators)
    return Layer(operators, inputs=1, outputs=outputs, params=layout.params, macs=layout.macs)
