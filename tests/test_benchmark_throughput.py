import json

import pytest
import torch
from torch import Tensor

from benchmarks.plain_training import (
    BOX_WEIGHT,
    PlainPictures,
    PlainTraining,
    plain_batches,
    plain_loss,
    plain_numbers,
)
from benchmarks.throughput import LOSS, PARTS, Job, JpegSource, measure
from nas.fitting import seeded
from objectives.multibox import multibox_loss
from search_spaces.zoo.mobilenet_v1 import BGR_MEAN
from search_spaces.zoo.retinaface import RETINAFACE_CODE, retinaface_mnet025
from tests.data.drawn_faces import BACKGROUND_BGR, DrawnFaces
from tests.tiny_training import CPU

PICTURES = PlainPictures(DrawnFaces(count=12), image_size=96, seed=0)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_both_losses_are_equal_where_faces_are_apart() -> None:
    boxes = torch.tensor(
        [[10.3, 11.1, 40.9, 43.2], [100.7, 20.2, 180.1, 110.9], [30, 120, 48, 137]]
    )
    levels = [noise(2, 32, 256 // stride, 256 // stride, seed=stride) for stride in (8, 16, 32)]
    anchors = RETINAFACE_CODE.anchors_cxcywh(levels)
    wanted = torch.tensor([[True, True, True], [True, False, False]])
    ours = multibox_loss(
        RETINAFACE_CODE,
        levels,
        boxes.expand(2, 3, 4),
        wanted,
        torch.zeros_like(wanted),
        settings=LOSS,
    )
    plain = plain_loss(RETINAFACE_CODE.split(levels), anchors, [boxes, boxes[:1]])
    assert ours.positives >= 4
    assert float(plain) == pytest.approx(float(ours.total), rel=1e-5)
    assert float(plain) != pytest.approx(float(ours.total - BOX_WEIGHT * ours.box), rel=1e-2)


def test_an_image_without_faces_teaches_nothing() -> None:
    levels = [noise(1, 32, 64 // stride, 64 // stride) for stride in (8, 16, 32)]
    anchors = RETINAFACE_CODE.anchors_cxcywh(levels)
    assert float(plain_loss(RETINAFACE_CODE.split(levels), anchors, [torch.zeros(0, 4)])) == 0


def test_both_loops_run_one_network() -> None:
    network = retinaface_mnet025().eval()
    images = noise(1, 3, 64, 96) * 50 + 120
    with torch.no_grad():
        ours = RETINAFACE_CODE.split(network(images))
        plain = plain_numbers(network, images - torch.tensor(BGR_MEAN).view(3, 1, 1))
    assert plain.allclose(ours, atol=1e-5)


def test_prepared_pictures_show_their_faces() -> None:
    background = sorted(BACKGROUND_BGR)[-1]
    faces = 0
    for index in range(12):
        image, boxes = PICTURES[index]
        assert image.shape == (3, 96, 96)
        assert image.dtype == boxes.dtype == torch.float32
        assert ((boxes >= 0) & (boxes <= 96)).all()
        brightness = (image + torch.tensor(BGR_MEAN).view(3, 1, 1)).amax(0)
        for x1, y1, x2, y2 in boxes.round().int().tolist():
            assert brightness[y1:y2, x1:x2].mean() > 2 * background
            faces += 1
    assert faces > 10


def test_the_plain_loop_learns() -> None:
    with seeded(0):
        training = PlainTraining(retinaface_mnet025(), image_size=96, device=CPU)
    marks: list[str] = []

    def loss_after(steps: int) -> float:
        batches = plain_batches(PICTURES, [[1, 2]] * steps, workers=0)
        return training.train(batches, marks.append)

    assert loss_after(1) > 1.1 * loss_after(8)
    assert tuple(marks[: len(PARTS)]) == PARTS


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_measurement_says_where_the_time_went(processes: int) -> None:
    job = Job(
        source=JpegSource.of(DrawnFaces(count=4)),
        device=CPU,
        image_size=64,
        batch_size=2,
        steps=1,
        rounds=2,
        threads=1,
        processes=processes,
    )
    result = json.loads(json.dumps(measure(job), allow_nan=False))
    assert len(result["rounds"]) == 2
    assert result["ours"]["processes"] == processes
    for name in ("plain", "ours"):
        seconds = result[name]["seconds_a_step"]
        parts = [seconds[part] for part in PARTS]
        assert min(parts) > 0
        assert sum(parts) == pytest.approx(seconds["all"], rel=0.3)
        rates = [row[name] for row in result["rounds"]]
        assert result[name]["images_per_second"]["highest"] == max(rates)
    first = result["rounds"][0]
    assert first["ratio"] == pytest.approx(first["ours"] / first["plain"])
