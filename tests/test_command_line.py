"""What a person types and reads: every command, and every mistake that ends in one sentence."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from objectives.cost import architecture_cost
from objectives.limits import Limits
from run_search import main
from studies.replay import CONTENDERS
from tests.objectives.made_up_table import made_up_us
from tests.studies.made_up_rows import made_up_rows
from tests.tiny_job import make_jobs_tiny
from tests.tiny_onnx import write_tiny_onnx

ROOT = Path(__file__).parents[1]
VERBS = (
    "search", "audit", "prepare", "convert", "front", "fidelity", "retrain", "export", "zoo",
    "evaluate", "validate", "benchmark", "latency-table", "compare-samplers", "detect", "report",
)  # fmt: skip
TINY_SEARCH = (
    "--budget 4 --study tiny --max-params 60K --image-size 64 --device cpu "
    "--retrain 1 --supernet-steps 2 --proxy-steps 1 --retrain-steps 2"
)

Run = Callable[[str], tuple[int, str, str]]
"""Arguments as one text -> exit status, standard output, standard error."""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run_main(arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["run_search.py", *arguments.split()])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, printed.err

    return run_main


@pytest.fixture(scope="module", autouse=True)
def _tiny() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        make_jobs_tiny(monkeypatch)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny search of the study "tiny"; the search is the command without a verb."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as monkeypatch:
        arguments = f"{TINY_SEARCH} --runs {folder}".split()
        monkeypatch.setattr(sys, "argv", ["run_search.py", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
    assert not end.value.code
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """White on the right half."""
    image = np.zeros((64, 96, 3), dtype=np.uint8)
    image[:, 48:] = 255
    cv2.imwrite(str(tmp_path / "picture.png"), image)
    return tmp_path / "picture.png"


def front_of(run: Run, runs: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = json.loads(run(f"front --study tiny --json --runs {runs}")[1])
    return rows


def refused(outcome: tuple[int, str, str], message: str) -> None:
    """One sentence on standard error, status 2, no traceback."""
    status, _, error = outcome
    assert status == 2
    assert "Traceback" not in error
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert message in error


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_itself(run: Run, verb: str) -> None:
    status, output, error = run(f"{verb} --help")
    assert (status, error) == (0, "")
    assert f"run_search.py {verb}" in output or f"{verb} [OPTIONS]" in output


def test_audit_proposes_a_narrower_space(run: Run, tmp_path: Path) -> None:
    limits = "--max-params 60K --max-macs 200M"
    status, output, error = run(f"audit {limits} --runs {tmp_path}")
    assert (status, error) == (0, "")
    record = json.loads((tmp_path / "audit.json").read_text())
    assert record["limits"]["max_params"] == 60_000
    assert record["shrink"]["dropped"]
    assert "narrower space: without " in output
    assert output.endswith("with the same limits and --shrink\n")


def test_help_names_every_verb(run: Run) -> None:
    status, output, _ = run("--help")
    assert status == 0
    assert all(f"  {verb} " in output for verb in VERBS)


def test_the_file_runs_as_a_program() -> None:
    command = [sys.executable, "run_search.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "run_search.py [OPTIONS] COMMAND" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--budget 0", "--budget must be at least 1 trial, got 0"),
        ("--budget 4 --sampler tpee", "unknown sampler 'tpee'; known: gp, nsga2, random, tpe. Did"),
        ("--budget 4 --objective flops", "unknown objective 'flops'; known: latency, macs."),
        ("--budget 4 --device cudda", "unknown device 'cudda'; known: auto, cpu, cuda. Did"),
        ("--budget 4 --study a/b", "a study's name is its folder's"),
        ("--budget 4 --max-params lots", "'lots' is not a quantity"),
        ("--budget 4 --max-macs 0", "'0' is not positive"),
        ("--budget 4 --image-size 100", "--image-size must be a positive multiple of 32, got 100"),
        ("--budget 4 --retrain most", "--retrain must be auto, all, none or a number"),
        ("--budget 4 --data nowhere", "nowhere"),
        ("--budget 4 --max-params 100", "random architectures keep the limits: --max-params 100"),
        ("--budget 4 --storage nonsense", "cannot use the storage nonsense"),
        ("search --budget -1", "--budget must be at least 1 trial, got -1"),
        ("--budget 4 --latency-table a.json", "--latency-table goes with --objective latency"),
        ("--objective latency --latency-table no.json", "there is no latency table no.json; make"),
        ("prepare --data nowhere", "nowhere"),
        ("prepare --split test", "unknown split 'test'"),
        ("prepare --image-size 33", "--image-size must be a positive multiple of 32, got 33"),
        ("prepare --image-size 4096", "--image-size must be at most 640, got 4096"),
        ("front", "no study 'synthetic'"),
        ("report --study other", "no study 'other'"),
        ("fidelity --study other", "no study 'other'"),
        ("retrain --study other --trial 0", "no study 'other'"),
        ("retrain", "say which network: --study NAME --trial NUMBER, or --arch NAME"),
        ("retrain --arch yunet-n --study other", "say which network: "),
        ("retrain --arch yunet", "unknown architecture 'yunet'"),
        ("export --arch yunet-n", "yunet-n has not been retrained; run: python run_search.py"),
        ("export --study other --trial 0", "has not been retrained; run: python run_search.py"),
    ],
)
def test_mistakes_are_answered_with_a_sentence(
    run: Run, tmp_path: Path, arguments: str, message: str
) -> None:
    refused(run(f"{arguments} --runs {tmp_path}"), message)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("retrain --study tiny --trial 99", "no completed trial 99; completed: 0-3"),
        ("retrain --study tiny --trial 0 --start nothing", "unknown start 'nothing'"),
        (
            "retrain --study tiny --trial 0 --start scratch --learning-rate 0",
            "learning_rate must be positive, got 0.0",
        ),
        (
            "retrain --study tiny --trial 0 --start scratch --set box_kin=giou",
            "unknown setting 'box_kin'",
        ),
        (
            "retrain --study tiny --trial 0 --start scratch --teacher 99",
            "trial 99 of study 'tiny', has not been trained",
        ),
        ("retrain --study tiny --trial 0 --image-size 50", "multiple of 32, got 50"),
        ("retrain --study tiny --trial 0 --track pages", "unknown tracker 'pages'"),
        ("retrain --study tiny --trial 0 --data nowhere", "nowhere"),
        ("export --study tiny --trial 99", "trial 99 of study 'tiny' has not been retrained"),
        ("front --study tinny", "no study 'tinny'"),
        ("fidelity --study tiny --candidates 3 --device cpu", "at least 4 candidates, got 3"),
        (f"{TINY_SEARCH} --sampler random", "sampler was 'tpe' and is now 'random'"),
        (f"{TINY_SEARCH} --seed 1", "seed was 0 and is now 1"),
    ],
)
def test_mistakes_after_a_search_are_answered_with_a_sentence(
    run: Run, runs: Path, arguments: str, message: str
) -> None:
    refused(run(f"{arguments} --runs {runs}"), message)


def test_samplers_are_compared_on_a_recorded_table(run: Run, tmp_path: Path) -> None:
    table, target = tmp_path / "table.json", tmp_path / "curves.json"
    cost = partial(architecture_cost, image_size=64)
    table.write_text(json.dumps(made_up_rows(Limits(image_size=64), cost, count=20)))
    command = f"compare-samplers --table {table} --workers 1 --trials 2"
    status, output, _ = run(f"{command} --seeds 2 --output {target}")
    assert status == 0
    assert "20 architectures; each is guessed from the others" in output
    result = json.loads(target.read_text())
    assert all(f"\n{name} " in output for name in result["contenders"])
    assert result["contenders"].keys() == CONTENDERS.keys()
    assert {len(one["mean"]) for one in result["contenders"].values()} == {2}
    refused(run(f"{command} --seeds 1"), "--seeds must be at least 2, for an interval, got 1")
    refused(run(f"compare-samplers --table {target}"), "is no table of architectures")
    refused(run(f"compare-samplers --table {tmp_path / 'no'}"), "no; record one: python -m")


@pytest.mark.parametrize("verb", ["detect {} {}", "evaluate {}", "benchmark {}"])
def test_a_model_that_is_none_is_named(run: Run, tmp_path: Path, picture: Path, verb: str) -> None:
    for model in (tmp_path / "nothing.onnx", picture):
        refused(run(verb.format(model, picture)), model.name)


def test_a_picture_that_is_none_is_named(run: Run, tmp_path: Path) -> None:
    model = write_tiny_onnx(tmp_path / "tiny.onnx")
    for name, content in (("text.jpg", b"no picture"), ("empty.png", b"")):
        (tmp_path / name).write_bytes(content)
        refused(run(f"detect {model} {tmp_path / name}"), f"{name} is no picture")
    refused(run(f"detect {model} {tmp_path / 'nothing.jpg'}"), "there is no picture")


def test_a_result_that_cannot_be_written_is_named(run: Run, tmp_path: Path, picture: Path) -> None:
    model = write_tiny_onnx(tmp_path / "tiny.onnx")
    refused(run(f"detect {model} {picture} --output boxes.xyz"), "cannot write a picture")
    refused(run(f"detect {model} {picture} --image-size big"), "original or a number of pixels")
    refused(run(f"evaluate {model} --image-size 0"), "original or a number of pixels")
    refused(run(f"benchmark {model} --image-size 65"), "multiple of 32, got 65")


@pytest.mark.parametrize(
    "arguments", ["--no-such-option", "nosuchverb", "front --study", "--budget many"]
)
def test_what_cannot_be_parsed_ends_with_status_2(run: Run, arguments: str) -> None:
    status, _, error = run(arguments)
    assert status == 2
    assert "Traceback" not in error
    assert "Error: " in error


def test_the_front_is_shown_and_printed_as_json(run: Run, runs: Path) -> None:
    rows = front_of(run, runs)
    assert rows == json.loads((runs / "tiny" / "front.json").read_text())["front"]
    status, output, _ = run(f"front --study tiny --runs {runs}")
    assert status == 0
    assert len(output.splitlines()) == len(rows) + 1
    assert all(str(row["key"]) in output for row in rows)


def test_the_order_of_the_proxies_is_compared_with_fits_alone(
    run: Run, runs: Path, tmp_path: Path
) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    target = tmp_path / "runs" / "tiny" / "fidelity.json"
    target.unlink()
    status, output, _ = run(
        f"fidelity --study tiny --steps 2 --workers 1 --device cpu --runs {tmp_path / 'runs'}"
    )
    assert status == 0
    assert "4 networks fitted alone for 2 steps" in output
    assert f"result: {target}" in output
    record = json.loads(target.read_text())
    lines = [line.split()[0] for line in output.splitlines() if line.strip()]
    assert record["proxies"].keys() | {str(n) for n in record["reranked"]} <= set(lines)


def test_a_trial_is_retrained_exported_evaluated_and_benchmarked(
    run: Run, runs: Path, tmp_path: Path
) -> None:
    done = {row["trial"] for row in front_of(run, runs) if "onnx" in row}
    trial = min(set(range(4)) - done)
    chosen = f"--study tiny --trial {trial} --runs {runs}"
    refused(
        run(f"export {chosen}"), f"run: python run_search.py retrain --study tiny --trial {trial}"
    )
    status, output, _ = run(
        f"retrain {chosen} --steps 1 --image-size 64 --batch-size 2 --synthetic-images 5 "
        "--device cpu --start scratch"
    )
    assert status == 0
    assert "1 steps of 2 crops of 64 px from scratch" in output
    status, output, _ = run(f"export {chosen}")
    assert status == 0
    model = runs / "tiny" / f"trial-{trial}" / "model.onnx"
    assert f"next: python run_search.py benchmark {model}" in output

    scores = tmp_path / "scores"
    status, output, _ = run(
        f"evaluate {model} --synthetic-images 10 --image-size 64 --scales 0.5 1 --output {scores}"
    )
    assert status == 0
    assert "AP 0." in output
    evaluation = json.loads((scores / "evaluation.json").read_text())
    assert (evaluation["images"], evaluation["scales"]) == (2, [0.5, 1.0])

    status, output, _ = run(f"benchmark {model} --image-size 64 --threads 2 --repeats 2")
    assert status == 0
    assert "p50 ms" in output
    assert len(json.loads((model.parent / "benchmark.json").read_text())["latencies"]) == 1
    assert run(f"front --study tiny --runs {runs}")[0] == 0
    status, output, _ = run(f"report --study tiny --runs {runs}")
    assert status == 0
    assert "hypervolume: " in output
    assert output.endswith(f"report: {runs / 'tiny' / 'report.html'}\n")


def test_a_reference_is_trained_from_the_command_line(run: Run, tmp_path: Path) -> None:
    chosen = f"--arch yolo-mobilenetv3-small --runs {tmp_path}"
    status, output, _ = run(
        f"retrain {chosen} --steps 2 --image-size 160 --batch-size 2 --synthetic-images 40 "
        "--device cpu --set validate_every=1 --set optimizer=sgd"
    )
    folder = tmp_path / "architectures" / "yolo-mobilenetv3-small"
    assert status == 0
    assert "best validation AP" in output
    assert (folder / "progress.html").is_file()
    assert json.loads((folder / "retrain.json").read_text())["recipe"]["fit"]["optimizer"] == "sgd"
    assert run(f"export {chosen}")[0] == 0
    assert (folder / "model.onnx").is_file()


def test_the_blocks_of_this_machine_are_timed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas.latency_table.LayerTimer", lambda **_: made_up_us)
    monkeypatch.setattr(
        "nas.latency_table.measure_network",
        lambda architecture, table: 1000 + table.latency_us(architecture),
    )
    path = tmp_path / "table.json"
    arguments = f"latency-table --output {path} --image-size 64 --device-name"
    status, output, _ = run(f"{arguments} phone")
    assert status == 0
    assert "Spearman's correlation 1.000" in output
    assert f"--objective latency --latency-table {path}" in output
    assert json.loads(path.read_text())["device"] == "phone"
    refused(run(f"{arguments} laptop"), "is the latency table of 'phone', not of 'laptop'")
    refused(run(f"latency-table --output {path} --image-size 65"), "multiple of 32, got 65")
    search = f"--objective latency --latency-table {path} --runs {tmp_path}"
    refused(run(search), "for images of 64 px, not of 640 px")


def test_the_zoo_is_listed(run: Run) -> None:
    rows = json.loads(run("zoo --json --image-size 64")[1])
    assert {tuple(row) for row in rows} == {("name", "params", "macs", "peak_bytes", "source")}
    status, output, _ = run("zoo --image-size 64")
    assert status == 0
    assert all(row["name"] in output for row in rows)


def test_a_network_is_validated(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    status, output, _ = run("validate yolo-mobilenetv3-small --device cpu")
    assert status == 0
    assert "ONNX equals torch" in output
    monkeypatch.setattr("nas.validate._expected_params", lambda _key: 1)
    status, output, _ = run("validate yolo-mobilenetv3-small --device cpu")
    assert status == 1
    assert "FAIL" in output


def test_an_annotation_is_converted(run: Run, tmp_path: Path, picture: Path) -> None:
    (tmp_path / "images" / "event").mkdir(parents=True)
    (tmp_path / "images" / "event" / "a.png").write_bytes(picture.read_bytes())
    wider = tmp_path / "wider.txt"
    wider.write_text("event/a.png\n1\n1 2 30 40 2 0 0 0 0 0\n")
    coco, images = tmp_path / "coco.json", tmp_path / "images"
    status, output, _ = run(f"convert {wider} {coco} --from wider --to coco --images {images}")
    assert (status, output) == (0, f"{coco}: 1 faces, 0 of them ignored, in 1 images\n")
    status, output, _ = run(f"convert {coco} {tmp_path / 'yolo'} --from coco --to yolo")
    assert status == 0
    assert "lost: " in output
    refused(run(f"convert {coco} {wider} --from coco --to wider"), "is there already")
    refused(run(f"convert {coco} x --from coc --to wider"), "unknown annotation format 'coc'")


def test_detections_in_files_need_their_ground_truth(run: Run, tmp_path: Path) -> None:
    refused(run(f"evaluate --predictions {tmp_path}"), "--predictions go with --ground-truth")
    refused(run("evaluate"), "say what to evaluate")


def test_faces_are_printed_line_by_line_and_drawn(run: Run, tmp_path: Path, picture: Path) -> None:
    model, boxes = write_tiny_onnx(tmp_path / "tiny.onnx"), tmp_path / "boxes.png"
    status, output, _ = run(f"detect {model} {picture} --output {boxes}")
    *lines, last = output.splitlines()
    assert status == 0
    assert last == f"{len(lines)} faces drawn in {boxes}"
    found = np.array([line.split() for line in lines], dtype=float)
    assert found.shape == (len(lines), 5)
    assert (found[:, 0] >= 46).all()  # a box is at most two pixels wider than its white cell
    drawn, plain = cv2.imread(str(boxes)), cv2.imread(str(picture))
    assert drawn is not None
    assert plain is not None
    assert drawn.shape == plain.shape
    assert (drawn != plain).any()
    assert len(run(f"detect {model} {picture} --score 1")[1].splitlines()) <= len(lines) + 1


def test_prepared_crops_are_kept(run: Run, tmp_path: Path) -> None:
    arguments = f"prepare --synthetic-images 5 --image-size 64 --workers 1 --runs {tmp_path}"
    status, output, _ = run(arguments)
    assert status == 0
    assert "crops of 64 px in" in output
    shards = list(tmp_path.rglob("*.npz"))
    before = [path.stat().st_mtime_ns for path in shards]
    assert shards
    assert run(arguments)[:2] == (0, output)
    assert [path.stat().st_mtime_ns for path in shards] == before


def test_ctrl_c_says_that_the_same_command_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("studies.main_job.run_job", interrupted)
    status, _, error = run(f"--budget 4 --runs {tmp_path}")
    assert (status, error) == (130, "stopped; the same command goes on from here\n")
