"""An architecture: a frozen value with one canonical key. Equal networks have equal keys."""

import re
from dataclasses import dataclass

from search_spaces.attention import ATTENTION
from search_spaces.blocks import BLOCKS, EXPANDING, HEAD_CHANNELS

STAGE_STRIDES = (8, 16, 32)
"""Strides of the three stages, and so of the levels that the head looks at."""

NECKS = ("fpn", "pan", "bifpn", "pyramid_attention")
SHARING = ("shared", "per_level")
TOWER_LAYERS = ("depthwise", "grouped", "context")
NO_LAYER = "none"


def _require(condition: bool, rule: str, value: object) -> None:  # noqa: FBT001
    if not condition:
        raise ValueError(f"{rule}, got {value!r}")


@dataclass(frozen=True, slots=True)
class Stage:
    """`depth` equal layers, the first of stride 2, each a block followed by an attention."""

    block: str
    depth: int
    width: int
    kernel_size: int
    expand_ratio: int
    attention: str

    def __post_init__(self) -> None:
        _require(self.block in BLOCKS, f"block must be one of {sorted(BLOCKS)}", self.block)
        _require(
            self.attention in ATTENTION,
            f"attention must be one of {sorted(ATTENTION)}",
            self.attention,
        )
        _require(self.depth >= 1, "depth must be at least 1", self.depth)
        _require(
            self.width > 0 and self.width % HEAD_CHANNELS == 0,
            f"width must be a positive multiple of {HEAD_CHANNELS}",
            self.width,
        )
        _require(
            self.kernel_size > 0 and self.kernel_size % 2 == 1,
            "kernel_size must be positive and odd",
            self.kernel_size,
        )
        expands = self.block in EXPANDING
        _require(
            (self.expand_ratio > 1) if expands else (self.expand_ratio == 1),
            f"expand_ratio of {self.block} must be {'over 1' if expands else '1'}",
            self.expand_ratio,
        )


@dataclass(frozen=True, slots=True)
class Neck:
    """`repeats` fusion cells of one kind at one width, after 1x1 laterals."""

    kind: str
    width: int
    repeats: int

    def __post_init__(self) -> None:
        _require(self.kind in NECKS, f"kind must be one of {NECKS}", self.kind)
        _require(self.width > 0, "width must be positive", self.width)
        _require(self.repeats >= 1, "repeats must be at least 1", self.repeats)


@dataclass(frozen=True, slots=True)
class Head:
    """`depth` equal layers, an attention, and the 1x1 that predicts.

    With depth 0 there is no layer: `layer` is then "none" and `width` 0.
    """

    sharing: str
    layer: str
    depth: int
    width: int
    attention: str

    def __post_init__(self) -> None:
        _require(self.sharing in SHARING, f"sharing must be one of {SHARING}", self.sharing)
        _require(
            self.attention in ATTENTION,
            f"attention must be one of {sorted(ATTENTION)}",
            self.attention,
        )
        _require(self.depth >= 0, "depth must not be negative", self.depth)
        layers = TOWER_LAYERS if self.depth else (NO_LAYER,)
        _require(self.layer in layers, f"layer must be one of {layers}", self.layer)
        _require(
            (self.width > 0) == (self.depth > 0) and self.width >= 0,
            "width must be positive, or 0 at depth 0",
            self.width,
        )


_KEY = re.compile(
    r"stem(?P<stem_width>\d+)x(?P<stem_depth>\d+)"
    r"_(?P<stages>\w+\.\d+x\d+k\d+e\d+\.\w+-\w+\.\d+x\d+k\d+e\d+\.\w+-\w+\.\d+x\d+k\d+e\d+\.\w+)"
    rf"_(?P<neck>{'|'.join(NECKS)})\.(?P<neck_width>\d+)x(?P<repeats>\d+)"
    r"_(?P<sharing>shared|per_level)\.(?P<layer>\w+)\.(?P<head_width>\d+)x(?P<head_depth>\d+)\.(?P<head_attention>\w+)"
)
_STAGE = re.compile(
    r"(?P<block>\w+)\.(?P<width>\d+)x(?P<depth>\d+)k(?P<kernel_size>\d+)e(?P<expand_ratio>\d+)"
    r"\.(?P<attention>\w+)"
)


@dataclass(frozen=True, slots=True)
class Architecture:
    """A whole detector: stem, three stages, neck and head.

    stem_width: channels at stride 2; twice as many leave the stem at stride 4.
    stem_depth: depthwise separable layers that end at stride 4, the first of stride 2.
    stages: at strides 8, 16 and 32, in this order.

    Raises:
        ValueError: a value is out of its rule, so that no network has two encodings.
    """

    stem_width: int
    stem_depth: int
    stages: tuple[Stage, Stage, Stage]
    neck: Neck
    head: Head

    def __post_init__(self) -> None:
        _require(self.stem_width > 0, "stem_width must be positive", self.stem_width)
        _require(self.stem_depth >= 1, "stem_depth must be at least 1", self.stem_depth)
        _require(
            isinstance(self.stages, tuple) and len(self.stages) == len(STAGE_STRIDES),
            f"stages must be a tuple of {len(STAGE_STRIDES)}",
            self.stages,
        )

    @property
    def key(self) -> str:
        """The canonical text of this architecture; `from_key` reads it back."""
        stages = "-".join(
            f"{s.block}.{s.width}x{s.depth}k{s.kernel_size}e{s.expand_ratio}.{s.attention}"
            for s in self.stages
        )
        return (
            f"stem{self.stem_width}x{self.stem_depth}_{stages}"
            f"_{self.neck.kind}.{self.neck.width}x{self.neck.repeats}"
            f"_{self.head.sharing}.{self.head.layer}"
            f".{self.head.width}x{self.head.depth}.{self.head.attention}"
        )

    @classmethod
    def from_key(cls, key: str) -> "Architecture":
        """The architecture that a key names.

        Raises:
            ValueError: the text is not a key, or another spelling of one.
        """
        match = _KEY.fullmatch(key)
        if match is None:
            raise ValueError(f"key must be the text of an architecture, got {key!r}")
        stages = []
        for text in match["stages"].split("-"):
            stage = _STAGE.fullmatch(text)
            if stage is None:
                raise ValueError(f"stage must read block.WxDkKeE.attention, got {text!r}")
            stages.append(
                Stage(
                    block=stage["block"],
                    depth=int(stage["depth"]),
                    width=int(stage["width"]),
                    kernel_size=int(stage["kernel_size"]),
                    expand_ratio=int(stage["expand_ratio"]),
                    attention=stage["attention"],
                )
            )
        architecture = cls(
            stem_width=int(match["stem_width"]),
            stem_depth=int(match["stem_depth"]),
            stages=(stages[0], stages[1], stages[2]),
            neck=Neck(match["neck"], int(match["neck_width"]), int(match["repeats"])),
            head=Head(
                match["sharing"],
                match["layer"],
                int(match["head_depth"]),
                int(match["head_width"]),
                match["head_attention"],
            ),
        )
        _require(architecture.key == key, f"key must be {architecture.key!r}", key)
        return architecture
