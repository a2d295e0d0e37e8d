"""One network has one key, the key says everything, and nothing else is accepted."""

from dataclasses import FrozenInstanceError, replace

import pytest

from search_spaces.architecture import Architecture, Head, Neck, Stage
from tests.search_spaces.contracts import example_architecture, random_architectures

STAGE = Stage("inverted", depth=2, width=32, kernel_size=5, expand_ratio=3, attention="se")
NECK = Neck("fpn", width=24, repeats=1)
HEAD = Head("shared", layer="depthwise", depth=1, width=32, attention="none")


def test_keys_are_read_back() -> None:
    for architecture in random_architectures(500, seed=0):
        assert Architecture.from_key(architecture.key) == architecture


def test_a_key_is_readable_text() -> None:
    assert example_architecture().key == (
        "stem8x1_depthwise.16x1k3e1.none-inverted.32x2k5e3.se-linear_attention.48x1k3e2.cbam"
        "_pan.24x1_per_level.depthwise.32x1.eca"
    )


def test_equal_networks_have_equal_keys_and_others_do_not() -> None:
    architectures = random_architectures(500, seed=1) + random_architectures(50, seed=1)
    assert len({a.key for a in architectures}) == len(set(architectures)) == 500


def test_every_value_is_in_the_key() -> None:
    base = example_architecture()
    others = [
        replace(base, stem_width=12),
        replace(base, stem_depth=2),
        replace(base, neck=replace(base.neck, kind="fpn")),
        replace(base, neck=replace(base.neck, width=32)),
        replace(base, neck=replace(base.neck, repeats=2)),
        replace(base, head=replace(base.head, sharing="shared")),
        replace(base, head=replace(base.head, layer="context")),
        replace(base, head=replace(base.head, depth=2)),
        replace(base, head=replace(base.head, width=16)),
        replace(base, head=replace(base.head, attention="se")),
    ]
    for i in range(3):
        changed = [
            Stage("inverted", 1, 16, 3, 3, "none"),
            replace(base.stages[i], depth=4),
            replace(base.stages[i], width=64),
            replace(base.stages[i], kernel_size=7),
            replace(base.stages[i], attention="coordinate"),
        ]
        for stage in changed:
            stages = [*base.stages[:i], stage, *base.stages[i + 1 :]]
            others.append(replace(base, stages=(stages[0], stages[1], stages[2])))
    inverted = replace(base.stages[1], expand_ratio=4)
    others.append(replace(base, stages=(base.stages[0], inverted, base.stages[2])))
    assert len({base.key, *(other.key for other in others)}) == 1 + len(others)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("stem8x1", "stem08x1"),
        ("stem8x1", "stem\u0668x1"),  # eight, in Arabic-Indic digits
        ("stem8x1", "stem-8x1"),
        ("stem8x1", " stem8x1"),
        (".eca", ".eca\n"),
        (".eca", ""),
        ("_pan.", "_PAN."),
        ("per_level", "each"),
        ("k5e3", "k5e03"),
        ("k5e3", "k4e3"),
        ("-inverted.32x2k5e3.se", ""),
        ("-inverted", "-unheard_of"),
    ],
)
def test_other_texts_are_no_keys(old: str, new: str) -> None:
    key = example_architecture().key
    assert old in key
    with pytest.raises(ValueError, match=r"must .*got"):
        Architecture.from_key(key.replace(old, new))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block": "dense"}, r"block must be one of \[.*'inverted'.*\], got 'dense'"),
        ({"attention": "self"}, r"attention must be one of \[.*'cbam'.*\], got 'self'"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"width": 24}, "width must be a positive multiple of 16, got 24"),
        ({"width": 0}, "width must be a positive multiple of 16, got 0"),
        ({"kernel_size": 4}, "kernel_size must be positive and odd, got 4"),
        ({"kernel_size": -3}, "kernel_size must be positive and odd, got -3"),
        ({"expand_ratio": 1}, "expand_ratio of inverted must be over 1, got 1"),
        ({"block": "residual"}, "expand_ratio of residual must be 1, got 3"),
    ],
)
def test_stages_refuse(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(STAGE, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "ladder"}, r"kind must be one of \(.*'bifpn'.*\), got 'ladder'"),
        ({"width": 0}, "width must be positive, got 0"),
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
    ],
)
def test_necks_refuse(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(NECK, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sharing": "some"}, r"sharing must be one of \(.*'shared'.*\), got 'some'"),
        ({"attention": "self"}, r"attention must be one of \[.*\], got 'self'"),
        ({"depth": -1}, "depth must not be negative, got -1"),
        ({"layer": "none"}, r"layer must be one of \(.*'context'\), got 'none'"),
        ({"depth": 0}, r"layer must be one of \('none',\), got 'depthwise'"),
        ({"layer": "none", "depth": 0}, "width must be positive, or 0 at depth 0, got 32"),
        ({"width": 0}, "width must be positive, or 0 at depth 0, got 0"),
        ({"width": -16}, "width must be positive, or 0 at depth 0, got -16"),
    ],
)
def test_heads_refuse(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(HEAD, **change)  # type: ignore[arg-type]


def test_architectures_refuse() -> None:
    base = example_architecture()
    with pytest.raises(ValueError, match="stem_width must be positive, got 0"):
        replace(base, stem_width=0)
    with pytest.raises(ValueError, match="stem_depth must be at least 1, got 0"):
        replace(base, stem_depth=0)
    for stages in (base.stages[:2], list(base.stages)):
        with pytest.raises(ValueError, match=r"stages must be a tuple of 3, got [(\[]Stage"):
            replace(base, stages=stages)  # type: ignore[arg-type]


def test_architectures_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        example_architecture().stem_width = 16  # type: ignore[misc]
