"""What a result says about its making."""

import importlib.metadata
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from nas.records import CHECKOUT, SCHEMA_VERSION, commit_of, package_version, record_header


def git(folder: Path, *words: str) -> str:
    author = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = subprocess.run(
        ["git", *author, *words], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_the_header_is_json_and_says_what_it_was_told() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    header = json.loads(json.dumps(record_header(seed=7, data_hash="abc"), allow_nan=False))
    assert (header["seed"], header["data_hash"]) == (7, "abc")
    assert header["schema_version"] == SCHEMA_VERSION
    assert before <= datetime.fromisoformat(header["date"]) <= datetime.now(UTC)
    assert header["commit"] == commit_of(CHECKOUT)
    assert header["machine"]["cores"] >= 1
    assert header["machine"]["memory_bytes"] > 1e8
    assert header["machine"]["packages"]["torch"] == importlib.metadata.version("torch")


def test_the_commit_is_that_of_the_checkout_and_says_when_it_is_changed(tmp_path: Path) -> None:
    assert commit_of(tmp_path) is None, "not a checkout"
    git(tmp_path, "init")
    assert commit_of(tmp_path) is None, "nothing was committed yet"
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "one")
    git(tmp_path, "tag", "v1")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert commit_of(tmp_path) == commit
    (tmp_path / "file").write_text("two")
    assert commit_of(tmp_path) == f"{commit}-dirty"
    inside = tmp_path / "inside"
    inside.mkdir()
    assert commit_of(inside) is None, "an installed copy is not the checkout around it"


def test_a_package_that_is_not_installed_has_no_version() -> None:
    assert package_version("no-such-package-at-all") is None


def test_the_record_does_not_import_torch() -> None:
    code = (
        "import sys; from nas.records import record_header; "
        "record_header(seed=None, data_hash=None); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=True)
