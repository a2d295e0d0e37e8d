"""What the command line shows: progress bars and tables."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from data.progress import Progress as Listener
from data.quantities import show_quantity
from data.wider_ground_truth import SUBSETS
from nas.benchmark import BenchmarkReport

if TYPE_CHECKING:
    from nas.validate import ValidationReport


@contextmanager
def shown_progress() -> Iterator[Listener]:
    """A listener that draws one bar for each kind of work, on a terminal's standard error."""
    tasks: dict[str, TaskID] = {}
    console = Console(stderr=True)
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,  # a log gets no bars, and no empty lines for them
    )

    def listen(label: str, done: int, total: int) -> None:
        if label not in tasks:
            tasks[label] = bars.add_task(label, total=total)
        bars.update(tasks[label], completed=done, total=total)
        if done >= total:
            bars.remove_task(tasks.pop(label))

    with bars:
        yield listen


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; numbers stand right."""
    table = Table(box=None, pad_edge=False)
    for position, name in enumerate(columns):
        is_text = any(not _is_number(row[position]) for row in rows if row[position] != "-")
        table.add_column(name, justify="left" if is_text else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if Console().is_terminal else 200).print(table)


def _is_number(text: str) -> bool:
    return text[:1].isdigit()


def show_front(rows: Sequence[dict[str, Any]]) -> None:
    """Print the Pareto front, cheapest network first."""
    times = {"ms": "latency_ms"}
    if any("measured_latency_ms" in row for row in rows):
        times["measured ms"] = "measured_latency_ms"
    columns = (
        *("trial", "ap", "alone", "in its trial", "retrained", "params", "MACs", "peak"),
        *(*times, "role", "architecture"),
    )
    show_table(
        columns,
        [
            (
                str(row["trial"]),
                f"{row['ap']:.3f}",
                *(
                    f"{row[name]:.3f}" if name in row else "-"
                    for name in ("alone_ap", "trial_ap", "retrained_ap")
                ),
                show_quantity(row["params"]),
                show_quantity(row["macs"]),
                f"{show_quantity(row['peak_bytes'])}B",
                *(f"{row[name]:.1f}" if name in row else "-" for name in times.values()),
                row["role"] or "-",
                row["key"],
            )
            for row in rows
        ],
    )


def show_evaluation(result: dict[str, Any]) -> None:
    """Print average precision, in all and by face height."""
    low, high = result["interval"]
    print_line = Console(highlight=False, soft_wrap=True).print
    print_line(f"{result['data']}; {result['image_size']}; {result['setting']}")
    print_line(
        f"AP {result['ap']:.3f} (90 % interval {low:.3f} to {high:.3f}) at IoU "
        f"{result['iou_threshold']}, recall {result['recall']:.3f}, "
        f"{result['faces']} faces in {result['images']} images"
    )
    show_table(
        ("face height", "faces", "ap"),
        [
            (name, str(stratum["faces"]), f"{stratum['ap']:.3f}")
            for name, stratum in result["strata"].items()
        ],
    )
    if result.get("wider"):
        show_wider(result["wider"])
    elif "wider_note" in result:
        print_line(f"WIDER FACE protocol: {result['wider_note']}")
    if result.get("coco"):
        coco = result["coco"]
        print_line(f"{result['coco_note']}: AP50 {coco['ap50']:.3f}, AP50:95 {coco['ap50_95']:.3f}")
    elif "coco_note" in result and not result.get("wider"):
        print_line(f"COCO evaluator: {result['coco_note']}")


def show_wider(scored: dict[str, Any]) -> None:
    """Print the three measures of the WIDER FACE protocol."""
    Console(highlight=False, soft_wrap=True).print(f"WIDER FACE protocol: {scored['scored']}")
    show_table(
        ("subset", "faces", "ap", "90 % interval"),
        [
            (
                subset,
                str(scored[subset]["faces"]),
                "-" if scored[subset]["ap"] is None else f"{scored[subset]['ap']:.4f}",
                "-"
                if scored[subset]["interval"] is None
                else "{:.3f} to {:.3f}".format(*scored[subset]["interval"]),
            )
            for subset in SUBSETS
        ],
    )


def show_validation(report: "ValidationReport") -> None:
    """Print every check of a network, and what it found."""
    show_table(
        ("check", "verdict", "found"),
        [(check.name, check.verdict, check.detail) for check in report.checks],
    )


def show_benchmark(report: BenchmarkReport) -> None:
    """Print latencies and the file's size."""
    show_table(
        ("image size", "threads", "p50 ms", "p90 ms"),
        [
            (
                str(latency.image_size),
                str(latency.threads),
                f"{latency.p50_ms:.2f}",
                f"{latency.p90_ms:.2f}",
            )
            for latency in report.latencies
        ],
    )
    size = show_quantity(report.file_bytes)
    Console(highlight=False).print(f"file: {size}B, ONNX Runtime CPU, batch 1, no NMS")


def show_second_opinions(report: dict[str, Any]) -> None:
    """Print our cost of an exported network and where other counters disagree, and why."""
    print_line = Console(highlight=False, soft_wrap=True).print
    cost = report["cost"]
    print_line(
        f"{cost['params']:,} parameters, {cost['macs']:,} MACs and {cost['peak_bytes']:,} bytes "
        f"of activations at {report['image_size']} px"
    )
    for name, opinion in report["second_opinions"].items():
        print_line(
            f"{name} differs by {opinion['macs_difference']:+,} MACs and "
            f"{opinion['params_difference']:+,} parameters: {'; '.join(opinion['blind_spots'])}"
        )


def show_zoo(rows: Sequence[dict[str, Any]]) -> None:
    """Print what the reference architectures cost, and where they come from."""
    show_table(
        ("name", "params", "MACs", "peak", "source"),
        [
            (
                row["name"],
                show_quantity(row["params"]),
                show_quantity(row["macs"]),
                f"{show_quantity(row['peak_bytes'])}B",
                row["source"],
            )
            for row in rows
        ],
    )


def show_retraining(report: dict[str, Any]) -> None:
    """Print how a training went."""
    print_line = Console(highlight=False, soft_wrap=True).print
    fit = report["recipe"]["fit"]
    print_line(
        f"{report['steps']} steps of {fit['batch_size']} crops of {fit['image_size']} px from "
        f"{report['start']}: loss {report['last_loss']:.3f}, {report['images_per_second']:.0f} "
        f"images a second, {report['data_wait_share']:.0%} of the time waiting for data"
    )
    if report["best_ap"] is not None:
        print_line(f"best validation AP {report['best_ap']:.3f}, at step {report['best_step']}")
    for note in report["notes"]:
        print_line(note)
