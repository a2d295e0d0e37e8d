"""Copy what a study measured from runs/ to docs/results/, the JSON just as the program wrote it.

Usage: python -m benchmarks.collect STUDY
"""

import shutil
import sys
from pathlib import Path

STUDY_FILES = ("front.json", "fidelity.json", "audit.json", "hypervolume.json", "timings.json")
TRIAL_FILES = ("retrain.json", "export.json", "evaluation.json", "benchmark.json")


def collect(study: str, *, runs: Path, results: Path) -> list[Path]:
    """Copy the JSON files of a study and of its retrained trials; returns what was written."""
    source, target = runs / study, results / study
    names = [source / name for name in STUDY_FILES]
    names += [trial / name for trial in sorted(source.glob("trial-*")) for name in TRIAL_FILES]
    written = []
    for path in (name for name in names if name.is_file()):
        copy = target / path.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        written.append(copy)
    return written


if __name__ == "__main__":
    root = Path(__file__).parents[1]
    for path in collect(sys.argv[1], runs=root / "runs", results=root / "docs" / "results"):
        print(path.relative_to(root))
