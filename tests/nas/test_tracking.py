"""Rows are there as soon as they are heard of, and once each, however often training was cut."""

import csv
import json
import math
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from data.errors import UserError
from data.sample import Faces
from nas.drawing import COLOUR_BGR, read_image
from nas.example_pictures import (
    GAP_PX,
    TRUTH_BGR,
    WatchedValidation,
    example_pictures,
)
from nas.recipe import Recipe
from nas.retrain import Company, Row, Tracker, retrain
from nas.tracking import (
    COLUMNS,
    TRACKERS,
    USUAL_TRACKERS,
    FileTracker,
    PageSettings,
    PageTracker,
    TensorBoardTracker,
    WandbTracker,
    flat_numbers,
    make_trackers,
    read_progress,
)
from nas.tracking_page import MOST_POINTS
from nas.weights import load_detector
from objectives.average_precision import Detections
from search_spaces.face_network import FaceNetwork
from tests.tiny_training import (
    FIT,
    TinyBatches,
    equal_weights,
    tiny_network,
    tiny_shards,
    weights_of,
)

DATA = re.compile(r'id="figures">(.*?)</script>', re.DOTALL)


def step_row(step: int, **more: Any) -> Row:
    return {"step": step, "epoch": step / 100, "loss": 100 / step, "learning_rate": 1.0, **more}


def evaluation_row(step: int) -> Row:
    return {
        "step": step,
        "ap": step / 1000,
        "best_ap": 0.5,
        "ap_interval": [0.25, 0.5],
        "ap_tiny": 0.75,
        "wider": {"easy": {"ap": 0.5}},
        "data": "held-out",
    }


def tell(tracker: Tracker, *steps: int) -> None:
    """Logged steps, and an evaluation after those that are multiples of 20."""
    for step in steps:
        tracker.step(step_row(step))
        if step % 20 == 0:
            tracker.evaluation(evaluation_row(step))


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "progress.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_nested_numbers_get_joined_names() -> None:
    row = {"ap": 0.5, "wider": {"easy": {"ap": 1}}, "bad": math.nan, "is": True, "list": [1]}
    assert flat_numbers(row) == {"ap": 0.5, "wider_easy_ap": 1}


def test_rows_are_on_disk_at_once_in_both_files(tmp_path: Path) -> None:
    tracker = FileTracker(tmp_path)
    assert list(tmp_path.iterdir()) == [], "nothing is written before the first row"
    for step in (10, 20):
        tell(tracker, step)
        assert table(tmp_path)[-1]["step"] == str(step)
        assert read_progress(tmp_path)[-1]["step"] == step
    assert [row["kind"] for row in table(tmp_path)] == ["step", "step", "evaluation"]


def test_the_table_has_its_columns_whatever_a_row_has(tmp_path: Path) -> None:
    tracker = FileTracker(tmp_path)
    tracker.step({"step": 10, "new": 3, "text": "a,\nb"})
    tracker.step({"step": 20, "loss": math.inf, "gradient_norm": 2.5})
    tracker.evaluation(evaluation_row(20))
    rows = table(tmp_path)
    assert [tuple(row) for row in rows] == [COLUMNS] * 3
    assert (rows[1]["loss"], rows[1]["gradient_norm"]) == ("", "2.5")
    assert (rows[2]["ap"], rows[2]["ap_tiny"], rows[2]["ap_large"]) == ("0.02", "0.75", "")
    lines = read_progress(tmp_path)
    assert (lines[0]["new"], lines[0]["text"], lines[1]["loss"]) == (3, "a,\nb", None)
    assert lines[2].items() >= evaluation_row(20).items()


def test_an_evaluation_has_the_means_of_the_steps_since_the_one_before(tmp_path: Path) -> None:
    tracker = FileTracker(tmp_path)
    tell(tracker, 20)
    tracker.step(step_row(25, learning_rate=3.0, gradient_norm=math.inf))
    tracker.step(step_row(50, learning_rate=2.0, gradient_norm=6.0))
    tracker.evaluation({"step": 50, "ap": 0.5})
    last = read_progress(tmp_path)[-1]
    assert (last["loss"], last["gradient_norm"]) == (3.0, 6.0), "(4 + 2) / 2; one that is finite"
    assert (last["learning_rate"], last["step"], last["kind"]) == (2.0, 50, "evaluation")


def test_files_of_a_cut_training_are_those_of_a_straight_one(tmp_path: Path) -> None:
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    tell(FileTracker(straight), 10, 20, 30, 40, 50)
    tell(FileTracker(cut), 10, 20, 30, 40)
    for name in ("progress.jsonl", "progress.csv"):  # killed while it wrote
        with (cut / name).open("a") as stream:
            stream.write('{"kind": "st')
    tell(FileTracker(cut), 30, 40, 50)  # the checkpoint was of step 20
    for name in ("progress.jsonl", "progress.csv"):
        assert (cut / name).read_text() == (straight / name).read_text()


def test_a_training_from_the_start_forgets_the_one_before(tmp_path: Path) -> None:
    tell(FileTracker(tmp_path), 10, 20, 30)
    tell(FileTracker(tmp_path), 10)
    assert [row["step"] for row in read_progress(tmp_path)] == [10]
    assert len(table(tmp_path)) == 1


def test_a_tracker_that_hears_nothing_changes_nothing(tmp_path: Path) -> None:
    tell(FileTracker(tmp_path), 10, 20)
    before = (tmp_path / "progress.jsonl").read_bytes()
    for tracker in make_trackers(USUAL_TRACKERS, tmp_path):
        tracker.close()
    assert (tmp_path / "progress.jsonl").read_bytes() == before
    assert not (tmp_path / "progress.html").exists()


@pytest.mark.parametrize("damage", ["no JSON", '{"step": 1}', "3", ""])
def test_a_damaged_line_that_is_not_the_last_is_named(tmp_path: Path, damage: str) -> None:
    tell(FileTracker(tmp_path), 10)
    path = tmp_path / "progress.jsonl"
    path.write_text(path.read_text() + damage + "\n" + path.read_text())
    with pytest.raises(UserError, match=r"line 2 of .*progress\.jsonl is damaged"):
        FileTracker(tmp_path)


@dataclass
class Clock:
    """A time that a test sets."""

    seconds: float = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def _small_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.page_parts.get_plotlyjs", lambda: "")


def page_in(folder: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    """The page, and by a chart's title the lines that it draws by their names."""
    page = (folder / "progress.html").read_text(encoding="utf-8")
    found = DATA.search(page)
    assert found
    assert "<" not in found[1], "nothing in the data can end the script element"
    charts = {
        chart["title"]: {line["name"]: line for line in chart["lines"]}
        for chart in json.loads(found[1])
    }
    return page, charts


def test_the_page_stands_alone(tmp_path: Path) -> None:
    tell(PageTracker(tmp_path, PageSettings(title="tea & <cake> @plotly@")), 10)
    page, _ = page_in(tmp_path)
    assert 4e6 < len(page) < 8e6, "one copy of plotly"
    own = page.replace(max(re.findall(r"<script>(.*?)</script>", page, re.DOTALL), key=len), "")
    assert re.findall(r'(?:src|href)="([^"]*)"', own) == ["data:,"]
    assert own.count("tea &amp; &lt;cake&gt; @plotly@") == 2


@pytest.mark.usefixtures("_small_page")
def test_the_page_is_written_now_and_then_and_a_last_time(tmp_path: Path) -> None:
    clock = Clock()
    tracker = PageTracker(tmp_path, PageSettings(steps=110, seconds_between=30), clock=clock)
    seen = []
    for step in (10, 20, 30, 40):
        clock.seconds = step
        tell(tracker, step)
        page, charts = page_in(tmp_path)
        seen.append(charts["Loss"]["loss"]["x"][-1])
    assert seen == [10, 10, 10, 40], "30 seconds after the first"
    assert '<meta http-equiv="refresh" content="30">' in page
    assert "of 110, epoch 0.4, 2 min left" in page, "70 steps of a second each"
    tracker.step(step_row(50))
    tracker.close()
    page, charts = page_in(tmp_path)
    assert charts["Loss"]["loss"]["x"] == [10, 20, 30, 40, 50]
    assert "http-equiv" not in page
    assert "<b>Ended</b>" in page


@pytest.mark.usefixtures("_small_page")
def test_the_page_draws_what_there_is(tmp_path: Path) -> None:
    tracker = PageTracker(tmp_path)
    tracker.step(step_row(10, quality=0.0, gradient_norm=math.nan))
    page, charts = page_in(tmp_path)
    assert "No validation yet." in page
    assert set(charts["Loss"]) == {"loss"}, "a part that is always 0 is not drawn"
    assert charts["Gradient norm, before clipping"] == {}
    tracker.evaluation(evaluation_row(20))
    tracker.close()
    _, charts = page_in(tmp_path)
    assert {name: line["y"] for name, line in charts["Average precision"].items()} == {
        "ap": [0.02],
        "tiny": [0.75],
    }


@pytest.mark.usefixtures("_small_page")
def test_an_ap_of_zero_is_drawn_whatever_it_is_of(tmp_path: Path) -> None:
    tracker = PageTracker(tmp_path)
    tracker.evaluation({"step": 20, "ap": 0.0, "ap_</script>": 0.0})
    lines = page_in(tmp_path)[1]["Average precision"]
    assert {name: line["y"] for name, line in lines.items()} == {"ap": [0.0], "</script>": [0.0]}


@pytest.mark.usefixtures("_small_page")
def test_a_resumed_page_has_the_whole_curve_once(tmp_path: Path) -> None:
    tell(FileTracker(tmp_path), 10, 20, 30, 40)
    tracker = PageTracker(tmp_path)
    tell(tracker, 30, 40, 50)
    tracker.close()
    _, charts = page_in(tmp_path)
    assert charts["Loss"]["loss"]["x"] == [10, 20, 30, 40, 50]
    assert charts["Average precision"]["ap"]["x"] == [20, 40]


@pytest.mark.usefixtures("_small_page")
def test_a_long_training_is_drawn_by_means(tmp_path: Path) -> None:
    tracker = PageTracker(tmp_path, PageSettings(seconds_between=1e6))
    for step in range(1, MOST_POINTS + 3):
        tracker.step({"step": step, "loss": float(step)})
    tracker.close()
    line = page_in(tmp_path)[1]["Loss"]["loss"]
    assert len(line["x"]) == MOST_POINTS // 2 + 1
    assert (line["x"][0], line["y"][0]) == (2, 1.5)
    assert line["x"][-1] == MOST_POINTS + 2


@pytest.mark.usefixtures("_small_page")
def test_pictures_lie_beside_the_page_and_the_latest_are_shown(tmp_path: Path) -> None:
    pictures = iter([None, *(np.full((8, 9, 3), 40 * i, np.uint8) for i in range(5))])
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "step-000990.jpg").write_bytes(b"of a training before")
    tracker = PageTracker(tmp_path, PageSettings(examples=lambda: next(pictures)))
    tell(tracker, 20, 40, 60, 80, 100, 120)
    tracker.close()
    shown = re.findall(r'src="([^"]*)"', page_in(tmp_path)[0])
    assert shown == [f"examples/step-{step:06d}.jpg" for step in (120, 100, 80, 60)]
    assert abs(int(read_image(tmp_path / shown[0]).mean()) - 160) < 3


def test_examples_show_what_is_found_and_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    network = tiny_network()
    images = np.zeros((3, 64, 96, 3), np.uint8)
    faces = [Faces.of(np.array([[4, 4, 20, 20]])), Faces.of(np.zeros((0, 4))), _ignored()]
    boxes = np.array([[30, 30, 50, 50], [60, 30, 80, 50]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.1], np.float32))
    monkeypatch.setattr("nas.example_pictures.detect_images", lambda *_a, **_k: [found] * 3)
    picture = example_pictures(network, images, faces)
    assert picture.shape == (64, 3 * 96 + 2 * GAP_PX, 3)
    assert tuple(picture[10, 4]) == TRUTH_BGR
    np.testing.assert_allclose(picture[40, 30], COLOUR_BGR, atol=30)  # its edge is soft
    assert not picture[40, 60].any(), "a weak box is not shown"
    second, third = (picture[:, i * (96 + GAP_PX) :][:, :96] for i in (1, 2))
    np.testing.assert_array_equal(second, third)
    assert not images.any()


def _ignored() -> Faces:
    return Faces.of(np.array([[4, 4, 20, 20]]), ignore=np.array([True]))


def test_large_images_are_shown_small() -> None:
    images = np.zeros((1, 1280, 640, 3), np.uint8)
    assert example_pictures(tiny_network(), images, [_ignored()]).shape == (320, 160, 3)


@dataclass
class Service:
    """Stands for a package: keeps what it is told."""

    made: list[dict[str, Any]] = field(default_factory=list)
    scalars: list[tuple[int, str, float]] = field(default_factory=list)
    ended: int = 0

    def writer(self, place: str, **settings: Any) -> "Service":
        self.made.append({"place": place, **settings})
        return self

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.scalars.append((step, name, value))

    def log(self, values: dict[str, float], *, step: int) -> None:
        self.scalars += [(step, name, value) for name, value in values.items()]

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.ended += 1

    finish = close


class FakeError(Exception):
    """Stands for wandb.Error."""


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    """Both packages, whether installed or not."""
    service = Service()
    board, wandb = ModuleType("torch.utils.tensorboard"), ModuleType("wandb")
    board.SummaryWriter = service.writer  # type: ignore[attr-defined]
    wandb.Error = FakeError  # type: ignore[attr-defined]
    wandb.init = lambda dir, **settings: service.writer(dir, **settings)  # type: ignore[attr-defined]  # noqa: A006
    for module in (board, wandb):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return service


def test_tensorboard_gets_scalars_and_forgets_what_comes_again(
    tmp_path: Path, service: Service
) -> None:
    tracker = TensorBoardTracker(tmp_path)
    tracker.close()
    assert service.made == [], "no file before the first row"
    tell(tracker, 30, 40)
    tracker.close()
    assert service.made == [{"place": str(tmp_path / "tensorboard"), "purge_step": 30}]
    assert (40, "training/loss", 2.5) in service.scalars
    assert (40, "validation/wider_easy_ap", 0.5) in service.scalars
    assert {step for step, _, _ in service.scalars} == {30, 40}
    assert service.ended == 1


def test_wandb_gets_the_same_and_leaves_its_settings_to_the_environment(
    tmp_path: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "new"
    tracker = WandbTracker(folder, name="tiny")
    tracker.close()
    assert service.made == []
    tell(tracker, 40)
    tracker.close()
    about = {"name": "tiny", "group": "tiny", "place": str(folder)}
    assert service.made == [{"project": "feathernas", **about}]
    assert folder.is_dir()
    assert (40, "validation/ap", 0.04) in service.scalars
    assert service.ended == 1
    monkeypatch.setenv("WANDB_PROJECT", "own")
    tell(WandbTracker(folder, name="tiny"), 40)
    assert service.made[1]["project"] == "own"


@pytest.mark.usefixtures("service")
def test_a_run_that_does_not_start_tells_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_settings: Any) -> None:
        raise FakeError("no API key")

    monkeypatch.setattr("wandb.init", refuse)
    with pytest.raises(UserError, match="no API key; run wandb login, or set WANDB_MODE=offline"):
        tell(WandbTracker(tmp_path, name="tiny"), 10)


@pytest.mark.parametrize(
    ("name", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")]
)
def test_without_its_package_a_tracker_tells_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"pip install -e '\.\[{name}\]'"):
        make_trackers([name], tmp_path)


@pytest.mark.usefixtures("service")
def test_trackers_are_made_by_name_once_each(tmp_path: Path) -> None:
    made = make_trackers([*TRACKERS, "files"], tmp_path)
    kinds = [FileTracker, PageTracker, TensorBoardTracker, WandbTracker]
    assert [type(tracker) for tracker in made] == kinds
    assert make_trackers([], tmp_path) == ()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(
        UserError, match=r"unknown tracker 'tensorbord'.*Did you mean 'tensorboard'"
    ):
        make_trackers(["files", "tensorbord"], tmp_path)


def test_a_negative_time_between_pages_is_refused() -> None:
    with pytest.raises(ValueError, match="seconds_between must be at least 0, got -1"):
        PageSettings(seconds_between=-1)


@pytest.mark.usefixtures("_small_page")
def test_a_retraining_is_followed_and_not_disturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def validate(_network: FaceNetwork) -> dict[str, float]:
        return {"ap": 0.25}

    def run(folder: Path, company: Company) -> dict[str, Tensor]:
        recipe = Recipe(fit=FIT, validate_every=2)
        retrain(tiny_network(), batches, recipe, folder=folder, facts={}, company=company)
        return weights_of(load_detector(folder / "weights.safetensors")[0])

    monkeypatch.setattr("nas.retrain.LOG_STEPS", 1)
    shards = tiny_shards(tmp_path / "shards")[0]
    batches = TinyBatches(shards)
    watched = WatchedValidation(validate, shards.images[:2], [shards.faces(i) for i in (0, 1)])
    assert watched.picture() is None
    folder = tmp_path / "followed"
    page = PageSettings(steps=FIT.steps, examples=watched.picture)
    trackers = make_trackers(USUAL_TRACKERS, folder, page)
    followed = run(folder, Company(validate=watched, trackers=trackers))
    assert equal_weights(followed, run(tmp_path / "alone", Company(validate=validate)))
    rows = read_progress(folder)
    assert [(row["step"], row["kind"]) for row in rows] == [
        (1, "step"),
        (2, "step"),
        (2, "evaluation"),
        (3, "step"),
        (4, "step"),
        (4, "evaluation"),
    ]
    assert all(row[name] != "" for row in table(folder) for name in COLUMNS[:13])
    assert sorted(p.name for p in (folder / "examples").iterdir()) == [
        "step-000002.jpg",
        "step-000004.jpg",
    ]
    assert "<b>Ended</b>" in page_in(folder)[0]
