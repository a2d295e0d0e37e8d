"""Turning images into shards, for the search and for the command of its own."""

from pathlib import Path

from data.annotations import AnnotatedSource
from data.progress import Progress, silent
from data.sample import ImageSource
from data.shards import ShardSet, ShardSettings, prepare_shards, shard_folder
from data.wider import WiderSource
from nas.records import usable_cores
from studies.say import Say, unsaid


def prepare_source(
    source: ImageSource,
    folder: Path,
    settings: ShardSettings,
    *,
    workers: int | None = None,
    say: Say = unsaid,
    progress: Progress = silent,
) -> tuple[ShardSet, Path]:
    """The shards of a source, made if they are not there yet, and the folder they lie in.

    Raises:
        UserError: there are no images, one cannot be read, or the disk is full.
    """
    if isinstance(source, WiderSource | AnnotatedSource):
        repairs = source.repairs()
        say(
            f"impossible boxes: {repairs.zero_size} without size and {repairs.outside} outside "
            f"the image are ignored, {repairs.clipped} are cut at its border"
        )
    shards = prepare_shards(
        source, folder, settings, workers=workers or usable_cores(), progress=progress
    )
    for name in shards.rebuilt:
        say(f"shard {name} was damaged and has been made again")
    home = shard_folder(source, folder, settings)
    say(f"shards: {len(shards)} crops of {settings.image_size} px in {home}")
    return shards, home
