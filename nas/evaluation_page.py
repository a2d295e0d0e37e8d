"""An evaluation as one HTML page that opens anywhere, without a network.

Everything is in the page but the worst images: it points to them in `worst/` beside it, so that
the page alone holds no picture of the data set.
"""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from data.wider_ground_truth import SUBSETS
from nas.page_parts import facts_html, number_text, script_json, write_page
from objectives.average_precision import STRATA
from objectives.breakdown import ATTRIBUTE_VALUES, BEST_F1

Json = Mapping[str, Any]

PAGE = Path(__file__).with_name("evaluation_page.html")
SETTING = ("model", "data", "split", "image_size", "scales", "flip", "setting", "images", "faces")
RECORD = ("date", "commit", "seed", "data_hash", "schema_version")


def write_evaluation_page(path: Path, result: Json, curves: Json) -> None:
    """Write the page of an evaluation, whole or not at all.

    result, curves: what `evaluation.json` and `curves.json` hold, see `nas.evaluate`.
    """
    few, many = [point["name"] for point in result["points"]][:2]
    groups = result["groups"]
    parts = {
        "title": html.escape(f"Evaluation of {'/'.join(Path(result['model']).parts[-2:])}"),
        "subtitle": html.escape(
            f"{result['data']} · image size: {result['image_size']} · {result['setting']}"
        ),
        "headline": _headline(result),
        "note": html.escape(result["wider_note"]),
        "points": _points(result["points"]),
        "few": html.escape(few),
        "many": html.escape(many),
        "alike": html.escape(_alike(groups)),
        "groups": "".join(
            _group_section(kind, groups[kind], (few, many)) for kind in groups if kind != "event"
        ),
        "events": _group_section("event", _hardest_first(groups["event"], few), (few, many))
        if "event" in groups
        else "",
        "worst": _pictures(result["worst"]),
        "setting": facts_html({name: result[name] for name in SETTING}, ""),
        "record": facts_html({name: result[name] for name in RECORD}, ""),
        "curves": script_json(_curves(curves)),
    }
    write_page(path, PAGE, parts)


def _headline(result: Json) -> str:
    """Cards: the three WIDER results where there are some, plain AP, and the best F1."""
    cards = [
        (subset.capitalize(), result["wider"][subset]) for subset in SUBSETS if result["wider"]
    ]
    cards.append((f"All faces, IoU {result['iou_threshold']}", result))
    texts = [
        (
            title,
            _share(one["ap"]),
            f"{_between(one['interval'])}, {number_text(one['faces'])} faces",
        )
        for title, one in cards
    ]
    best = next(point for point in result["points"] if point["name"] == BEST_F1)
    shares = best["precision"] or 0.0, best["recall"]
    f1 = 2 * shares[0] * shares[1] / sum(shares) if sum(shares) else 0.0
    texts.append((BEST_F1, _share(f1), f"at score {best['score']:.3f}"))
    return "".join(
        f'<div class="card"><h3>{html.escape(title)}</h3><b>{value}</b>'
        f"<p>{html.escape(detail)}</p></div>"
        for title, value, detail in texts
    )


def _share(value: float | None) -> str:
    return "\u2013" if value is None else f"{value:.4f}"


def _between(interval: Sequence[float] | None) -> str:
    return "no interval" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def _points(points: Sequence[Json]) -> str:
    rows = [
        (
            point["name"],
            f"{point['score']:.3f}",
            _share(point["precision"]),
            _share(point["recall"]),
            f"{point['false_per_image']:.3f}",
        )
        for point in points
    ]
    return _table(("", "score", "precision", "recall", "false an image"), rows)


def _alike(groups: Json) -> str:
    """Says which attributes are not shown."""
    missing = [name for name in ATTRIBUTE_VALUES if name not in groups]
    return f"Not shown, because all faces are alike: {', '.join(missing)}." if missing else ""


def _hardest_first(groups: Json, point: str) -> Json:
    return dict(sorted(groups.items(), key=lambda item: float(item[1]["recall"][point])))


def _group_section(kind: str, groups: Json, points: tuple[str, str]) -> str:
    """A table with a bar for each group: its recall at the first point over that at the second."""
    rows = [
        (
            _group_name(name),
            number_text(group["faces"]),
            _share(group["ap"]),
            *(f"{group['recall'][point]:.3f}" for point in points),
        )
        for name, group in groups.items()
    ]
    bars = [
        "<span>"
        + "".join(f'<i style="width:{100 * group["recall"][p]:.1f}%"></i>' for p in points[::-1])
        + "</span>"
        for group in groups.values()
    ]
    titles = [point.removesuffix(" an image") for point in points]
    table = _table(("", "faces", "AP", *titles), rows, bars=bars)
    return f"<section><h2>{html.escape(kind.capitalize())}</h2>{table}</section>"


def _group_name(name: str) -> str:
    return f"{name}, from {STRATA[name][0]} px" if name in STRATA else name.replace("_", " ")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, bars: Sequence[str] = ()) -> str:
    """The first column is text, the others are numbers; bars are HTML for one column more."""
    titles = "".join(
        f"<th{' class=number' if column else ''}>{html.escape(title)}</th>"
        for column, title in enumerate(head)
    )
    lines = []
    for place, row in enumerate(rows):
        cells = "".join(
            f"<td{' class=number' if column else ''}>{html.escape(text)}</td>"
            for column, text in enumerate(row)
        )
        bar = f'<td class="share">{bars[place]}</td>' if bars else ""
        lines.append(f"<tr>{cells}{bar}</tr>")
    return (
        f'<div class="wide"><table class="results"><thead><tr>{titles}'
        f"{'<th></th>' if bars else ''}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def _pictures(worst: Sequence[Json]) -> str:
    if not worst:
        return '<p class="quiet">There is no image with an error.</p>'
    figures = []
    for row in worst:
        address = html.escape(f"worst/{quote(row['file'])}")
        figures.append(
            f'<figure><a href="{address}"><img src="{address}" loading="lazy" alt=""></a>'
            f"<figcaption><b>{row['missed']} missed, {row['mistaken']} false</b>, "
            f"{row['found']} found<br>{html.escape(row['image'])}</figcaption></figure>"
        )
    return f'<div class="pictures">{"".join(figures)}</div>'


def _curves(curves: Json) -> dict[str, list[Json]]:
    """The lines of both figures, whose names are the keys."""
    lines: dict[str, list[Json]] = {"all": [{"name": "all faces", **curves["all"]}]}
    if curves["wider"]:
        lines["wider"] = [{"name": name, **line} for name, line in curves["wider"].items()]
    return lines
