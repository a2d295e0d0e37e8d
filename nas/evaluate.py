"""How well an exported detector finds the faces of a whole collection of images.

A full evaluation fills a folder: `evaluation.json` with every number, `curves.json`,
`evaluation.html` to look at, `worst/` with the images that went worst, and for WIDER FACE
`predictions/` as its toolbox reads them. It holds pictures of the data set: keep it out of
places where those must not go.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import UserError
from data.files import write_json, write_text
from data.predictions import prediction_rows, read_predictions, write_predictions
from data.progress import Progress, silent
from data.sample import Faces, ImageSource
from data.wider import WiderSource
from data.wider_ground_truth import SUBSETS, CountedFaces, read_ground_truth
from nas.evaluation_analysis import analyse, write_worst
from nas.multi_pass import MAX_BOXES, ONE_PASS, MultiPassDetector, Passes
from nas.records import record_header
from objectives.average_precision import LEAST_SCORE, NMS_IOU, Detections, evaluate_detections
from objectives.coco_precision import coco_is_installed, coco_precision
from objectives.wider_interval import wider_intervals
from objectives.wider_protocol import match_predictions, report_precision

GROUND_TRUTH_FILES = tuple(f"wider_{part}_val.mat" for part in ("face", *SUBSETS))


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """What to evaluate with. passes: how often each image is looked at.

    long_side: images are scaled to it, pixels; None keeps their size. ground_truth: folder of
    GROUND_TRUTH_FILES; None looks for it beside the images. worst: most images drawn.
    """

    long_side: int | None
    passes: Passes = ONE_PASS
    ground_truth: Path | None = None
    worst: int = 12
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Detected:
    """Names of a source's images, what was found in them, and what is there; one entry an image."""

    names: Sequence[str]
    found: Sequence[Detections]
    faces: Sequence[Faces]


def evaluate_model(
    onnx: Path,
    source: ImageSource,
    *,
    long_side: int | None,
    seed: int,
    passes: Passes = ONE_PASS,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Average precision at IoU 0.5, with the setting it was measured in.

    long_side: images are scaled to it, pixels; None keeps their size. Boxes are compared, and
    face heights counted, in pixels of the original images.
    """
    request = EvaluationRequest(long_side, passes=passes, seed=seed)
    return _plain_precision(_detect(onnx, source, request, progress), source, request)


def evaluate_in_full(
    onnx: Path,
    source: ImageSource,
    folder: Path,
    *,
    request: EvaluationRequest,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Detect, score, analyse, and write it all to a folder; gives what `evaluation.json` holds.

    `wider` is what `score_wider` gives, or None; `wider_note` says what was scored, or why not.

    Raises:
        UserError: the ground truth given is missing or does not fit the images, or the folder
            holds predictions of other images.
    """
    # What a person can have got wrong is found out before the long part.
    truth, why_not = _ground_truth_of(source, request.ground_truth)
    predictions = folder / "predictions"
    if isinstance(source, WiderSource):
        _refuse_others(predictions, [source.name(i) for i in range(len(source))])

    detected = _detect(onnx, source, request, progress)
    analysis = analyse(detected.found, detected.faces, detected.names)
    result = {
        **record_header(seed=request.seed, data_hash=source.fingerprint()),
        "model": str(onnx),
        **_plain_precision(detected, source, request),
        "wider": None,
        "wider_note": why_not,
        **analysis.to_json(),
    }
    curves: dict[str, Any] = {"all": analysis.curve_json(), "wider": None}
    if isinstance(source, WiderSource):
        write_predictions(predictions, dict(zip(detected.names, detected.found, strict=True)))
        named = ("model", "data", "split", "image_size", "scales", "flip", "setting", "images")
        write_json(predictions / "setting.json", {name: result[name] for name in named})
    if truth is not None:
        rows = {
            name: prediction_rows(found)
            for name, found in zip(detected.names, detected.found, strict=True)
        }
        result["wider"], curves["wider"] = score_wider(
            truth, rows, images=detected.names, seed=request.seed, progress=progress
        )
        result["wider_note"] = result["wider"]["scored"]
    result["coco"], result["coco_note"] = _coco(detected, source)
    result["worst"] = write_worst(
        folder / "worst", source, analysis, count=request.worst, progress=progress
    )
    _write(folder, result, curves)
    return result


def evaluate_predictions(
    predictions: Path, ground_truth: Path, *, partial: bool, progress: Progress = silent
) -> dict[str, Any]:
    """WIDER FACE's easy, medium and hard AP of detections in files, see `score_wider`.

    predictions: a folder or an archive of <event>/<image>.txt. partial: score only the images
    that have predictions, on the faces they hold; else all of val must have some.

    Raises:
        UserError: something is missing, damaged, or does not belong to the other.
    """
    rows = read_predictions(predictions)
    truth = read_ground_truth(ground_truth)
    images = sorted(rows) if partial else None
    result, _ = score_wider(truth, rows, images=images, progress=progress)
    return {"predictions": str(predictions), "ground_truth": str(ground_truth), **result}


def score_wider(
    truth: Mapping[str, CountedFaces],
    rows: Mapping[str, NDArray[np.float64]],
    *,
    images: Sequence[str] | None,
    seed: int = 0,
    progress: Progress = silent,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Results of the WIDER protocol, and the curves of its subsets.

    rows, images: as in `match_predictions`. Each subset has `ap` (None where no face
    counts), `interval` (5th and 95th percentile when images are drawn again) and `faces`.
    """
    matches = match_predictions(truth, rows, images=images, progress=progress)
    report, intervals = report_precision(matches), wider_intervals(matches, seed=seed)
    result: dict[str, Any] = {
        "scored": f"all {report.images:,} images of val"
        if report.images == len(truth)
        else f"{report.images:,} images of val's {len(truth):,}, on the faces they hold",
        "images": report.images,
        "images_of_val": len(truth),
        "detections": report.detections,
    }
    curves = {}
    for name, subset in report.subsets.items():
        interval = intervals[name]
        result[name] = {
            "ap": subset.ap,
            "interval": None if interval is None else list(interval),
            "faces": subset.faces,
        }
        curves[name] = {
            "recall": np.round(subset.recall, 5).tolist(),
            "precision": np.round(subset.precision, 5).tolist(),
        }
    return result, curves


def _detect(
    onnx: Path, source: ImageSource, request: EvaluationRequest, progress: Progress
) -> _Detected:
    detector = MultiPassDetector(onnx, long_side=request.long_side, passes=request.passes)
    names, found, faces = [], [], []
    for i in range(len(source)):
        sample = source.load(i)
        names.append(sample.source)
        found.append(Detections(*detector(sample.image)))
        faces.append(sample.faces)
        progress("evaluate", i + 1, len(source))
    return _Detected(names, found, faces)


def _plain_precision(
    detected: _Detected, source: ImageSource, request: EvaluationRequest
) -> dict[str, Any]:
    """What `evaluate_model` gives."""
    report = evaluate_detections(detected.found, detected.faces, seed=request.seed)
    long_side, passes = request.long_side, request.passes
    return {
        "data": source.description,
        "split": source.split if isinstance(source, WiderSource) else None,
        "image_size": "original" if long_side is None else f"long side {long_side}",
        "scales": list(passes.scales),
        "flip": passes.flip,
        "setting": f"{passes}, score over {LEAST_SCORE}, NMS {NMS_IOU}"
        f"{' and box voting' if len(list(passes)) > 1 else ''}, at most {MAX_BOXES} boxes an image",
        **report.to_json(),
    }


def _coco(detected: _Detected, source: ImageSource) -> tuple[dict[str, Any] | None, str]:
    """AP by the COCO evaluator, for data sets that are not WIDER FACE; and why not, if not."""
    if isinstance(source, WiderSource):
        return None, "not scored: WIDER FACE has a measure of its own"
    if not coco_is_installed():
        return None, "not scored: pip install -e '.[coco]' for AP50:95"
    report = coco_precision(detected.found, detected.faces, max_detections=MAX_BOXES)
    return report.to_json(), f"COCO evaluator, at most {MAX_BOXES} boxes an image"


def _ground_truth_of(
    source: ImageSource, given: Path | None
) -> tuple[dict[str, CountedFaces] | None, str]:
    """The ground truth that belongs to a source, and why there is none where there is none."""
    if not isinstance(source, WiderSource) or source.split != "val":
        if given is not None:
            raise UserError(
                f"--ground-truth is of WIDER FACE's val split, got {source.description}; "
                f"leave it out, or give --split val and the folder of WIDER FACE"
            )
        return None, "not scored: the protocol is for WIDER FACE's val split"
    root = source.folder.parents[1]
    nearby = (root / "ground_truth", root / "wider_face_split")
    whole = [one for one in nearby if all((one / name).is_file() for name in GROUND_TRUTH_FILES)]
    if given is None and not whole:
        return None, (
            f"not scored: no ground truth ({', '.join(GROUND_TRUTH_FILES)}) in "
            f"{' or '.join(map(str, nearby))}; give its folder with --ground-truth"
        )
    truth = read_ground_truth(given or whole[0])
    strangers = [one.name for one in source.images if one.name not in truth]
    if strangers:
        raise UserError(
            f"{len(strangers)} images of {source.folder} are not in the ground truth in "
            f"{given or whole[0]}, such as {strangers[0]}; give the ground truth of these images"
        )
    return truth, ""


def _refuse_others(predictions: Path, names: Sequence[str]) -> None:
    """Refuse a folder in which `write_predictions` would refuse to write."""
    stems = {str(Path(name).with_suffix("")) for name in names}
    for path in predictions.rglob("*.txt"):
        if str(path.relative_to(predictions).with_suffix("")) not in stems:
            raise UserError(
                f"{predictions} holds predictions of other images, such as {path.name}; "
                f"give another folder with --output"
            )


def _write(folder: Path, result: dict[str, Any], curves: dict[str, Any]) -> None:
    from nas.evaluation_page import write_evaluation_page  # loads plotly, and few need it

    write_text(folder / "curves.json", json.dumps(curves, allow_nan=False) + "\n")
    write_evaluation_page(folder / "evaluation.html", result, curves)
    write_json(folder / "evaluation.json", result)
