"""Draws one person: a head in three dimensions, turned, dressed and lit, as a sprite.

A head is measured in units of half a face: the hairline is at y = -1, the chin at y = 1, x goes to
the right, y down and z towards the viewer. Points on the head are turned, then seen from far away
(orthographic), so that pose moves every feature as it would on a real head. Colours are BGR.
"""

import math
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]
Colour = tuple[int, int, int]

_SHIFT = 4  # OpenCV takes polygon corners in 1/16 pixel
_DRAWN_FACE_PX = 44  # a smaller face is drawn at least this high, then reduced
_CIRCLE = np.stack(
    [f(np.linspace(0, 2 * math.pi, 20, endpoint=False)) for f in (np.cos, np.sin)], 1
)
_SPHERE = np.array(
    [
        (math.cos(a) * math.cos(b), math.sin(b), math.sin(a) * math.cos(b))
        for b in np.linspace(-1.4, 1.4, 9)
        for a in np.linspace(0, 2 * math.pi, 14, endpoint=False)
    ]
)
_SKINS: tuple[Colour, ...] = (
    (198, 215, 245), (170, 195, 235), (140, 175, 220), (115, 150, 205),
    (85, 125, 180), (65, 100, 150), (48, 72, 112), (35, 50, 80),
)  # fmt: skip
_HAIRS: tuple[Colour, ...] = (
    (22, 20, 24), (28, 32, 44), (35, 50, 75), (60, 90, 130), (110, 165, 205),
    (40, 70, 150), (140, 140, 145), (215, 215, 218), (120, 50, 110),
)  # fmt: skip


def pick(rng: np.random.Generator, weights: dict[str, float]) -> str:
    """One of the names, as often as its weight says."""
    ends = list(accumulate(weights.values()))
    return list(weights)[min(bisect(ends, rng.random() * ends[-1]), len(ends) - 1)]


def shaded(colour: Colour, factor: float) -> Colour:
    """A colour made darker (factor under 1) or lighter."""
    return tuple(min(255, max(0, round(c * factor))) for c in colour)  # type: ignore[return-value]


def mixed(first: Colour, second: Colour, share: float) -> Colour:
    """A colour between two, with `share` of the second."""
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))  # type: ignore[return-value]


def any_colour(rng: np.random.Generator) -> Colour:
    """Any colour, dull ones more often than bright ones."""
    grey = rng.uniform(20, 235)
    b, g, r = np.clip(grey + rng.normal(0, 45, 3), 5, 250).astype(int).tolist()
    return b, g, r


def skin_colour(rng: np.random.Generator) -> Colour:
    """A skin colour from very light to very dark."""
    at = rng.uniform(0, len(_SKINS) - 1.001)
    base = mixed(_SKINS[int(at)], _SKINS[int(at) + 1], at % 1)
    b, g, r = np.clip(base + rng.normal(0, 6, 3), 0, 255).astype(int).tolist()
    return b, g, r


@dataclass(frozen=True, slots=True)
class Sprite:
    """Something drawn, to be laid over an image.

    bgra: (H, W, 4) uint8, colours already multiplied by alpha. face: (H, W) bool, the face with
    everything taken off it. bare: (H, W) bool, the part of `face` that nothing in the sprite hides.
    anchor_xy: the pixel of the sprite that lies on the place it is put. box_xyxy: the face's box
    in pixels from the anchor, without area when there is no face.
    """

    bgra: NDArray[np.uint8]
    face: NDArray[np.bool_]
    bare: NDArray[np.bool_]
    anchor_xy: tuple[int, int]
    box_xyxy: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)


class Canvas:
    """A transparent sheet to draw on in units; small things are drawn large and then reduced.

    bounds: left, top, right, bottom in units. unit_px: pixels of a unit in the finished sprite.
    """

    def __init__(self, bounds: tuple[float, float, float, float], unit_px: float) -> None:
        self.scale = max(1, math.ceil(_DRAWN_FACE_PX / (2 * unit_px)))
        self.unit_px = unit_px
        left, top, right, bottom = (b * unit_px for b in bounds)
        self.anchor = (math.ceil(-left) + 2, math.ceil(-top) + 2)
        width, height = (
            self.anchor[0] + math.ceil(right) + 2,
            self.anchor[1] + math.ceil(bottom) + 2,
        )
        shape = (height * self.scale, width * self.scale)
        self.bgra = np.zeros((*shape, 4), dtype=np.uint8)
        self.bare = np.zeros(shape, dtype=np.uint8)
        self.face = self.bare
        self._line = cv2.LINE_AA if self.scale == 1 else cv2.LINE_8
        self._zero = np.array(self.anchor) * self.scale - 0.5

    def pixels(self, points: ArrayLike) -> NDArray[np.int32]:
        """Points in units as OpenCV's fixed-point pixels. Shape (N, 2) -> (N, 2)."""
        places = np.asarray(points) * (self.unit_px * self.scale) + self._zero
        return np.rint(places * (1 << _SHIFT)).astype(np.int32)

    def fill(self, points: ArrayLike, colour: Colour, *, hides_face: bool = False) -> None:
        """Fill a polygon; with `hides_face` the face under it counts as hidden."""
        corners = [self.pixels(points)]
        cv2.fillPoly(self.bgra, corners, (*colour, 255), self._line, _SHIFT)
        if hides_face:
            cv2.fillPoly(self.bare, corners, 0, cv2.LINE_8, _SHIFT)

    def hull(self, points: Points, colour: Colour, *, hides_face: bool = False) -> None:
        """Fill the convex hull of points."""
        corners = cv2.convexHull(points.astype(np.float32))[:, 0]
        self.fill(corners, colour, hides_face=hides_face)

    def oval(self, centre: ArrayLike, radii: ArrayLike, colour: Colour) -> None:
        """Fill an upright ellipse."""
        self.fill(_CIRCLE * np.asarray(radii) + np.asarray(centre), colour)

    def line(self, points: ArrayLike, colour: Colour, width: float) -> None:
        """Draw an open line, `width` units thick and at least one drawn pixel."""
        thickness = max(1, round(width * self.unit_px * self.scale))
        cv2.polylines(
            self.bgra,
            [self.pixels(points)],
            isClosed=False,
            color=(*colour, 255),
            thickness=thickness,
            lineType=self._line,
            shift=_SHIFT,
        )

    def limb(self, ends: Points, colour: Colour, width: float, *, hides_face: bool = False) -> None:
        """Draw a thick straight line with round ends. ends: (2, 2)."""
        circle = _CIRCLE * (width / 2)
        both = np.concatenate([circle + ends[0], circle + ends[1]])
        self.hull(both, colour, hides_face=hides_face)

    def mark_face(self, outlines: Sequence[Points]) -> None:
        """Say where the face is, before anything that hides it is drawn."""
        for outline in outlines:
            corners = [self.pixels(cv2.convexHull(outline.astype(np.float32))[:, 0])]
            cv2.fillPoly(self.bare, corners, 255, cv2.LINE_8, _SHIFT)
        self.face = self.bare.copy()

    def soften(self, sigma: float) -> None:
        """Blur what has been drawn up to now by `sigma` units."""
        size = 2 * round(sigma * self.unit_px * self.scale) + 1
        if size > 1:
            cv2.blur(self.bgra, (size, size), dst=self.bgra)

    def sprite(self, box_xyxy: tuple[float, float, float, float] = (0, 0, 0, 0)) -> Sprite:
        """What has been drawn, at its final size. box_xyxy: the face's box in units."""
        box = tuple(b * self.unit_px for b in box_xyxy)
        bgra, face, bare = (self._reduced(a) for a in (self.bgra, self.face, self.bare))
        return Sprite(bgra, face > 127, bare > 127, self.anchor, box)  # type: ignore[arg-type]

    def _reduced(self, drawn: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.scale == 1:
            return drawn
        size = (drawn.shape[1] // self.scale, drawn.shape[0] // self.scale)
        return np.asarray(cv2.resize(drawn, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


@dataclass(frozen=True, slots=True)
class Person:
    """Everything that decides how a person looks. Names are keys of the catalogues below.

    face_height: pixels from hairline to chin when looking straight. face_width: share of the
    height. jaw: 0.4 (square) to 0.75 (pointed). body_length: units below the chin.
    """

    face_height: float
    yaw_degrees: float
    pitch_degrees: float
    roll_degrees: float
    skin: Colour
    hair: Colour
    clothes: Colour
    accent: Colour
    hair_style: str
    hat: str
    glasses: str
    beard: str
    mouth: str
    covering: str
    face_width: float
    jaw: float
    body_length: float
    light_xyz: tuple[float, float, float]

    @property
    def shows_face(self) -> bool:
        """False for a person seen from behind."""
        return abs(self.yaw_degrees) < 95


class _Head:
    """The turned head of a person on a canvas."""

    def __init__(self, person: Person, canvas: Canvas) -> None:
        self.person, self.canvas = person, canvas
        self.turn = _rotation(person.yaw_degrees, person.pitch_degrees, person.roll_degrees)
        self.half_width = person.face_width

    def seen(self, points_xyz: ArrayLike) -> Points:
        """Where points of the head are seen. Shape (N, 3) -> (N, 2)."""
        seen: Points = (np.asarray(points_xyz) @ self.turn.T)[:, :2]
        return seen

    def widths(self, y: Points) -> Points:
        """Half width of the face at each height. Shape kept."""
        above = np.sqrt(np.clip(1 - ((y + 0.1) / 1.35) ** 2, 0, 1))
        below = np.clip(1 - np.clip((y + 0.1) / 1.1, 0, 1) ** 2.5, 0, 1) ** self.person.jaw
        widths: Points = self.half_width * np.where(y < -0.1, above, below)
        return widths

    def surface(self, points_xy: ArrayLike, *, raised: float = 0.0) -> Points:
        """Points on the front of the face, `raised` units above it. Shape (N, 2) -> (N, 3)."""
        x, y = np.asarray(points_xy, dtype=np.float64).T
        depth = 0.85 * np.sqrt(np.clip(1 - ((y + 0.1) / 1.75) ** 2, 0.05, 1))
        across = np.clip(x / np.maximum(self.widths(y), 0.12), -1, 1)
        return np.stack([x, y, depth * np.sqrt(1 - across**2) + raised], axis=1)

    def on_face(self, points_xy: ArrayLike, *, raised: float = 0.0) -> Points:
        """Where points of the face's front are seen. Shape (N, 2) -> (N, 2)."""
        return self.seen(self.surface(points_xy, raised=raised))

    def faces_viewer(self, x: float, *, least: float = 0.1) -> bool:
        """Whether the skin at this distance from the middle of the face is turned to the viewer."""
        sine = min(1.0, max(-1.0, x / self.half_width))
        normal = np.array([sine, 0.0, math.sqrt(1 - sine * sine)])
        return float(self.turn[2] @ normal) > least

    def cranium(self, thickness: float, *, lowest: float = 9.0) -> Points:
        """The skull above the height `lowest`, with hair this thick. Gives (N, 2)."""
        radii = np.array([self.half_width * 1.06, 0.93, 0.95]) * (1 + thickness)
        points = _SPHERE * radii + (0.0, -0.42, -0.28)
        return self.seen(points[points[:, 1] < lowest])

    def outline(self) -> Points:
        """Points whose hull is the face, ear to ear. Gives (N, 2)."""
        y = np.linspace(-1, 1, 15)
        across = np.array([-1, -0.7, 0.0, 0.7, 1])
        x = self.widths(y)[:, None] * across
        return self.on_face(np.stack([x, np.broadcast_to(y[:, None], x.shape)], -1).reshape(-1, 2))

    def nose(self) -> Points:
        """The nose from the side. Gives (N, 2)."""
        ridge = self.surface([(0, -0.2), (0, 0.0), (0, 0.2), (0, 0.3), (0, 0.34)])
        ridge[:, 2] += (0.02, 0.1, 0.24, 0.2, 0.0)
        return self.seen(ridge)


def _rotation(yaw_degrees: float, pitch_degrees: float, roll_degrees: float) -> Points:
    """The matrix that nods, then turns, then tilts."""
    (cy, sy), (cp, sp), (cr, sr) = (
        (math.cos(a), math.sin(a))
        for a in np.radians((yaw_degrees, pitch_degrees, roll_degrees)).tolist()
    )
    nod = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    turn = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    tilt = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    rotation: Points = tilt @ turn @ nod
    return rotation


# --- hair and hats -----------------------------------------------------------------------------

_HAIR_THICKNESS = {
    "bald": 0.0, "buzz": 0.03, "short": 0.1, "medium": 0.16, "long": 0.14, "afro": 0.42,
    "curly": 0.24, "bun": 0.08, "receding": 0.06,
}  # fmt: skip


def _draw_back_hair(head: _Head, rng: np.random.Generator) -> None:
    """The skull with the hair that lies behind the face."""
    person, canvas = head.person, head.canvas
    colour = person.skin if person.hair_style == "bald" else person.hair
    thickness = _HAIR_THICKNESS[person.hair_style]
    skull = head.cranium(thickness)
    canvas.hull(skull, colour)
    if person.hair_style in ("medium", "long"):
        length = rng.uniform(0.2, 0.9) if person.hair_style == "medium" else rng.uniform(1.1, 2.2)
        side = head.half_width * rng.uniform(1.1, 1.3)
        ends = [(s * side, y, z) for s in (-1, 1) for y in (-0.5, length) for z in (-0.1, -0.8)]
        canvas.hull(np.concatenate([head.seen(ends), skull]), colour)
    elif person.hair_style in ("afro", "curly"):
        for place in cv2.convexHull(skull.astype(np.float32))[:, 0]:
            canvas.oval(place + rng.normal(0, 0.04, 2), (0.2, 0.2), shaded(colour, 1.1))
    elif person.hair_style == "bun":
        middle = head.seen([(0, -1.35, -0.7)])[0]
        canvas.oval(middle, (0.38, 0.36), shaded(colour, 0.9))


def _draw_front_hair(head: _Head, rng: np.random.Generator) -> None:
    """Hairline and fringe on the forehead, and strands when the head is large."""
    person, canvas = head.person, head.canvas
    style = person.hair_style
    if style not in ("bald", "receding"):
        depth = {"buzz": 0.06, "afro": 0.1, "bun": 0.05}.get(style, rng.uniform(0.05, 0.42))
        x = np.linspace(-1, 1, 11)
        parting = rng.uniform(-0.8, 0.8)
        low = -1.0 + depth * (0.35 + 0.65 * np.abs(x - parting)) + rng.normal(0, 0.03, 11)
        low[[0, -1]] = np.maximum(low[[0, -1]], -0.45)
        width = head.widths(low) * 1.01
        lower = head.surface(np.stack([x * width, low], 1), raised=0.03)
        upper = head.surface(np.stack([x[::-1] * width, np.full(11, -1.18)], 1), raised=-0.1)
        ring = np.concatenate([lower, upper])
        if float(head.turn[2, 2]) > 0.2:
            canvas.fill(head.seen(ring), person.hair)
    if canvas.unit_px > 14 and style != "bald":
        skull = head.cranium(_HAIR_THICKNESS[style], lowest=-0.75)
        for _ in range(14):
            start, end = skull[rng.integers(len(skull), size=2)]
            if abs(start[0] - end[0]) < 0.6:
                canvas.line([start, end], shaded(person.hair, rng.uniform(0.7, 1.5)), 0.02)


def _draw_dome(head: _Head, thickness: float, lowest: float) -> None:
    dome = head.cranium(thickness, lowest=lowest)
    head.canvas.hull(dome, head.person.accent, hides_face=True)


def _brim(head: _Head, radius: float, start: float, stop: float) -> Points:
    """An arc around the head at the height of a hat's rim. Gives (N, 2)."""
    angles = np.radians(np.linspace(start, stop, 15))
    x, z = np.sin(angles) * radius * 0.9, np.cos(angles) * radius * 1.1 - 0.1
    return head.seen(np.stack([x, np.full(15, -0.78), z], 1))


def _draw_cap(head: _Head) -> None:
    _draw_dome(head, 0.12, -0.72)
    brim = np.concatenate([_brim(head, 1.35, -38, 38), _brim(head, 0.85, 60, -60)])
    head.canvas.hull(brim, shaded(head.person.accent, 0.75), hides_face=True)


def _draw_beanie(head: _Head) -> None:
    _draw_dome(head, 0.16, -0.62)
    rim = head.on_face([(-0.68, -0.8), (0, -0.8), (0.68, -0.8), (0.68, -0.6), (-0.68, -0.6)])
    if head.turn[2, 2] > 0.5:
        head.canvas.fill(rim, shaded(head.person.accent, 1.25), hides_face=True)


def _draw_brimmed_hat(head: _Head) -> None:
    head.canvas.hull(_brim(head, 1.55, -180, 180), shaded(head.person.accent, 0.8), hides_face=True)
    _draw_dome(head, 0.18, -0.8)


def _draw_helmet(head: _Head) -> None:
    _draw_dome(head, 0.3, -0.55)
    skull = head.cranium(0.3, lowest=-1.2)
    head.canvas.hull(skull * 0.9, shaded(head.person.accent, 1.3))


def _draw_nothing(head: _Head) -> None:
    """For the names in a catalogue that add nothing at this point."""


_HATS: dict[str, Callable[[_Head], None]] = {
    "none": _draw_nothing,
    "scarf": _draw_nothing,  # lies behind the face: see _draw_scarf
    "cap": _draw_cap,
    "beanie": _draw_beanie,
    "brimmed": _draw_brimmed_hat,
    "helmet": _draw_helmet,
}


def _draw_scarf(head: _Head) -> None:
    """A headscarf or hood around the face."""
    lower = [(s * 0.95, y, z) for s in (-1, 1) for y in (0.9, 1.5) for z in (0.3, -0.7)]
    points = np.concatenate([head.cranium(0.24), head.seen(lower)])
    head.canvas.hull(points, head.person.accent)


# --- features ----------------------------------------------------------------------------------


def _draw_skin(head: _Head, outline: Points) -> None:
    """The bare face with the soft shadows of sockets, cheeks and nose."""
    canvas, skin = head.canvas, head.person.skin
    for side in (-1, 1):
        ear = head.seen([(side * head.half_width, y, z) for y, z in _CIRCLE * 0.2 + (0.02, -0.05)])
        outward = ear + np.array([side * 0.06 * head.turn[0, 0], 0])
        canvas.hull(np.concatenate([ear, outward]), shaded(skin, 0.85))
    canvas.hull(outline, skin)
    canvas.fill(head.nose(), shaded(skin, 1.03))
    for side in (-1, 1):
        if head.faces_viewer(side * 0.33):
            socket = _CIRCLE * (0.21, 0.15) + (side * 0.32, -0.25)
            canvas.fill(head.on_face(socket), shaded(skin, 0.8))
            cheek = _CIRCLE * (0.16, 0.13) + (side * 0.4, 0.22)
            canvas.fill(head.on_face(cheek), mixed(shaded(skin, 1.06), (90, 90, 220), 0.08))
    chin = [(-0.25, 0.76), (0.25, 0.76), (0.12, 0.84), (-0.12, 0.84)]
    if head.faces_viewer(0):
        canvas.fill(head.on_face(chin), shaded(skin, 0.88))


def _draw_eye(head: _Head, side: int, look: tuple[float, float], openness: float) -> None:
    canvas, person = head.canvas, head.person
    centre = np.array([side * 0.32, -0.2])
    lids = _CIRCLE * (0.16, openness) + centre
    canvas.fill(head.on_face(lids), mixed((225, 228, 232), person.skin, 0.15))
    iris = head.on_face(_CIRCLE * (0.07, min(0.07, openness * 1.1)) + centre + look)
    canvas.fill(iris, shaded(person.hair, 0.8) if sum(person.hair) < 200 else (90, 70, 40))
    canvas.fill(head.on_face(_CIRCLE * 0.03 + centre + look), (12, 10, 10))
    canvas.line(head.on_face(lids[10:]), shaded(person.skin, 0.35), 0.045)
    brow = [(side * x, y) for x, y in ((0.12, -0.4), (0.3, -0.48), (0.52, -0.4))]
    canvas.line(head.on_face(brow, raised=0.03), mixed(person.hair, person.skin, 0.2), 0.08)


def _draw_nose(head: _Head) -> None:
    canvas, skin = head.canvas, head.person.skin
    tip = head.surface([(0, 0.2)], raised=0.22)[0]
    left, right, top = head.surface([(-0.15, 0.3), (0.15, 0.3), (0, -0.12)])
    lit_left = head.person.light_xyz[0] < 0
    dark_side = head.seen([top, tip, right if lit_left else left])
    canvas.fill(dark_side, shaded(skin, 0.84))
    under = head.seen([left, tip + np.array([0, 0.07, -0.04]), right, (0, 0.36, tip[2] - 0.22)])
    canvas.fill(under, shaded(skin, 0.66))
    for side in (-1, 1):
        if head.faces_viewer(side * 0.08):
            nostril = _CIRCLE * (0.045, 0.028) + (side * 0.075, 0.305)
            canvas.fill(head.on_face(nostril, raised=0.1), shaded(skin, 0.35))


def _mouth_band(width: float, upper: float, lower: float, curve: float) -> Points:
    """A mouth's outline: two arcs between the corners, bent up at the ends by `curve`."""
    x = np.linspace(-1, 1, 7)
    bow = curve * x**2
    top = np.stack([x * width, 0.55 - upper * (1 - x**2) - bow], 1)
    bottom = np.stack([x[::-1] * width, 0.55 + lower * (1 - x**2) - bow], 1)
    return np.concatenate([top, bottom])


def _draw_lips(
    head: _Head, shape: tuple[float, float, float, float], inside: Colour | None
) -> None:
    lip = mixed(shaded(head.person.skin, 0.72), (80, 70, 190), 0.3)
    width, upper, lower, curve = shape
    if inside is None:
        head.canvas.fill(head.on_face(_mouth_band(*shape)), lip)
        middle = _mouth_band(width, 0, 0.0, curve)[:7]
        head.canvas.line(head.on_face(middle), shaded(lip, 0.45), 0.03)
        return
    outer = _mouth_band(width * 1.1, upper + 0.05, lower + 0.07, curve)
    head.canvas.fill(head.on_face(outer), lip)
    head.canvas.fill(head.on_face(_mouth_band(*shape)), inside)


def _draw_closed_mouth(head: _Head) -> None:
    _draw_lips(head, (0.26, 0.05, 0.07, 0.0), None)


def _draw_sad_mouth(head: _Head) -> None:
    _draw_lips(head, (0.25, 0.05, 0.06, -0.06), None)


def _draw_smile(head: _Head) -> None:
    _draw_lips(head, (0.33, 0.0, 0.12, 0.08), (225, 232, 236))


def _draw_laugh(head: _Head) -> None:
    _draw_lips(head, (0.34, 0.06, 0.26, 0.08), (40, 30, 90))
    teeth = _mouth_band(0.27, 0.05, 0.03, 0.06)
    head.canvas.fill(head.on_face(teeth), (228, 234, 238))


def _draw_shout(head: _Head) -> None:
    _draw_lips(head, (0.2, 0.12, 0.3, 0.0), (30, 20, 60))


_MOUTHS: dict[str, Callable[[_Head], None]] = {
    "closed": _draw_closed_mouth,
    "sad": _draw_sad_mouth,
    "smile": _draw_smile,
    "laugh": _draw_laugh,
    "shout": _draw_shout,
}
EXAGGERATED_MOUTHS = ("laugh", "shout")


def _draw_beard(head: _Head) -> None:
    """Stubble, moustache or full beard."""
    person, canvas = head.person, head.canvas
    if person.beard in ("stubble", "full"):
        y = np.linspace(0.15, 1.0, 8)
        width = head.widths(y) * 0.99
        left, right = np.stack([-width, y], 1), np.stack([width, y], 1)[::-1]
        inner = [(0.42, 0.3), (0.2, 0.4), (-0.2, 0.4), (-0.42, 0.3)]
        share = 0.7 if person.beard == "stubble" else 0.12
        outline = head.on_face(np.concatenate([left, right, inner]))
        canvas.fill(outline, mixed(person.hair, person.skin, share))
    if person.beard in ("moustache", "full"):
        lip = [(-0.32, 0.52), (-0.2, 0.41), (0, 0.38), (0.2, 0.41), (0.32, 0.52), (0, 0.46)]
        canvas.fill(head.on_face(lip, raised=0.05), shaded(person.hair, 1.1))


def _draw_glasses(head: _Head) -> None:
    person, canvas = head.person, head.canvas
    dark = person.glasses == "sun"
    rim = (25, 22, 20) if dark else shaded(person.accent, 0.5)
    for side in (-1, 1):
        if not head.faces_viewer(side * 0.33, least=-0.1):
            continue
        lens = head.on_face(_CIRCLE * (0.23, 0.19) + (side * 0.33, -0.18), raised=0.1)
        if dark:
            canvas.fill(lens, (38, 30, 28), hides_face=True)
            canvas.line(lens[11:15], (150, 140, 130), 0.03)
        canvas.line(np.concatenate([lens, lens[:1]]), rim, 0.05)
        hinge = head.surface([(side * 0.56, -0.22)], raised=0.1)[0]
        if head.faces_viewer(side * head.half_width, least=-0.15):
            canvas.line(head.seen([hinge, (side * head.half_width, -0.2, -0.05)]), rim, 0.05)
    canvas.line(head.on_face([(-0.1, -0.22), (0.1, -0.22)], raised=0.14), rim, 0.05)


def _draw_features(head: _Head, rng: np.random.Generator) -> None:
    """Everything crisp on the face, drawn over the soft skin."""
    look = (float(rng.uniform(-0.05, 0.05)), float(rng.uniform(-0.02, 0.03)))
    openness = float(rng.choice([0.015, 0.05, 0.07, 0.09, 0.1]))
    for side in (-1, 1):
        if head.faces_viewer(side * 0.33, least=0.18):
            _draw_eye(head, side, look, openness)
    if head.faces_viewer(0, least=0.25):
        _draw_nose(head)
    _draw_beard(head)
    if head.faces_viewer(0, least=0.1):
        _MOUTHS[head.person.mouth](head)


# --- things before the face --------------------------------------------------------------------


def _draw_surgical_mask(head: _Head, rng: np.random.Generator) -> None:
    colour = any_colour(rng) if rng.random() < 0.3 else (225, 215, 190)
    y = np.linspace(0.1, 0.95, 6)
    width = head.widths(y) * 0.95
    ring = np.concatenate([np.stack([-width, y], 1), np.stack([width, y], 1)[::-1]])
    head.canvas.hull(head.on_face(ring, raised=0.08), colour, hides_face=True)
    if head.faces_viewer(0):
        fold = head.on_face([(-0.5, 0.5), (0, 0.46), (0.5, 0.5)], raised=0.1)
        head.canvas.line(fold, shaded(colour, 0.8), 0.03)


def _draw_hand(head: _Head, rng: np.random.Generator) -> None:
    canvas, skin = head.canvas, shaded(head.person.skin, float(rng.uniform(0.85, 1.05)))
    palm = np.array([rng.uniform(-0.7, 0.7), rng.uniform(-0.1, 1.1)])
    angle = rng.uniform(-0.7, 0.7) - math.pi / 2
    along = np.array([math.cos(angle), math.sin(angle)])
    across = np.array([-along[1], along[0]])
    sleeve = np.stack([palm - along * 0.4, palm - along * 2.2])
    canvas.limb(sleeve, head.person.clothes, 0.55, hides_face=True)
    canvas.limb(np.stack([palm, palm - along * 0.5]), skin, 0.5, hides_face=True)
    for finger in range(4):
        root = palm + across * (finger - 1.5) * 0.17 + along * 0.1
        tip = root + along * rng.uniform(0.45, 0.65) + across * (finger - 1.5) * 0.05
        canvas.limb(
            np.stack([root, tip]), shaded(skin, 0.94 + 0.03 * finger), 0.15, hides_face=True
        )


def _draw_phone(head: _Head, rng: np.random.Generator) -> None:
    centre = np.array([rng.uniform(-0.8, 0.8), rng.uniform(-0.3, 0.7)])
    half = np.array([0.34, 0.62]) if rng.random() < 0.5 else np.array([0.62, 0.34])
    corners = centre + half * [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    colour = shaded(any_colour(rng), 0.4)
    head.canvas.limb(
        centre + np.array([(0, 0.6), (0.2, 2)]), head.person.skin, 0.5, hides_face=True
    )
    head.canvas.fill(corners, colour, hides_face=True)
    head.canvas.oval(corners[0] + 0.12, (0.07, 0.07), (90, 80, 70))


def _draw_microphone(head: _Head, rng: np.random.Generator) -> None:
    top = np.array([rng.uniform(-0.3, 0.3), rng.uniform(0.6, 0.9)])
    end = top + np.array([rng.uniform(-0.6, 0.6), 1.5])
    head.canvas.limb(np.stack([top, end]), (35, 35, 35), 0.14, hides_face=True)
    head.canvas.limb(top + np.array([(0, 0), (0, 0.1)]), (70, 70, 72), 0.36, hides_face=True)


def _draw_cup(head: _Head, rng: np.random.Generator) -> None:
    x, y = rng.uniform(-0.3, 0.3), rng.uniform(0.35, 0.6)
    sides = np.array([(-0.33, 0), (0.33, 0), (0.25, 0.8), (-0.25, 0.8)])
    arm = np.array([(x + 0.3, y + 0.6), (x + 1, y + 2)])
    head.canvas.limb(arm, head.person.skin, 0.4, hides_face=True)
    head.canvas.fill(sides + np.array([x, y]), any_colour(rng), hides_face=True)


_COVERINGS: dict[str, Callable[[_Head, np.random.Generator], None]] = {
    "mask": _draw_surgical_mask,
    "hand": _draw_hand,
    "phone": _draw_phone,
    "microphone": _draw_microphone,
    "cup": _draw_cup,
}


# --- body and light ----------------------------------------------------------------------------


def _draw_body(canvas: Canvas, person: Person, rng: np.random.Generator) -> None:
    """Neck, shoulders, arms and, for a long body, legs; it leans as the head does."""
    lean = math.radians(person.roll_degrees)
    lean *= 1.0 if abs(person.roll_degrees) > 45 else 0.3
    turn = np.array([[math.cos(lean), math.sin(lean)], [-math.sin(lean), math.cos(lean)]])
    hip, end = min(6.0, person.body_length + 1), person.body_length + 1
    broad = rng.uniform(1.25, 1.8)
    cloth, dark = person.clothes, shaded(person.clothes, 0.75)
    for side in (-1, 1) if end > 7 else ():
        leg = np.array([(0, hip - 0.3), (side * broad * 0.8, hip - 0.3), (side * 0.9, end)])
        canvas.hull(np.concatenate([leg, [(side * 0.3, end)]]) @ turn, shaded(person.accent, 0.5))
    neck = np.array([(-0.42, 0.3), (0.42, 0.3), (0.48, 1.6), (-0.48, 1.6)])
    half = [(0.4, 1.35), (broad * 0.8, 1.6), (broad, 1.95), (broad * 0.92, hip)]
    torso = np.array([*half, *((-x, y) for x, y in reversed(half))])
    canvas.fill(torso @ turn, cloth)
    pattern = rng.integers(6)
    if pattern == 0:
        for y in np.arange(2.1, hip - 0.3, 0.55):
            canvas.line(
                np.array([(-broad * 0.95, y), (broad * 0.95, y)]) @ turn, person.accent, 0.22
            )
    elif pattern == 1:
        canvas.line(np.array([(0, 1.6), (0, hip)]) @ turn, person.accent, 0.3)
    elif pattern == 2:
        canvas.hull(np.array([(-0.5, 1.35), (0.5, 1.35), (0, 2.8)]) @ turn, (235, 235, 235))
    canvas.fill(neck @ turn, shaded(person.skin, 0.72))
    for side in (-1, 1):
        shoulder = np.array([side * broad * 0.88, 2.1])
        raised = rng.random() < 0.12
        elbow = shoulder + np.array([side * rng.uniform(0.1, 0.6), -0.9 if raised else 1.8])
        hand = elbow + np.array([side * rng.uniform(-0.9, 0.5), -1.5 if raised else 1.5])
        canvas.limb(np.stack([elbow, hand]) @ turn, person.skin, 0.4)
        canvas.oval((hand[None] @ turn)[0], (0.28, 0.3), person.skin)
        canvas.limb(np.stack([shoulder, elbow]) @ turn, dark, 0.62)


def _lit(sprite: Sprite, person: Person) -> Sprite:
    """The sprite in light from one side: the head round, the body flat."""
    height, width = sprite.bgra.shape[:2]
    unit = person.face_height / 2
    x = (np.arange(width, dtype=np.float32) - sprite.anchor_xy[0]) / unit
    y = (np.arange(height, dtype=np.float32) - sprite.anchor_xy[1]) / (unit * 1.35)
    x, y = np.clip(x, -1.2, 1.2)[None, :], np.clip(y, -1.2, 1.2)[:, None]
    toward = np.sqrt(np.clip(1 - x * x - y * y, 0, 1))
    side, up, front = person.light_xyz
    light = np.clip(0.78 + 0.45 * (side * x + up * y + front * (toward - 0.45)), 0.18, 1.6)
    light = np.repeat(light[:, :, None], 4, axis=2)
    light[:, :, 3] = 1
    bgra = np.asarray(cv2.multiply(sprite.bgra, light, dtype=cv2.CV_8U), dtype=np.uint8)
    np.minimum(bgra, bgra[:, :, 3:], out=bgra)
    return Sprite(bgra, sprite.face, sprite.bare, sprite.anchor_xy, sprite.box_xyxy)


def _bounds(person: Person) -> tuple[float, float, float, float]:
    """How far a person reaches from the middle of the face, in units."""
    if abs(person.roll_degrees) > 45:
        reach = person.body_length + 2
        return -reach, -reach, reach, reach
    lean = 0.3 * abs(math.sin(math.radians(person.roll_degrees)))
    sideways = 2.9 + lean * person.body_length
    return -sideways, -2.5, sideways, person.body_length + 1.2


def draw_person(person: Person, rng: np.random.Generator) -> Sprite:
    """A person with the anchor in the middle of the face; no face's box when seen from behind.

    The box is the tight one around the whole face: hairline to chin, ear to ear, with the nose.
    """
    canvas = Canvas(_bounds(person), person.face_height / 2)
    head = _Head(person, canvas)
    _draw_body(canvas, person, rng)
    if person.hat == "scarf":
        _draw_scarf(head)
    else:
        _draw_back_hair(head, rng)
    if not person.shows_face:
        canvas.soften(0.03)
        _HATS[person.hat](head)
        return _lit(canvas.sprite(), person)
    outline, nose = head.outline(), head.nose()
    _draw_skin(head, outline)
    canvas.soften(0.04)
    canvas.mark_face([outline, nose])
    _draw_features(head, rng)
    if person.hat != "scarf":
        _draw_front_hair(head, rng)
    if person.glasses != "none":
        _draw_glasses(head)
    _HATS[person.hat](head)
    if person.covering != "none":
        _COVERINGS[person.covering](head, rng)
    face = np.concatenate([outline, nose])
    (x1, y1), (x2, y2) = face.min(0).tolist(), face.max(0).tolist()
    return _lit(canvas.sprite((x1, y1, x2, y2)), person)


# --- a person by chance ------------------------------------------------------------------------

_HAIR_WEIGHTS = {
    "bald": 0.07, "buzz": 0.08, "short": 0.27, "medium": 0.15, "long": 0.2, "afro": 0.05,
    "curly": 0.07, "bun": 0.06, "receding": 0.05,
}  # fmt: skip
_HAT_WEIGHTS = {
    "none": 0.72, "cap": 0.08, "beanie": 0.05, "brimmed": 0.05, "helmet": 0.04, "scarf": 0.06,
}  # fmt: skip
_MOUTH_WEIGHTS = {"closed": 0.42, "sad": 0.1, "smile": 0.3, "laugh": 0.1, "shout": 0.08}
_BEARD_WEIGHTS = {"none": 0.74, "stubble": 0.1, "moustache": 0.06, "full": 0.1}
_GLASSES_WEIGHTS = {"none": 0.78, "clear": 0.14, "sun": 0.08}
_COVERING_WEIGHTS = {
    "none": 0.86, "mask": 0.04, "hand": 0.04, "phone": 0.02, "microphone": 0.02, "cup": 0.02,
}  # fmt: skip
_TURN_WEIGHTS = {"front": 0.55, "half": 0.28, "profile": 0.1, "tilted": 0.07}
_TURNS = {"front": (12, 8, 5), "half": (38, 15, 10), "profile": (72, 10, 8), "tilted": (20, 28, 35)}


def _random_pose(rng: np.random.Generator) -> tuple[float, float, float]:
    """Yaw, pitch and roll in degrees."""
    kind = pick(rng, _TURN_WEIGHTS)
    yaw, pitch, roll = (rng.normal(0, 1, 3) * _TURNS[kind] * (0.4, 1, 1)).tolist()
    if kind in ("half", "profile"):
        yaw += math.copysign(_TURNS[kind][0], rng.random() - 0.5)
    if kind == "tilted" and rng.random() < 0.2:
        roll += math.copysign(70.0, roll)
    limit = np.array([88.0, 40.0, 120.0])
    yaw, pitch, roll = np.clip((yaw, pitch, roll), -limit, limit).tolist()
    return yaw, pitch, roll


def random_person(
    rng: np.random.Generator,
    face_height: float,
    *,
    body_length: float,
    light_xyz: tuple[float, float, float],
    from_behind: bool,
) -> Person:
    """A person drawn by lot. face_height: pixels. body_length: half faces below the chin."""
    yaw, pitch, roll = _random_pose(rng)
    if from_behind:
        yaw, pitch = 180.0 + rng.uniform(-40, 40), 0.0
    return Person(
        face_height=face_height,
        yaw_degrees=yaw,
        pitch_degrees=pitch,
        roll_degrees=roll,
        skin=skin_colour(rng),
        hair=shaded(_HAIRS[min(8, int(rng.exponential(2.2)))], float(rng.uniform(0.8, 1.2))),
        clothes=any_colour(rng),
        accent=any_colour(rng),
        hair_style=pick(rng, _HAIR_WEIGHTS),
        hat=pick(rng, _HAT_WEIGHTS),
        glasses=pick(rng, _GLASSES_WEIGHTS),
        beard=pick(rng, _BEARD_WEIGHTS),
        mouth=pick(rng, _MOUTH_WEIGHTS),
        covering=pick(rng, _COVERING_WEIGHTS),
        face_width=float(rng.uniform(0.66, 0.8)),
        jaw=float(rng.uniform(0.4, 0.72)),
        body_length=body_length,
        light_xyz=light_xyz,
    )
