"""Prepared crops on disk: `.npz` shards with a manifest, checked whenever they are read.

A data set lies in `folder/<key>/`, where the key is a hash of the source's content, the settings
and SCHEMA_VERSION. It holds shards of uint8 images with ragged boxes (`shard-00000.npz`), beside
each a note with its SHA-256 (`shard-00000.json`), and `manifest.json`, which makes it complete.
Shards are not compressed: deflating 200 crops of WIDER FACE saved 36 % of the space, but took 22
times as long to write and 7 times as long to read and check.

Shape letters: N crops, S their side in pixels, F faces of all crops together.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from data.boxes import box_heights
from data.crops import (
    SMALLEST_FACE_PX,
    cut,
    deployment_scale,
    draw_window,
    windows_for_equal_faces,
)
from data.errors import UserError
from data.files import sha256_of, whole_file, write_json
from data.processes import ProcessPool
from data.progress import Progress, silent
from data.sample import Faces, ImageSource, Sample

SCHEMA_VERSION = 1
"""Changes with the format of the shards and with how crops are chosen."""

MANIFEST = "manifest.json"
PERCENTILES = (5, 10, 25, 50, 75, 90, 95)
AGAIN = "run `python run_search.py prepare` with the same data and settings to make it anew"


@dataclass(frozen=True, slots=True)
class ShardSettings:
    """How images become shards.

    image_size: side of the crops, pixels.
    full_size: long side that the detector's images are scaled to, pixels; crops are windows of
        images scaled down to that.
    crops_per_image: how often each face is shown on average; crowds take more crops for that
        than portraits (WIDER FACE 1.8 times as many crops as images).
    background_share: share of crops that are put anywhere instead of around a face.
    zoom: crops are scaled by at most this factor or its inverse (log-uniform); 1 is off.
    images_per_shard: source images that a shard is made from.
    seed: of the choice of crops.

    Raises:
        ValueError: a setting is out of range.
    """

    image_size: int = 256
    full_size: int = 640
    crops_per_image: int = 1
    background_share: float = 0.15
    zoom: float = 1.4
    images_per_shard: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.image_size < 32 or self.image_size % 32:
            raise ValueError(f"image_size must be a positive multiple of 32, got {self.image_size}")
        if self.full_size < self.image_size:
            raise ValueError(
                f"full_size must be at least image_size {self.image_size}, got {self.full_size}"
            )
        for name, least in (("crops_per_image", 1), ("images_per_shard", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 <= self.background_share <= 1:
            raise ValueError(f"background_share must be in 0..1, got {self.background_share}")
        if not 1 <= self.zoom <= 10:
            raise ValueError(f"zoom must be in 1..10, got {self.zoom}")


@dataclass(frozen=True, slots=True, eq=False)
class ShardSet:
    """Crops in memory.

    images: (N, S, S, 3) uint8, BGR. all_faces: the faces of all crops in a row. offsets: (N + 1,)
    int64, crop i has faces offsets[i] to offsets[i + 1]. sources: (N,) the image each crop was
    cut from. hash: hexadecimal, equal only for equal content. rebuilt: damaged shards that were
    made anew just now.
    """

    images: NDArray[np.uint8]
    all_faces: Faces
    offsets: NDArray[np.int64]
    sources: tuple[str, ...]
    hash: str
    manifest: dict[str, Any]
    rebuilt: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_size(self) -> int:
        """Side of the crops, pixels."""
        return int(self.images.shape[1])

    def faces(self, index: int) -> Faces:
        """The faces of a crop, in its pixels."""
        here = slice(self.offsets[index], self.offsets[index + 1])
        every = self.all_faces
        return Faces(every.boxes_xyxy[here], every.attributes[here], every.ignore[here])

    def split(self, held_out_share: float, *, seed: int) -> tuple["ShardSet", "ShardSet"]:
        """Train and held-out crops: no source image has crops in both. Images are copied.

        The share is of source images, at least one on either side.

        Raises:
            ValueError: the share is not between 0 and 1, or there is only one source image.
        """
        if not 0 < held_out_share < 1:
            raise ValueError(f"held_out_share must be between 0 and 1, got {held_out_share}")
        names, numbers = np.unique(np.array(self.sources), return_inverse=True)
        if len(names) < 2:
            raise ValueError(f"a split must have at least 2 source images, got {len(names)}")
        count = min(max(1, round(held_out_share * len(names))), len(names) - 1)
        chosen = np.random.default_rng(seed).permutation(len(names))[:count]
        held_out = np.isin(numbers, chosen)
        return self._select(np.flatnonzero(~held_out)), self._select(np.flatnonzero(held_out))

    def take(self, count: int, *, seed: int) -> "ShardSet":
        """That many random crops, in their old order; all of them if there are fewer.

        Raises:
            ValueError: count is under 1.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        order = np.random.default_rng(seed).permutation(len(self))
        return self._select(np.sort(order[:count]))

    def _select(self, which: NDArray[np.int64]) -> "ShardSet":
        counts = np.diff(self.offsets)[which]
        rows = [np.arange(self.offsets[i], self.offsets[i + 1]) for i in which]
        return dataclasses.replace(
            self,
            images=self.images[which],
            all_faces=self.all_faces.select(np.concatenate(rows)),
            offsets=_offsets(counts),
            sources=tuple(self.sources[i] for i in which),
            hash=_hash(self.hash, which.tolist()),
        )


def shard_folder(source: ImageSource, folder: Path, settings: ShardSettings) -> Path:
    """Where `prepare_shards` puts this source with these settings."""
    return folder / _key(source.fingerprint(), settings)


def prepare_shards(
    source: ImageSource,
    folder: Path,
    settings: ShardSettings,
    *,
    workers: int,
    progress: Progress = silent,
) -> ShardSet:
    """The crops of a source, taken from `folder/<key>/` and made where they are not there yet.

    Sound shards are kept, so that a call that was stopped goes on where it was. Damaged ones are
    rebuilt and named in `.rebuilt`. Equal sources and settings give equal bytes, whatever the
    number of workers (processes; 1 works in this one).

    Raises:
        ValueError: workers is under 1.
        UserError: no images, no space, or a process was killed.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if len(source) == 0:
        raise UserError(f"no images to prepare in {source.description}; give another data folder")
    fingerprint = source.fingerprint()
    home = folder / _key(fingerprint, settings)
    total = -(-len(source) // settings.images_per_shard)
    tasks = [_Task(source, settings, home, number) for number in range(total)]
    lacking = [task for task in tasks if not _is_kept(task)]
    rebuilt = tuple(task.path.name for task in lacking if _read_note(task.path))
    for done, _ in enumerate(_build_all(lacking, workers), start=total - len(lacking) + 1):
        progress("prepare", done, total)
    shards = [_read_note(task.path) for task in tasks]
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "source": source.description,
        "fingerprint": fingerprint,
        "settings": dataclasses.asdict(settings),
        "source_images": len(source),
        "crops": sum(shard["crops"] for shard in shards),
        "faces": sum(shard["faces"] for shard in shards),
        "faces_ignored": sum(shard["faces_ignored"] for shard in shards),
        "face_height_px": _height_percentiles([task.path for task in tasks]),
        "shards": shards,
    }
    if _read_json(home / MANIFEST) != manifest:
        write_json(home / MANIFEST, manifest)
    return dataclasses.replace(open_shards(home), rebuilt=rebuilt)


def open_shards(folder: Path) -> ShardSet:
    """The crops of a prepared folder, the one with manifest.json, after checking every byte.

    Raises:
        UserError: the folder is not a complete data set, or a shard is damaged: names it.
    """
    manifest = _read_json(folder / MANIFEST)
    if manifest is None or manifest.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{folder} has no sound {MANIFEST} of version {SCHEMA_VERSION}; {AGAIN}")
    side = manifest["settings"]["image_size"]
    images = np.empty((manifest["crops"], side, side, 3), dtype=np.uint8)
    counts, faces, sources, done = [], [], [], 0
    for shard in manifest["shards"]:
        path = folder / shard["name"]
        if not _is_sound(path, shard["sha256"]):
            raise UserError(f"the shard {path} is missing or damaged; {AGAIN}")
        with np.load(path, allow_pickle=False) as arrays:
            images[done : done + shard["crops"]] = arrays["images"]
            counts.append(np.diff(arrays["offsets"]))
            faces.append(Faces(arrays["boxes"], arrays["attributes"], arrays["ignore"]))
            sources += arrays["sources"].tolist()
        done += shard["crops"]
    return ShardSet(
        images,
        _joined(faces),
        _offsets(np.concatenate(counts)),
        tuple(sources),
        _hash(*(shard["sha256"] for shard in manifest["shards"])),
        manifest,
    )


@dataclass(frozen=True, slots=True)
class _Task:
    """One shard to be there: the images number * images_per_shard and on."""

    source: ImageSource
    settings: ShardSettings
    home: Path
    number: int

    @property
    def path(self) -> Path:
        return self.home / f"shard-{self.number:05d}.npz"


def _build_all(tasks: Sequence[_Task], workers: int) -> Iterator[None]:
    """Every shard made, one step each."""
    if workers == 1 or len(tasks) <= 1:
        yield from map(_build, tasks)
        return
    pool = ProcessPool(min(workers, len(tasks)), cv2.setNumThreads, (1,))
    try:
        for future in as_completed([pool.submit(_build, task) for task in tasks]):
            yield future.result()
    except BrokenProcessPool as error:
        raise UserError(
            f"a process that prepared shards in {tasks[0].home} was killed, perhaps for want of "
            "memory; run the same command again with fewer workers, it goes on where it was"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _build(task: _Task) -> None:
    """Make a shard, and after it the note without which it counts as not finished."""
    arrays = _shard_arrays(task)
    with whole_file(task.path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)
    note = {
        "name": task.path.name,
        "sha256": sha256_of(task.path),
        "crops": len(arrays["images"]),
        "faces": len(arrays["boxes"]),
        "faces_ignored": int(arrays["ignore"].sum()),
    }
    write_json(_note_path(task.path), note)


def _shard_arrays(task: _Task) -> dict[str, NDArray[Any]]:
    """What a shard holds, by the names in the file.

    full_size_heights: heights, in the image scaled to full_size, of the faces to be found there;
    the crops' own are compared with them in the manifest.
    """
    first = task.number * task.settings.images_per_shard
    last = min(first + task.settings.images_per_shard, len(task.source))
    crops: list[Sample] = []
    heights = []
    for index in range(first, last):
        sample = task.source.load(index)
        crops += _crops(sample, index, task.settings)
        heights.append(_heights_at(sample, task.settings.full_size))
    faces = _joined([crop.faces for crop in crops])
    return {
        "images": np.stack([crop.image for crop in crops]),
        "offsets": _offsets(np.array([len(crop.faces) for crop in crops])),
        "boxes": faces.boxes_xyxy,
        "attributes": faces.attributes,
        "ignore": faces.ignore,
        "sources": np.array([crop.source for crop in crops], dtype=np.str_),
        "full_size_heights": np.concatenate(heights),
    }


def _crops(sample: Sample, index: int, settings: ShardSettings) -> list[Sample]:
    """The crops of one image. A crop depends on the seed and its two numbers alone."""
    size, seed = settings.image_size, settings.seed
    side = size / deployment_scale(sample.image, full_size=settings.full_size)
    count = windows_for_equal_faces(
        sample.faces,
        side=side,
        crops_per_image=settings.crops_per_image,
        rng=np.random.default_rng((seed, index, 0)),
    )
    crops = []
    for crop in range(count):
        rng = np.random.default_rng((seed, index, 1 + crop))
        zoom = math.exp(rng.uniform(-1, 1) * math.log(settings.zoom))
        window = draw_window(
            sample, side=side / zoom, background_share=settings.background_share, rng=rng
        )
        crops.append(cut(sample, window, size=size))
    return crops


def _heights_at(sample: Sample, full_size: int) -> NDArray[np.float32]:
    scale = deployment_scale(sample.image, full_size=full_size)
    heights = box_heights(sample.faces.boxes_xyxy)[~sample.faces.ignore] * np.float32(scale)
    return heights[heights >= SMALLEST_FACE_PX]


def _height_percentiles(paths: Sequence[Path]) -> dict[str, Sequence[float]]:
    """Heights of the faces to be found, in the crops and in the full-size images; pixels."""
    crops, full = [], []
    for path in paths:
        with np.load(path, allow_pickle=False) as arrays:
            crops.append(box_heights(arrays["boxes"])[~arrays["ignore"]])
            full.append(arrays["full_size_heights"])
    return {
        "percentiles": list(PERCENTILES),
        "crops": _percentiles(np.concatenate(crops)),
        "full_size": _percentiles(np.concatenate(full)),
    }


def _percentiles(values: NDArray[np.float32]) -> list[float]:
    if len(values) == 0:
        return []
    return [round(float(value), 2) for value in np.percentile(values, PERCENTILES)]


def _joined(faces: Sequence[Faces]) -> Faces:
    return Faces(
        np.concatenate([one.boxes_xyxy for one in faces]),
        np.concatenate([one.attributes for one in faces]),
        np.concatenate([one.ignore for one in faces]),
    )


def _offsets(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of the ragged rows begins, and where the last ends. Shape (N,) -> (N + 1,)."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _key(fingerprint: str, settings: ShardSettings) -> str:
    return _hash(fingerprint, dataclasses.asdict(settings), SCHEMA_VERSION)[:16]


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _is_kept(task: _Task) -> bool:
    note = _read_note(task.path)
    return bool(note) and _is_sound(task.path, note.get("sha256"))


def _is_sound(path: Path, sha256: str | None) -> bool:
    return path.is_file() and sha256_of(path) == sha256


def _note_path(shard: Path) -> Path:
    return shard.with_suffix(".json")


def _read_note(shard: Path) -> dict[str, Any]:
    """What was written about a shard; nothing when it was not finished."""
    return _read_json(_note_path(shard)) or {}


def _read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object, or None where there is no file or no sound one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None
