import dataclasses
import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.errors import UserError
from data.shards import ShardSet, ShardSettings, open_shards, prepare_shards, shard_folder
from data.wider import WiderSource
from tests.data.drawn_faces import DrawnFaces

SETTINGS = ShardSettings(image_size=64, full_size=160, images_per_shard=4)
SOURCE = DrawnFaces(count=10)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The folder of prepared shards: three, of 4, 4 and 2 images."""
    prepare_shards(SOURCE, tmp_path, SETTINGS, workers=1)
    return shard_folder(SOURCE, tmp_path, SETTINGS)


def prepare_again(home: Path, *, source: DrawnFaces = SOURCE, workers: int = 1) -> ShardSet:
    return prepare_shards(source, home.parent, SETTINGS, workers=workers)


def assert_equal(one: ShardSet, other: ShardSet) -> None:
    assert one.hash == other.hash
    assert one.sources == other.sources
    assert np.array_equal(one.images, other.images)
    assert np.array_equal(one.offsets, other.offsets)
    assert np.array_equal(one.all_faces.boxes_xyxy, other.all_faces.boxes_xyxy)
    assert np.array_equal(one.all_faces.ignore, other.all_faces.ignore)


def test_opened_shards_are_those_prepared(home: Path) -> None:
    shards = open_shards(home)
    assert_equal(shards, prepare_again(home))
    assert shards.images.shape == (len(shards), 64, 64, 3)
    assert set(shards.sources) == {f"drawn/{i}" for i in range(10)}
    assert shards.manifest["crops"] == len(shards) == len(shards.sources)
    assert shards.manifest["faces"] == sum(len(shards.faces(i)) for i in range(len(shards)))


def test_faces_lie_on_their_crops(home: Path) -> None:
    shards = open_shards(home)
    wanted = 0
    for index in range(len(shards)):
        faces = shards.faces(index)
        for x1, y1, x2, y2 in faces.boxes_xyxy[~faces.ignore]:
            assert shards.images[index, int(y1 + y2) // 2, int(x1 + x2) // 2, 2] > 170
            wanted += 1
    assert wanted > 10


def test_processes_make_the_same_bytes(home: Path, tmp_path: Path) -> None:
    other = prepare_shards(SOURCE, tmp_path / "other", SETTINGS, workers=2)
    assert_equal(other, open_shards(home))


def test_a_sound_data_set_is_not_written_again(home: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in home.iterdir()}
    assert prepare_again(home).rebuilt == ()
    assert {path: path.stat().st_mtime_ns for path in home.iterdir()} == before


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_a_damaged_shard_is_named_and_rebuilt(home: Path, damage: str) -> None:
    whole = open_shards(home)
    path = home / "shard-00001.npz"
    content = path.read_bytes()
    if damage == "flip":
        path.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    elif damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    with pytest.raises(UserError, match=r"shard-00001\.npz is missing or damaged; run `python run"):
        open_shards(home)
    again = prepare_again(home)
    assert again.rebuilt == ("shard-00001.npz",)
    assert_equal(again, whole)


def test_an_unfinished_data_set_goes_on_where_it_was(home: Path) -> None:
    whole = open_shards(home)
    (home / "manifest.json").unlink()
    (home / "shard-00002.json").unlink()
    kept = (home / "shard-00000.npz").stat().st_mtime_ns
    with pytest.raises(UserError, match="no sound manifest"):
        open_shards(home)
    again = prepare_again(home)
    assert_equal(again, whole)
    assert again.rebuilt == ()
    assert (home / "shard-00000.npz").stat().st_mtime_ns == kept


@pytest.mark.parametrize("text", ["", "[]", "{", '{"schema_version": 0}'])
def test_a_damaged_manifest_is_written_anew(home: Path, text: str) -> None:
    whole = open_shards(home)
    (home / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="no sound manifest"):
        open_shards(home)
    assert_equal(prepare_again(home), whole)


def test_the_content_decides_where_shards_lie_and_what_their_hash_is(home: Path) -> None:
    changes: list[tuple[DrawnFaces, dict[str, Any]]] = [
        (DrawnFaces(count=10, seed=1), {}),
        (SOURCE, {"seed": 1}),
        (SOURCE, {"zoom": 1}),
    ]
    hashes, folders = {open_shards(home).hash}, {home}
    for source, change in changes:
        settings = dataclasses.replace(SETTINGS, **change)
        hashes.add(prepare_shards(source, home.parent, settings, workers=1).hash)
        folders.add(shard_folder(source, home.parent, settings))
    assert len(hashes) == len(folders) == 4


def test_images_already_small_do_not_grow(tmp_path: Path) -> None:
    source = DrawnFaces(count=6, width=96, height=64)
    settings = dataclasses.replace(SETTINGS, zoom=1)
    shards = prepare_shards(source, tmp_path, settings, workers=1)
    heights = shards.manifest["face_height_px"]
    assert max(heights["crops"]) <= max(heights["full_size"])


def test_images_without_faces_are_prepared_too(tmp_path: Path) -> None:
    shards = prepare_shards(DrawnFaces(count=1), tmp_path, SETTINGS, workers=1)
    assert len(shards) == 1
    assert len(shards.faces(0)) == 0


def test_split_puts_no_image_on_both_sides(home: Path) -> None:
    shards = open_shards(home)
    train, held_out = shards.split(0.3, seed=0)
    assert not set(train.sources) & set(held_out.sources)
    assert len(set(held_out.sources)) == 3
    assert len(train) + len(held_out) == len(shards)
    assert len({shards.hash, train.hash, held_out.hash}) == 3
    assert_equal(shards.split(0.3, seed=0)[1], held_out)
    assert shards.split(0.3, seed=1)[1].sources != held_out.sources


def test_take_keeps_crops_with_their_faces(home: Path) -> None:
    shards = open_shards(home)
    few = shards.take(5, seed=0)
    assert len(few) == 5
    for index in range(5):
        same = [
            other
            for other in range(len(shards))
            if np.array_equal(shards.images[other], few.images[index])
            and np.array_equal(shards.faces(other).boxes_xyxy, few.faces(index).boxes_xyxy)
        ]
        assert same
    assert len(shards.take(10**6, seed=0)) == len(shards)


def test_progress_ends_at_the_number_of_shards(tmp_path: Path) -> None:
    heard = []
    prepare_shards(SOURCE, tmp_path, SETTINGS, workers=1, progress=lambda *step: heard.append(step))
    assert heard == [("prepare", done, 3) for done in (1, 2, 3)]


def test_the_manifest_is_plain_json(home: Path) -> None:
    manifest = json.loads((home / "manifest.json").read_text())
    assert manifest["settings"] == dataclasses.asdict(SETTINGS)
    assert manifest["fingerprint"] == SOURCE.fingerprint()
    assert len(manifest["shards"]) == 3


def test_a_full_disk_leaves_no_half_written_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(stream: Any, **_: Any) -> None:
        stream.write(b"half a shard")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UserError, match=r"cannot write .*shard-00000\.npz: No space left"):
        prepare_shards(SOURCE, tmp_path, SETTINGS, workers=1)
    assert list(shard_folder(SOURCE, tmp_path, SETTINGS).iterdir()) == []


def test_no_images_is_the_users_to_put_right(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no images to prepare in 0 drawn images"):
        prepare_shards(DrawnFaces(count=0), tmp_path, SETTINGS, workers=1)


@pytest.mark.parametrize(
    "change",
    [
        {"image_size": 100},
        {"image_size": 0},
        {"full_size": 32},
        {"crops_per_image": 0},
        {"images_per_shard": 0},
        {"background_share": 1.5},
        {"zoom": 0.5},
        {"seed": -1},
    ],
)
def test_settings_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(change))} must be"):
        dataclasses.replace(SETTINGS, **change)


def test_arguments_out_of_range_are_refused(home: Path) -> None:
    shards = open_shards(home)
    with pytest.raises(ValueError, match="workers must be at least 1"):
        prepare_again(home, workers=0)
    with pytest.raises(ValueError, match="held_out_share must be between"):
        shards.split(1, seed=0)
    with pytest.raises(ValueError, match="count must be at least 1"):
        shards.take(0, seed=0)
    with pytest.raises(ValueError, match="at least 2 source images"):
        shards.take(1, seed=0).split(0.5, seed=0)


@pytest.mark.real
@pytest.mark.slow
def test_crops_of_wider_face_keep_its_face_heights(wider_root: Path, tmp_path: Path) -> None:
    source = WiderSource.open(wider_root, "val")
    heights = prepare_shards(source, tmp_path, ShardSettings(), workers=2).manifest[
        "face_height_px"
    ]
    ratios = np.array(heights["crops"]) / heights["full_size"]
    assert (np.abs(ratios - 1) < 0.2).all(), ratios
