"""What a format of annotations is, and how its files are written: whole or not at all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data.annotations import AnnotatedImage, Listing
from data.errors import UserError
from data.files import whole_folder
from data.progress import Progress


@dataclass(frozen=True, slots=True)
class Found:
    """A split of a data set in a folder. image_folders: the first that holds images is it.

    names: a file that lists the images of this split, by their names without suffix.
    """

    annotation: Path
    image_folders: tuple[Path, ...]
    names: Path | None = None


@dataclass(frozen=True, slots=True)
class Format:
    """One way to keep annotations.

    title: for people. layout: where the annotation of the train split lies in a data set.
    read: (annotation, folder of images or None, progress) -> Listing.
    write: (images, new file or folder, progress) -> what the format cannot hold, in words.
    find: (data set's folder, split) -> where its parts are, None where it is not of this format.
    """

    title: str
    layout: str
    read: Callable[[Path, Path | None, Progress], Listing]
    write: Callable[[Sequence[AnnotatedImage], Path, Progress], tuple[str, ...]]
    find: Callable[[Path, str], Found | None]


def label_path(name: str, suffix: str) -> str:
    """The path of an image's own annotation file: 'event/file.jpg' -> 'event/file.txt'."""
    return PurePosixPath(name).with_suffix(suffix).as_posix()


def write_labels(
    target: Path,
    images: Sequence[AnnotatedImage],
    *,
    suffix: str,
    text: Callable[[AnnotatedImage], str],
    others: Mapping[str, str],
    progress: Progress,
) -> None:
    """Write a folder of one file an image and some others (by path), whole or not at all.

    Raises:
        UserError: two images would share a file, or the folder cannot be written.
    """
    owners: dict[str, str] = dict.fromkeys(others, "another file of this format")
    for one in images:
        path = label_path(one.name, suffix)
        if path in owners:
            raise UserError(f"{one.name} and {owners[path]} would share {path}; rename one")
        owners[path] = one.name
    with whole_folder(target) as folder:
        for path, content in others.items():
            (folder / path).write_text(content, encoding="utf-8")
        for done, one in enumerate(images, start=1):
            label = folder / label_path(one.name, suffix)
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(text(one), encoding="utf-8")
            progress("write", done, len(images))
