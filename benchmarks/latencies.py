"""Networks timed side by side, in one run on one machine, and how many times a reference's time.

Run from the repository's root, where nothing else runs:
python -m benchmarks.latencies [NAME ...] [--reference yunet-n] [--rounds 25]
    [--write docs/results/latencies.json]
A NAME is one that `zoo` lists, or the key of a searched network; without any, all are timed that
are on record in docs/results/references. Every round times every network once, in an order of its
own, as `run_search.py benchmark` does: decoded boxes, no non-maximum suppression. Ratios are taken
round by round, so that a machine that is slower for a while slows both. Weights are random, as
times do not depend on them.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.references import RESULTS
from data.errors import UserError
from data.files import write_json
from data.progress import Progress, silent
from nas.export import export_onnx
from nas.fitting import seeded
from nas.records import record_header
from objectives.latency import measure_latency
from search_spaces.catalogue import build_network
from studies.console import shown_progress

IMAGE_SIZE = 640
THREADS = (1, 2)
RUNS, WARMUP = 5, 2
"""Few at a time and many rounds: a machine's speed changes from one minute to the next."""

RESAMPLES = 1000
INTERVAL = (0.05, 0.95)


def time_networks(
    names: Sequence[str],
    *,
    rounds: int,
    image_size: int = IMAGE_SIZE,
    runs: int = RUNS,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, dict[int, list[float]]]:
    """Median milliseconds of each network in each round, by its name and number of threads."""
    generator = np.random.default_rng(seed)
    times: dict[str, dict[int, list[float]]] = {name: {n: [] for n in THREADS} for name in names}
    with TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{i}.onnx" for i, name in enumerate(names)}
        for done, (name, path) in enumerate(files.items()):
            progress("export", done, len(files))
            with seeded(seed):
                export_onnx(build_network(name), path, metadata={})
        progress("export", len(files), len(files))
        turns = [names[i] for _ in range(rounds) for i in generator.permutation(len(names))]
        for done, name in enumerate(turns):
            progress("timed", done, len(turns))
            for threads, known in times[name].items():
                latency = measure_latency(
                    files[name], image_size=image_size, threads=threads, runs=runs, warmup=WARMUP
                )
                known.append(latency.p50_ms)
        progress("timed", len(turns), len(turns))
    return times


def against(
    times: Mapping[str, Mapping[int, Sequence[float]]], reference: str, *, seed: int = 0
) -> list[dict[str, Any]]:
    """A row for each network and number of threads, the fastest on one thread first.

    p50_ms: the median over the rounds. ratio: the same of a round's time over the reference's in
    that round; ratio_interval: 90 % interval of that median, by a bootstrap over the rounds.
    """
    generator = np.random.default_rng(seed)
    rows = []
    for name, by_threads in times.items():
        for threads, own in by_threads.items():
            ratios = np.divide(own, times[reference][threads])
            drawn = np.median(generator.choice(ratios, (RESAMPLES, len(ratios))), axis=1)
            rows.append(
                {
                    "architecture": name,
                    "threads": threads,
                    "p50_ms": float(np.median(own)),
                    "ratio": float(np.median(ratios)),
                    "ratio_interval": np.quantile(drawn, INTERVAL).tolist(),
                }
            )
    return sorted(rows, key=lambda row: (row["threads"], row["p50_ms"]))


def names_on_record(folder: Path = RESULTS) -> list[str]:
    """The architectures that were trained by the references' recipe."""
    files = sorted(folder.glob("*.json"))
    return [json.loads(path.read_text(encoding="utf-8"))["architecture"] for path in files]


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="names or keys (all on record)")
    parser.add_argument("--reference", default="yunet-n", help="(yunet-n)")
    parser.add_argument("--rounds", type=int, default=25, help="(25)")
    parser.add_argument("--seed", type=int, default=0, help="of the order and the weights (0)")
    parser.add_argument("--write", type=Path, help="a JSON file, beside printing it")
    options = parser.parse_args()
    if options.rounds < 1:
        raise UserError(f"--rounds must be at least 1, got {options.rounds}")
    names = list(dict.fromkeys([*(options.names or names_on_record()), options.reference]))
    with shown_progress() as progress:
        times = time_networks(names, rounds=options.rounds, seed=options.seed, progress=progress)
    found = {
        "image_size": IMAGE_SIZE,
        "rounds": options.rounds,
        "runs": RUNS,
        "reference": options.reference,
        "rows": against(times, options.reference, seed=options.seed),
    }
    print(json.dumps(found, indent=2))
    if options.write is not None:
        header = record_header(seed=options.seed, data_hash=None)
        write_json(options.write, {**header, **found})


if __name__ == "__main__":
    main()
