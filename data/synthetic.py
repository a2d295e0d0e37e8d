"""Synthetic faces: drawn scenes of people with exact truth, for work without a data set.

A scene is laid from back to front: a background, things that only look like faces, people, things
in front of people, then light and a camera. An owner map says whose bare face each pixel shows, so
occlusion is counted in pixels. Shape letters: S image size.
"""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from data.boxes import clip_boxes
from data.face_drawing import (
    EXAGGERATED_MOUTHS,
    Canvas,
    Colour,
    Person,
    Sprite,
    any_colour,
    draw_person,
    mixed,
    pick,
    random_person,
    shaded,
    skin_colour,
)
from data.sample import ATTRIBUTES, Faces, Sample

DRAWING_VERSION = 1
"""Raised by every change that makes any scene look different."""

_LEAST_FACE_PX, _MOST_FACE_PX = 6.0, 200.0  # face heights, at an image size of 640
_DROPPED_UNDER, _IGNORED_UNDER = 0.08, 0.3  # visible share of a face
_LIGHT_HIDING, _HEAVY_HIDING = 0.06, 0.35  # hidden share where WIDER's occlusion is 1 and 2
_SOFT_PX, _SHARP_PX = 12.0, 30.0  # resolved pixels of height where WIDER's blur is 1 and 0

Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class SyntheticSource:
    """`count` drawn scenes of image_size x image_size pixels (an ImageSource).

    A sample depends only on (seed, index, image_size), not on the process or the order.
    Faces are 6 to 200 px high at 640 px, most of them small.

    Raises:
        ValueError: count is under 1, image_size is not from 64 to 2048, or seed is negative.
    """

    count: int = 1000
    image_size: int = 640
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")
        if not 64 <= self.image_size <= 2048:
            raise ValueError(f"image_size must be from 64 to 2048 pixels, got {self.image_size}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")

    @property
    def description(self) -> str:
        """One line for people."""
        return f"{self.count} synthetic scenes of {self.image_size} px, seed {self.seed}"

    def fingerprint(self) -> str:
        """Hexadecimal hash of the parameters and of the drawing's version."""
        facts = ("synthetic", DRAWING_VERSION, self.count, self.image_size, self.seed)
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def __len__(self) -> int:
        return self.count

    def load(self, index: int) -> Sample:
        """The scene at an index.

        Raises:
            IndexError: index is not from 0 to count - 1.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"index must be from 0 to {self.count - 1}, got {index}")
        image, faces = _draw_scene(np.random.default_rng((self.seed, index)), self.image_size)
        return Sample(image, faces, f"synthetic/{self.seed}/{index}")


# --- the sheet that keeps the truth --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A face laid on the sheet. box_xyxy: the whole face, not yet cut at the border."""

    person: Person
    box_xyxy: tuple[float, ...]
    face_pixels: int
    blur_px: float


class _Sheet:
    """The image while it is drawn, and whose bare face each pixel shows (-1: nobody's)."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.owner: NDArray[np.int16] = np.full(image.shape[:2], -1, dtype=np.int16)
        self.drawn: list[_Drawn] = []

    def lay(self, sprite: Sprite, place_xy: tuple[int, int]) -> bool:
        """Lay a sprite over the image with its anchor at a place; whether any of it is inside."""
        size = self.owner.shape[0]
        left, top = (p - a for p, a in zip(place_xy, sprite.anchor_xy, strict=True))
        height, width = sprite.bgra.shape[:2]
        rows, columns = _cut(top, height, size), _cut(left, width, size)
        if rows is None or columns is None:
            return False
        there = (rows[0], columns[0])
        patch, bare = sprite.bgra[rows[1], columns[1]], sprite.bare[rows[1], columns[1]]
        alpha = patch[:, :, 3]
        through = cv2.merge([255 - alpha] * 3)
        under = cv2.multiply(self.image[there], through, scale=1 / 255)
        self.image[there] = cv2.add(under, cv2.cvtColor(patch, cv2.COLOR_BGRA2BGR))
        owner = self.owner[there]
        owner[alpha > 127] = -1
        owner[bare] = len(self.drawn)
        return True

    def lay_person(self, person: Person, sprite: Sprite, *, at: "_Place", blur_px: float) -> None:
        """Lay a person, and remember the face if it shows one."""
        place_xy = (round(at.x), round(at.y))
        if blur_px > 0.3:
            sprite = replace(sprite, bgra=np.asarray(_blurred(sprite.bgra, blur_px)))
        inside = self.lay(sprite, place_xy)
        if inside and person.shows_face:
            box = tuple(b + place_xy[i % 2] for i, b in enumerate(sprite.box_xyxy))
            self.drawn.append(_Drawn(person, box, int(sprite.face.sum()), blur_px))

    def faces(self, *, blur_px: float, badly_lit: bool) -> Faces:
        """The truth. blur_px: what the camera added. Faces that hardly show are left out."""
        shown = np.bincount(self.owner[self.owner >= 0], minlength=len(self.drawn))
        rows: list[tuple[float, ...]] = []
        attributes: list[tuple[int, ...]] = []
        for face, pixels in zip(self.drawn, shown.tolist(), strict=True):
            visible = pixels / max(1, face.face_pixels)
            if visible < _DROPPED_UNDER:
                continue
            rows.append(face.box_xyxy)
            blur = math.hypot(blur_px, face.blur_px)
            facts = _attributes(face, visible=visible, blur_px=blur, badly_lit=badly_lit)
            attributes.append(tuple(facts[name] for name in ATTRIBUTES))
        height, width = self.owner.shape
        boxes = np.array(rows, dtype=np.float32).reshape(-1, 4)
        boxes = clip_boxes(boxes, width=width, height=height)
        values = np.array(attributes, dtype=np.uint8).reshape(-1, len(ATTRIBUTES))
        return Faces(boxes, values, values[:, ATTRIBUTES.index("invalid")] > 0)


def _attributes(face: _Drawn, *, visible: float, blur_px: float, badly_lit: bool) -> dict[str, int]:
    """WIDER FACE's attributes of a face, by name. visible: share of the whole face."""
    person, hidden = face.person, 1 - visible
    resolved_px = person.face_height / math.sqrt(1 + (2 * blur_px) ** 2)
    turned = abs(person.yaw_degrees) > 50 or abs(person.pitch_degrees) > 30
    return {
        "blur": int(resolved_px < _SHARP_PX) + int(resolved_px < _SOFT_PX),
        "expression": int(person.mouth in EXAGGERATED_MOUTHS),
        "illumination": int(badly_lit),
        "invalid": int(visible < _IGNORED_UNDER),
        "occlusion": int(hidden > _LIGHT_HIDING) + int(hidden > _HEAVY_HIDING),
        "pose": int(turned or abs(person.roll_degrees) > 30),
    }


def _cut(start: int, length: int, size: int) -> tuple[slice, slice] | None:
    """Where a stretch lies in 0..size: (slice there, slice of the stretch), None if outside."""
    first, last = max(start, 0), min(start + length, size)
    return None if first >= last else (slice(first, last), slice(first - start, last - start))


def _blurred(image: Image, sigma_px: float) -> Image:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma_px), dtype=np.uint8)


# --- backgrounds -----------------------------------------------------------------------------


def _noise(rng: np.random.Generator, size: int, *, cells: int) -> NDArray[np.float32]:
    """Value noise of mean 1 with lumps of size / cells pixels and finer ones. Shape (S, S)."""
    field = np.ones((size, size), dtype=np.float32)
    for octave in range(3):
        grid = rng.normal(0, 0.1 / 1.6**octave, (cells * 3**octave,) * 2).astype(np.float32)
        field += cv2.resize(grid, (size, size), interpolation=cv2.INTER_LINEAR)
    return field


def _paint(rng: np.random.Generator) -> Colour:
    """A colour as walls and streets have it: duller than clothes."""
    colour = any_colour(rng)
    grey = sum(colour) // 3
    return mixed(colour, (grey, grey, grey), float(rng.uniform(0.2, 0.9)))


def _graded(rng: np.random.Generator, size: int) -> Image:
    """One colour turning into another from the top to the bottom."""
    ends = np.array([[_paint(rng)], [_paint(rng)]], dtype=np.uint8)
    return np.asarray(cv2.resize(ends, (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)


def _box(image: Image, corners: NDArray[np.floating], colour: Colour) -> None:
    """A filled rectangle. corners: left, top, right, bottom as shares of the image's size."""
    left, top, right, bottom = (int(c * image.shape[0]) for c in corners.tolist())
    cv2.rectangle(image, (left, top), (right, bottom), colour, cv2.FILLED)


def _draw_leaves(rng: np.random.Generator, image: Image, *, top: float, count: int) -> None:
    """Leaves everywhere under `top`, a share of the image's height."""
    size = image.shape[0]
    base = (int(rng.integers(20, 70)), int(rng.integers(60, 130)), int(rng.integers(30, 100)))
    reach = size * float(rng.uniform(0.006, 0.035))
    places = rng.uniform((0, top * size), (size, size), (count, 2)).astype(int).tolist()
    radii = (rng.uniform(0.3, 1, (count, 2)) * reach + 1).astype(int).tolist()
    angles, tones = rng.uniform(0, 180, count).tolist(), rng.uniform(0.3, 1.6, count).tolist()
    for place, radius, angle, tone in zip(places, radii, angles, tones, strict=True):
        cv2.ellipse(image, place, radius, angle, 0, 360, shaded(base, tone), cv2.FILLED)


def _foliage(rng: np.random.Generator, size: int) -> Image:
    image = _graded(rng, size)
    _draw_leaves(rng, image, top=float(rng.uniform(0, 0.5)), count=900)
    return image


def _bricks(rng: np.random.Generator, size: int) -> Image:
    """A wall of bricks or tiles."""
    height = max(4, int(size * rng.uniform(0.015, 0.08)))
    width = int(height * rng.uniform(1, 3))
    row = np.arange(size)[:, None] // height
    across = np.arange(size)[None, :] + (row % 2) * (width // 2)
    base = np.array(_paint(rng)) * rng.uniform(
        0.75, 1.2, (size // height + 1, size // width + 2, 1)
    )
    image: Image = np.clip(base, 0, 255).astype(np.uint8)[row, across // width]
    joint = (np.arange(size)[:, None] % height < height // 8 + 1) | (
        across % width < height // 8 + 1
    )
    image[joint] = _paint(rng)
    return image


def _buildings(rng: np.random.Generator, size: int) -> Image:
    """House fronts with windows against the sky, and a street."""
    image = _graded(rng, size)
    left = 0.0
    while left < 1:
        right, top = left + rng.uniform(0.15, 0.4), rng.uniform(0, 0.45)
        wall, glass = _paint(rng), _paint(rng)
        _box(image, np.array([left, top, right, 1]), wall)
        step_x, step_y = rng.uniform(0.025, 0.08), rng.uniform(0.035, 0.1)
        for x in np.arange(left + step_x / 3, right - step_x * 0.7, step_x):
            for y in np.arange(top + step_y / 3, 0.75, step_y):
                pane = np.array([x, y, x + step_x * 0.6, y + step_y * 0.65])
                _box(image, pane, shaded(glass, float(rng.uniform(0.5, 1.4))))
        left = right
    _box(image, np.array([0, rng.uniform(0.7, 0.85), 1, 1]), _paint(rng))
    return image


def _field(rng: np.random.Generator, size: int) -> Image:
    """Sky, hills or trees, and ground."""
    image = _graded(rng, size)
    sky = np.array([(235, 205, 170), (250, 235, 220), (200, 200, 205), (150, 170, 230)])
    horizon = float(rng.uniform(0.2, 0.6))
    b, g, r = sky[rng.integers(4)].tolist()
    _box(image, np.array([0, 0, 1, horizon]), (b, g, r))
    for _ in range(rng.integers(2, 14)):
        x, reach = int(rng.uniform(0, size)), int(size * rng.uniform(0.03, 0.2))
        place = (x, int(horizon * size))
        cv2.ellipse(image, place, (reach, reach), 0, 180, 360, (40, 80, 50), cv2.FILLED)
    _draw_leaves(rng, image, top=horizon, count=300)
    return image


def _room(rng: np.random.Generator, size: int) -> Image:
    """A wall with frames, shelves, boxes and writing, over a floor."""
    image = _graded(rng, size)
    floor = rng.uniform(0.55, 0.95)
    _box(image, np.array([0, floor, 1, 1]), _paint(rng))
    for _ in range(rng.integers(4, 16)):
        corner, extent = rng.uniform(-0.1, 0.9, 2), rng.uniform(0.03, 0.35, 2)
        corners = np.concatenate([corner, corner + extent])
        colour = _paint(rng)
        _box(image, corners, shaded(colour, 0.6))
        inset = extent.min() * 0.12
        _box(image, corners + inset * np.array([1, 1, -1, -1]), colour)
        if rng.random() < 0.4:
            place = (corners[0] * size, corners[3] * size)
            text = "".join(chr(65 + i) for i in rng.integers(26, size=6))
            height = float(extent[1] * size / 60)
            cv2.putText(image, text, (int(place[0]), int(place[1])), 0, height, _paint(rng), 2)
    return image


def _stands(rng: np.random.Generator, size: int) -> Image:
    """Rows of round-topped seats, as close and as small as a crowd's heads."""
    image = _graded(rng, size)
    base, step = _paint(rng), int(size * rng.uniform(0.018, 0.06))
    for y in range(int(size * rng.uniform(0, 0.4)), size, step):
        for x in range((y // step % 2) * step // 2, size, step):
            colour = shaded(base, float(rng.uniform(0.75, 1.2)))
            cv2.ellipse(image, (x, y), (step * 2 // 5, step // 2), 0, 0, 360, colour, cv2.FILLED)
    return image


_BACKGROUNDS: dict[str, Callable[[np.random.Generator, int], Image]] = {
    "graded": _graded,
    "foliage": _foliage,
    "bricks": _bricks,
    "buildings": _buildings,
    "field": _field,
    "room": _room,
    "stands": _stands,
}


def _background(rng: np.random.Generator, size: int) -> Image:
    """Any background with an uneven surface, sometimes out of focus."""
    names = list(_BACKGROUNDS)
    image = _BACKGROUNDS[names[rng.integers(len(names))]](rng, size)
    field = _noise(rng, size, cells=int(rng.integers(3, 25)))
    if rng.random() < 0.4:
        image = _blurred(image, float(rng.uniform(0.5, 5)) * size / 640)
    return np.asarray(cv2.multiply(image, cv2.merge([field] * 3), dtype=cv2.CV_8U), np.uint8)


# --- things that are not faces ------------------------------------------------------------------

_ROUND = np.stack([f(np.linspace(0, 2 * math.pi, 25)) for f in (np.cos, np.sin)], 1)


def _draw_clock(canvas: Canvas, rng: np.random.Generator) -> None:
    canvas.oval((0, 0), (1, 1), shaded(any_colour(rng), 0.5))
    canvas.oval((0, 0), (0.88, 0.88), (225, 232, 235))
    for mark in _ROUND[::2]:
        canvas.line([mark * 0.7, mark * 0.82], (30, 30, 30), 0.06)
    for reach in (0.45, 0.7):
        canvas.line([(0, 0), _ROUND[rng.integers(25)] * reach], (25, 25, 30), 0.08)


def _draw_plate(canvas: Canvas, rng: np.random.Generator) -> None:
    """A plate, a biscuit or a pizza: a disc with dots anywhere."""
    colour = skin_colour(rng) if rng.random() < 0.6 else any_colour(rng)
    canvas.oval((0, 0), (1, rng.uniform(0.7, 1)), colour)
    canvas.oval((0, 0), (0.8, 0.62), shaded(colour, 0.9))
    for place in rng.uniform(-0.5, 0.5, (rng.integers(3, 9), 2)):
        canvas.oval(place, rng.uniform(0.06, 0.2, 2), shaded(any_colour(rng), 0.6))


def _draw_ball(canvas: Canvas, rng: np.random.Generator) -> None:
    colour = any_colour(rng) if rng.random() < 0.5 else skin_colour(rng)
    for ring in range(6):
        place = np.array([-0.3, -0.35]) * ring / 6
        canvas.oval(place, (1 - ring / 7,) * 2, shaded(colour, 0.7 + 0.09 * ring))
    if rng.random() < 0.5:
        for spot in _ROUND[::5] * 0.6:
            canvas.oval(spot, (0.2, 0.2), (30, 30, 30))


def _draw_blob(canvas: Canvas, rng: np.random.Generator) -> None:
    """A bare patch of skin colour: an arm, a knee, a bag."""
    radii = rng.uniform(0.55, 1.1, 25)[:, None]
    colour = skin_colour(rng)
    canvas.hull(_ROUND * radii * (rng.uniform(0.5, 1), 1.1), colour)
    canvas.limb(np.array([(0, 0.2), rng.uniform(-1.2, 1.2, 2)]), shaded(colour, 0.9), 0.6)
    canvas.soften(0.1)


def _draw_socket(canvas: Canvas, rng: np.random.Generator) -> None:
    """A wall socket: a pale square with two holes and a slot."""
    square = np.array([(-0.9, -1), (0.9, -1), (0.9, 1), (-0.9, 1)])
    pale = mixed((235, 238, 240), any_colour(rng), 0.15)
    canvas.fill(square, pale)
    canvas.oval((0, 0), (0.7, 0.75), shaded(pale, 0.9))
    for x in (-0.3, 0.3):
        canvas.oval((x, -0.15), (0.1, 0.16), (30, 30, 30))
    canvas.oval((0, 0.35), (0.15, 0.1), (40, 40, 40))


def _draw_animal(canvas: Canvas, rng: np.random.Generator) -> None:
    """A dog, cat or bear looking at the viewer: ears on top, a muzzle, no bare skin."""
    fur = shaded(skin_colour(rng), float(rng.uniform(0.5, 1)))
    long_ears = rng.random() < 0.5
    for side in (-1, 1):
        tip = (side * 1.15, 0.5) if long_ears else (side * 0.9, -1.25)
        ear = np.array([(side * 0.3, -0.8), tip, (side * 0.95, -0.1)])
        canvas.fill(ear, shaded(fur, 0.65))
    canvas.oval((0, 0), (0.95, 0.9), fur)
    canvas.oval((0, 0.4), (0.5, 0.42), mixed(fur, (235, 235, 235), 0.5))
    canvas.soften(0.06)
    for side in (-1, 1):
        canvas.oval((side * 0.4, -0.15), (0.13, 0.13), (20, 25, 30))
    canvas.oval((0, 0.25), (0.2, 0.14), (25, 22, 25))
    canvas.line([(-0.25, 0.6), (0, 0.5), (0.25, 0.6)], (25, 25, 25), 0.06)


def _draw_lamp(canvas: Canvas, rng: np.random.Generator) -> None:
    """The front of a car: two lamps over a grille."""
    paint = any_colour(rng)
    canvas.fill(np.array([(-1.2, -0.5), (1.2, -0.5), (1.2, 0.9), (-1.2, 0.9)]), paint)
    canvas.fill(np.array([(-1, -0.5), (-0.7, -1.1), (0.7, -1.1), (1, -0.5)]), shaded(paint, 0.4))
    canvas.fill(np.array([(-0.5, 0.2), (0.5, 0.2), (0.5, 0.6), (-0.5, 0.6)]), (35, 35, 35))
    for side in (-1, 1):
        canvas.oval((side * 0.85, 0.1), (0.26, 0.2), (225, 235, 240))


def _draw_flower(canvas: Canvas, rng: np.random.Generator) -> None:
    petals, heart = any_colour(rng), any_colour(rng)
    canvas.line([(0, 0), (0.1, 1.2)], (40, 110, 50), 0.15)
    for place in _ROUND[:24:3] * 0.55:
        canvas.oval(place, (0.32, 0.32), shaded(petals, float(rng.uniform(0.8, 1.15))))
    canvas.oval((0, 0), (0.35, 0.35), heart)


_DISTRACTORS: tuple[Callable[[Canvas, np.random.Generator], None], ...] = (
    _draw_clock, _draw_plate, _draw_ball, _draw_blob, _draw_blob, _draw_socket, _draw_animal,
    _draw_lamp, _draw_flower,
)  # fmt: skip


def _lay_distractors(rng: np.random.Generator, sheet: _Sheet, count: int) -> None:
    size = sheet.owner.shape[0]
    for _ in range(count):
        radius = max(3.0, math.exp(rng.uniform(math.log(4), math.log(80))) * size / 640)
        canvas = Canvas((-1.4, -1.4, 1.4, 1.4), radius)
        _DISTRACTORS[rng.integers(len(_DISTRACTORS))](canvas, rng)
        x, y = rng.integers(0, size, 2).tolist()
        sheet.lay(canvas.sprite(), (x, y))


def _lay_obstacles(rng: np.random.Generator, sheet: _Sheet, count: int) -> None:
    """Poles, signs and branches in front of people."""
    size = sheet.owner.shape[0]
    for _ in range(count):
        reach = size * float(rng.uniform(0.03, 0.12))
        canvas = Canvas((-1.2, -6, 1.2, 6), reach)
        colour = any_colour(rng)
        width = float(rng.uniform(0.08, 0.3))
        canvas.limb(np.array([(rng.uniform(-0.3, 0.3), -6), (0, 6)]), colour, width)
        if rng.random() < 0.5:
            sign = np.array([(-1, -0.6), (1, -0.6), (1, 0.6), (-1, 0.6)]) * rng.uniform(0.4, 1, 2)
            canvas.fill(sign, any_colour(rng))
            canvas.line(sign[:2] * (0.7, 0), any_colour(rng), 0.1)
        x, y = rng.integers(0, size, 2).tolist()
        sheet.lay(canvas.sprite(), (x, y))


# --- where people stand --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """The middle of a face and its height in pixels; body_length in half faces under the chin."""

    x: float
    y: float
    height: float
    body_length: float


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return math.exp(rng.uniform(math.log(low), math.log(high)))


def _rows(
    rng: np.random.Generator, *, rows: int, each: int, height: float, growth: float
) -> list[_Place]:
    """Rows of people, the nearer ones larger, lower and in front."""
    places = []
    gap, step = rng.uniform(0.85, 2.0), rng.uniform(0.7, 2.0)
    middle = rng.uniform(120, 520)
    y = rng.uniform(40, 420)
    for _ in range(rows):
        shift = rng.uniform(-0.5, 0.5)
        for number in range(each):
            jitter = rng.normal(0, (0.15, 0.2, 0.08))
            x = middle + (number - each / 2 + shift + jitter[0]) * gap * height
            size = height * math.exp(jitter[2])
            places.append(_Place(x, y + jitter[1] * height, size, 12.0 if height < 25 else 5.0))
        y += step * height
        height *= growth
    return [p for p in places if -5 < p.x < 645 and -5 < p.y < 645]


def _plan_crowd(rng: np.random.Generator) -> list[_Place]:
    places = []
    for _ in range(rng.integers(1, 3)):
        rows, each = int(rng.integers(2, 6)), int(rng.integers(3, 11))
        height, growth = _log_uniform(rng, 5, 14), rng.uniform(1.0, 1.3)
        places += _rows(rng, rows=rows, each=each, height=height, growth=growth)
    return places


def _plan_group(rng: np.random.Generator) -> list[_Place]:
    rows, each = int(rng.integers(1, 4)), int(rng.integers(2, 8))
    return _rows(rng, rows=rows, each=each, height=_log_uniform(rng, 14, 85), growth=1.05)


def _plan_street(rng: np.random.Generator) -> list[_Place]:
    """People standing on one plane, as high as they are near."""
    horizon, slope = rng.uniform(60, 300), rng.uniform(0.08, 0.4)
    places = []
    for _ in range(rng.integers(1, 13)):
        height = _log_uniform(rng, 6, 80)
        y = horizon + height * slope + rng.normal(0, 0.5) * height
        places.append(_Place(rng.uniform(0, 640), y, height, 12.0))
    return places


def _plan_portrait(rng: np.random.Generator) -> list[_Place]:
    count = int(rng.integers(1, 5))
    sizes = [_log_uniform(rng, 50, 200) for _ in range(count)]
    return [_Place(rng.uniform(60, 580), rng.uniform(120, 460), s, 6.0) for s in sizes]


def _plan_empty(rng: np.random.Generator) -> list[_Place]:  # noqa: ARG001
    return []


_PLANS: dict[str, Callable[[np.random.Generator], list[_Place]]] = {
    "crowd": _plan_crowd,
    "group": _plan_group,
    "street": _plan_street,
    "portrait": _plan_portrait,
    "empty": _plan_empty,
}
_PLAN_WEIGHTS = {"crowd": 0.17, "group": 0.24, "street": 0.2, "portrait": 0.33, "empty": 0.06}


def _lay_people(rng: np.random.Generator, sheet: _Sheet, places: list[_Place]) -> None:
    """People from the farthest to the nearest. Places are for an image of 640 px."""
    scale = sheet.owner.shape[0] / 640
    light = (float(rng.uniform(-0.8, 0.8)), float(rng.uniform(-0.6, 0.2)), 0.6)
    behind = 0.6 if rng.random() < 0.06 else 0.05
    focus_height = _log_uniform(rng, 10, 150) if rng.random() < 0.3 else None
    for at in sorted(places, key=lambda p: (p.height * 0.02 + p.y / 640, p.x)):
        height = min(max(at.height, _LEAST_FACE_PX), _MOST_FACE_PX) * scale
        place = _Place(at.x * scale, at.y * scale, max(height, _LEAST_FACE_PX), at.body_length)
        person = random_person(
            rng,
            place.height,
            body_length=place.body_length,
            light_xyz=light,
            from_behind=rng.random() < behind,
        )
        blur_px = 0.0
        if focus_height is not None:
            blur_px = 0.03 * place.height * abs(math.log(at.height / focus_height))
        sheet.lay_person(person, draw_person(person, rng), at=place, blur_px=blur_px)


# --- light and camera ----------------------------------------------------------------------------


def _relit(rng: np.random.Generator, image: Image) -> tuple[Image, bool]:
    """The image in the scene's light, and whether that light is extreme."""
    size = image.shape[0]
    corners = rng.uniform(0.6, 1.25, (int(rng.integers(2, 5)), 2, 1))
    cast = rng.normal(1, 0.06, 3)
    kind = pick(rng, {"plain": 0.82, "dark": 0.1, "bright": 0.08})
    gain = {"plain": rng.uniform(0.8, 1.2), "dark": rng.uniform(0.28, 0.5), "bright": 1.9}[kind]
    field = cv2.resize((corners * cast * gain).astype(np.float32), (size, size))
    veil = {"plain": rng.uniform(0, 15), "dark": 4.0, "bright": 20.0}[kind]
    lit = cv2.addWeighted(cv2.multiply(image, field, dtype=cv2.CV_8U), 1, image, 0, veil)
    return np.asarray(lit, dtype=np.uint8), kind != "plain"


def _photographed(rng: np.random.Generator, image: Image) -> tuple[Image, float]:
    """The image with the lens's blur, sensor noise and JPEG artefacts, and the blur in pixels."""
    size, blur_px = image.shape[0], float(rng.uniform(0, 0.5))
    kind = pick(rng, {"still": 0.78, "defocused": 0.12, "moved": 0.1})
    if kind == "defocused":
        blur_px = float(rng.uniform(0.7, 2.2)) * size / 640
    if kind == "moved":
        length = int(rng.integers(3, 12) * size / 640) | 1
        kernel = np.zeros((length, length), dtype=np.float32)
        tilt = rng.uniform(-1, 1) * (length // 2)
        ends = [(0, round(length // 2 - tilt)), (length - 1, round(length // 2 + tilt))]
        cv2.line(kernel, ends[0], ends[1], 1)
        image = np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()), dtype=np.uint8)
        blur_px += length / math.sqrt(12)
    elif blur_px > 0.3:
        image = _blurred(image, blur_px)
    grain = rng.standard_normal((size, size), dtype=np.float32) * rng.uniform(1, 9)
    noisy = cv2.add(image, cv2.merge([grain] * 3), dtype=cv2.CV_8U)
    quality = int(rng.integers(35, 96))
    _, packed = cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), dtype=np.uint8), blur_px


def _draw_scene(rng: np.random.Generator, size: int) -> tuple[Image, Faces]:
    """A scene as a photograph of size x size pixels, with its faces."""
    sheet = _Sheet(_background(rng, size))
    places = _PLANS[pick(rng, _PLAN_WEIGHTS)](rng)
    _lay_distractors(rng, sheet, int(rng.poisson(5)))
    _lay_people(rng, sheet, places)
    _lay_distractors(rng, sheet, int(rng.poisson(0.6)))
    _lay_obstacles(rng, sheet, int(rng.poisson(0.6)))
    lit, badly_lit = _relit(rng, sheet.image)
    image, blur_px = _photographed(rng, lit)
    return image, sheet.faces(blur_px=blur_px, badly_lit=badly_lit)
