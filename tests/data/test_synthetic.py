"""Synthetic scenes: the same every time, with a truth that agrees with what was drawn."""

import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest

from data import synthetic
from data.boxes import box_areas, box_heights
from data.face_drawing import Canvas, Person, draw_person, pick, random_person, shaded
from data.sample import ATTRIBUTES, Faces, Sample
from data.synthetic import SyntheticSource

SIZE = 320


def plain_person(**changes: object) -> Person:
    """A bare-headed person of 60 px who looks straight ahead."""
    person = random_person(
        np.random.default_rng(1), 60.0, body_length=3.0, light_xyz=(0, 0, 0.5), from_behind=False
    )
    straight = replace(
        person,
        yaw_degrees=0.0,
        pitch_degrees=0.0,
        roll_degrees=0.0,
        hat="none",
        hair_style="short",
        glasses="none",
        covering="none",
    )
    return replace(straight, **changes)  # type: ignore[arg-type]


def same(first: Sample, second: Sample) -> bool:
    return (
        np.array_equal(first.image, second.image)
        and np.array_equal(first.faces.boxes_xyxy, second.faces.boxes_xyxy)
        and np.array_equal(first.faces.attributes, second.faces.attributes)
        and np.array_equal(first.faces.ignore, second.faces.ignore)
        and first.source == second.source
    )


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    source = SyntheticSource(count=24, image_size=SIZE, seed=3)
    return [source.load(i) for i in range(len(source))]


def test_a_sample_does_not_depend_on_order_or_on_how_many_there_are(samples: list[Sample]) -> None:
    longer = SyntheticSource(count=100, image_size=SIZE, seed=3)
    for index in (17, 2, 9):
        assert same(longer.load(index), samples[index])


def test_a_sample_is_the_same_in_a_fresh_process(samples: list[Sample]) -> None:
    source = SyntheticSource(count=24, image_size=SIZE, seed=3)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert same(pool.submit(source.load, 5).result(timeout=60), samples[5])


def test_seeds_and_indices_give_different_scenes(samples: list[Sample]) -> None:
    other = SyntheticSource(count=2, image_size=SIZE, seed=4).load(0)
    assert not np.array_equal(other.image, samples[0].image)
    assert not np.array_equal(samples[0].image, samples[1].image)


def test_no_global_random_state_is_used() -> None:
    before = str(np.random.get_state())  # noqa: NPY002
    SyntheticSource(count=1, image_size=64).load(0)
    assert str(np.random.get_state()) == before  # noqa: NPY002


def test_boxes_lie_inside_the_image_and_ignore_is_invalid(samples: list[Sample]) -> None:
    for sample in samples:
        faces = sample.faces
        assert sample.image.shape == (SIZE, SIZE, 3)
        assert (faces.boxes_xyxy >= 0).all()
        assert (faces.boxes_xyxy <= SIZE).all()
        assert (box_areas(faces.boxes_xyxy) > 0).all()
        invalid = faces.attributes[:, ATTRIBUTES.index("invalid")]
        assert np.array_equal(invalid > 0, faces.ignore)
        assert (faces.attributes.max(0, initial=0) <= (2, 1, 1, 1, 2, 1)).all()


def test_scenes_are_varied(samples: list[Sample]) -> None:
    heights = np.concatenate([box_heights(s.faces.boxes_xyxy) for s in samples])
    assert heights.min() < 10
    assert heights.max() > 40
    assert np.median(heights) < 25
    attributes = np.concatenate([s.faces.attributes for s in samples])
    for name in ("blur", "expression", "occlusion", "pose"):
        assert len(np.unique(attributes[:, ATTRIBUTES.index(name)])) > 1


def test_some_scenes_have_no_face() -> None:
    source = SyntheticSource(count=60, image_size=64)
    counts = [len(source.load(i).faces) for i in range(60)]
    assert min(counts) == 0
    assert max(counts) > 10


@pytest.mark.parametrize("height", [6.0, 15.0, 60.0, 180.0])
def test_the_box_is_tight_around_the_face_that_was_drawn(height: float) -> None:
    for yaw in (-70.0, 0.0, 40.0):
        person = plain_person(face_height=height, yaw_degrees=yaw, roll_degrees=20.0)
        sprite = draw_person(person, np.random.default_rng(0))
        rows, columns = np.nonzero(sprite.face)
        drawn = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        shift = np.array(sprite.anchor_xy * 2)
        assert np.abs(drawn - shift - sprite.box_xyxy).max() <= 1.5


def test_a_straight_face_is_as_high_as_it_was_asked_for() -> None:
    _, top, _, bottom = draw_person(plain_person(), np.random.default_rng(0)).box_xyxy
    assert bottom - top == pytest.approx(60, rel=0.02)


@pytest.mark.parametrize("change", [{"covering": "mask"}, {"glasses": "sun"}, {"hat": "helmet"}])
def test_what_is_worn_hides_part_of_the_face(change: dict[str, str]) -> None:
    free = draw_person(plain_person(), np.random.default_rng(0))
    worn = draw_person(plain_person(**change), np.random.default_rng(0))
    assert free.bare.sum() == free.face.sum() == worn.face.sum()
    assert 0.2 * worn.face.sum() < worn.bare.sum() < 0.97 * worn.face.sum()


def test_a_person_from_behind_has_no_face() -> None:
    sprite = draw_person(plain_person(yaw_degrees=180.0), np.random.default_rng(0))
    assert not sprite.face.any()
    assert sprite.bgra.any()


def one_face_behind_a_cover(share: float) -> Faces:
    """A face of 60 px in a 200 px image with the right `share` of it covered."""
    sheet = synthetic._Sheet(np.zeros((200, 200, 3), dtype=np.uint8))
    person = plain_person()
    place = synthetic._Place(100, 100, 60, 3)
    sprite = draw_person(person, np.random.default_rng(0))
    sheet.lay_person(person, sprite, at=place, blur_px=0.0)
    columns = np.nonzero(sprite.face)[1] - sprite.anchor_xy[0]
    left = float(np.quantile(columns, 1 - share)) + 1
    canvas = Canvas((-100, -100, 100, 100), 1.0)  # one unit is one pixel
    canvas.fill(np.array([(left, -90), (95, -90), (95, 90), (left, 90)]), (9, 9, 9))
    if share:
        sheet.lay(canvas.sprite(), (100, 100))
    return sheet.faces(blur_px=0.0, badly_lit=False)


@pytest.mark.parametrize(("share", "occlusion"), [(0.0, 0), (0.2, 1), (0.5, 2)])
def test_occlusion_is_what_is_covered(share: float, occlusion: int) -> None:
    faces = one_face_behind_a_cover(share)
    assert faces.attributes[0, ATTRIBUTES.index("occlusion")] == occlusion
    assert not faces.ignore[0]


def test_a_face_nearly_hidden_is_ignored_and_one_quite_hidden_left_out() -> None:
    assert one_face_behind_a_cover(0.8).ignore.tolist() == [True]
    assert len(one_face_behind_a_cover(0.99)) == 0
    assert np.array_equal(
        one_face_behind_a_cover(0.8).boxes_xyxy, one_face_behind_a_cover(0.0).boxes_xyxy
    )


def test_fingerprint_names_everything_that_decides_a_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = SyntheticSource(count=5, image_size=64, seed=1)
    changed = [replace(source, count=6), replace(source, image_size=96), replace(source, seed=2)]
    prints = {s.fingerprint() for s in (source, *changed)}
    assert len(prints) == 4
    assert pickle.loads(pickle.dumps(source)).fingerprint() == source.fingerprint()  # noqa: S301
    monkeypatch.setattr(synthetic, "DRAWING_VERSION", synthetic.DRAWING_VERSION + 1)
    assert source.fingerprint() not in prints


@pytest.mark.parametrize(
    "bad", [{"count": 0}, {"image_size": 63}, {"image_size": 4096}, {"seed": -1}]
)
def test_bad_parameters_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(bad))} must be"):
        SyntheticSource(**bad)


@pytest.mark.parametrize("index", [-1, 2])
def test_an_index_outside_is_refused(index: int) -> None:
    with pytest.raises(IndexError, match="index must be"):
        SyntheticSource(count=2, image_size=64).load(index)


def test_pick_follows_the_weights_and_shades_stay_colours() -> None:
    rng = np.random.default_rng(0)
    names = [pick(rng, {"often": 0.9, "never": 0.0, "rarely": 0.1}) for _ in range(500)]
    assert set(names) == {"often", "rarely"}
    assert 400 < names.count("often") < 490
    assert shaded((10, 100, 250), 2.0) == (20, 200, 255)
