"""The command line of FeatherNAS; `python run_search.py --budget 200` is the search."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data.errors import UserError
from data.files import write_json
from data.quantities import parse_image_size, parse_long_side, parse_quantity, show_quantity
from nas.device import require_cpu
from studies.console import (
    show_benchmark,
    show_evaluation,
    show_front,
    show_retraining,
    show_second_opinions,
    show_table,
    show_validation,
    show_wider,
    show_zoo,
    shown_progress,
)
from studies.say import unsaid

if TYPE_CHECKING:
    from objectives.limits import Limits

RUNS = Path("runs")

CTRL_C = 130
"""The exit status that typer gives a command that was stopped by Ctrl-C."""

app = typer.Typer(
    help="Find tiny face detectors by neural architecture search. Without a verb: search.",
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="WIDER, COCO, YOLO or VOC folder; without it faces are drawn."),
]
StudyOption = Annotated[str, typer.Option("--study", help="Name of the study and its folder.")]
RunsOption = Annotated[Path, typer.Option("--runs", help="Folder of all studies.")]
StorageOption = Annotated[
    str | None,
    typer.Option("--storage", help="Optuna storage URL; without it SQLite in the study's folder."),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Of everything random.")]
DeviceOption = Annotated[
    str, typer.Option("--device", help="Where networks are trained: auto, cpu or cuda.")
]
UnusedSeedOption = Annotated[
    int, typer.Option("--seed", min=0, help="Every command takes it; this one draws nothing.")
]
CpuOption = Annotated[
    str, typer.Option("--device", help="Every command takes it; this one runs on the CPU.")
]
WorkersOption = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes; without it one for each core.")
]
ChosenStudyOption = Annotated[
    str | None, typer.Option("--study", help="Name of the study, with --trial.")
]
ChosenTrialOption = Annotated[
    int | None, typer.Option("--trial", min=0, help="Number of the trial, with --study.")
]
ArchOption = Annotated[
    str | None,
    typer.Option("--arch", help="A reference (see zoo) or an architecture's key."),
]
SyntheticOption = Annotated[
    int, typer.Option("--synthetic-images", min=5, help="Images to draw when there is no --data.")
]

MaxParamsOption = Annotated[
    str, typer.Option("--max-params", help="Trainable weights, strictly fewer.")
]
MaxMacsOption = Annotated[
    str,
    typer.Option("--max-macs", help="Multiply-accumulates at --image-size; many call 1G 1 GFLOPs."),
]
MaxMemoryOption = Annotated[str, typer.Option("--max-memory", help="Peak fp32 activations, bytes.")]
DeployedSizeOption = Annotated[
    int,
    typer.Option("--image-size", help="Side of the deployed image, pixels, a multiple of 32."),
]

SplitOption = Annotated[str, typer.Option("--split", help="Which images: train or val.")]
ModelArgument = Annotated[Path, typer.Argument(help="Exported network, a .onnx file.")]


def _say(line: str) -> None:
    typer.echo(line)


def _limits(max_params: str, max_macs: str, max_memory: str, image_size: int) -> "Limits":
    from objectives.limits import Limits

    return Limits(
        max_params=parse_quantity(max_params),
        max_macs=parse_quantity(max_macs),
        max_memory_bytes=parse_quantity(max_memory),
        image_size=parse_image_size(image_size),
    )


@app.command()
def search(
    budget: Annotated[int, typer.Option(help="Trials in all; a study may grow.")] = 200,
    data: DataOption = None,
    study: StudyOption = "synthetic",
    objective: Annotated[str, typer.Option(help="Cost to lower: macs or latency.")] = "macs",
    latency_table: Annotated[
        Path | None,
        typer.Option(help="Device's table, for --objective latency; unset: this machine's."),
    ] = None,
    sampler: Annotated[str, typer.Option(help="Who proposes: tpe, gp, nsga2 or random.")] = "tpe",
    max_params: MaxParamsOption = "285K",
    max_macs: MaxMacsOption = "1G",
    max_memory: MaxMemoryOption = "16MB",
    image_size: DeployedSizeOption = 640,
    *,
    shrink: Annotated[
        bool, typer.Option("--shrink", help="Search the narrower space that the audit proposes.")
    ] = False,
    early_stopping: Annotated[
        bool | None,
        typer.Option(
            "--early-stopping/--no-early-stopping",
            help="End fits that cheaper trials surely beat; unset: from a budget of 50 on.",
        ),
    ] = None,
    inherit: Annotated[
        bool | None,
        typer.Option(
            "--inherit/--no-inherit",
            help="Start trials from a supernet's weights or from weights of their own.",
        ),
    ] = None,
    supernet: Annotated[
        Path | None,
        typer.Option(help="File of a trained supernet to start from; unset: one is trained."),
    ] = None,
    teach: Annotated[
        bool | None,
        typer.Option(
            "--teach/--no-teach",
            help="Let trials learn from a trained network too; unset: from a budget of 50 on.",
        ),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(help="Weights of a trained network to learn from; unset: one is trained."),
    ] = None,
    retrain: Annotated[
        str,
        typer.Option(
            help="Networks to retrain: auto, all, none or a number. "
            "auto: knee and extremes on CUDA, the knee on a CPU."
        ),
    ] = "auto",
    proxy_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of a trial's fit; unset: by the budget.")
    ] = None,
    supernet_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of the supernet; unset: by the budget.")
    ] = None,
    teacher_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of the teacher; unset: by the budget.")
    ] = None,
    retrain_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of a retraining; unset: by the budget.")
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    storage: StorageOption = None,
    runs: RunsOption = RUNS,
) -> None:
    """Search, retrain, export and benchmark; the same command goes on where it was stopped."""
    from studies.main_job import JobRequest, run_job
    from studies.workspace import Workspace

    request = JobRequest(
        workspace=Workspace(runs, study),
        budget=budget,
        data=data,
        limits=_limits(max_params, max_macs, max_memory, image_size),
        objective=objective,
        sampler=sampler,
        seed=seed,
        device=device,
        workers=workers,
        storage_url=storage,
        retrain=retrain,
        supernet_steps=supernet_steps,
        teacher_steps=teacher_steps,
        proxy_steps=proxy_steps,
        retrain_steps=retrain_steps,
        latency_table=latency_table,
        shrink=shrink,
        early_stopping=early_stopping,
        inherit=inherit,
        supernet=supernet,
        teach=teach,
        teacher=teacher,
    )
    with shown_progress() as progress:
        run_job(request, say=_say, progress=progress)


@app.command()
def audit(
    max_params: MaxParamsOption = "285K",
    max_macs: MaxMacsOption = "1G",
    max_memory: MaxMemoryOption = "16MB",
    image_size: DeployedSizeOption = 640,
    seed: SeedOption = 0,
    device: CpuOption = "auto",
    runs: RunsOption = RUNS,
) -> None:
    """Say what limits leave of the space, and a narrower one; a search does this by itself."""
    from studies.space_stage import audit_space

    require_cpu(device)
    limits = _limits(max_params, max_macs, max_memory, image_size)
    target = runs / "audit.json"
    with shown_progress() as progress:
        proposal = audit_space(target, limits, seed=seed, say=_say, progress=progress)
    _say(f"result: {target}")
    narrower = " and --shrink" if proposal.dropped else ""
    _say(f"next: python run_search.py search with the same limits{narrower}")


@app.command()
def prepare(
    data: DataOption = None,
    split: SplitOption = "train",
    synthetic_images: SyntheticOption = 1000,
    image_size: Annotated[int, typer.Option(help="Side of a crop, pixels.")] = 256,
    seed: SeedOption = 0,
    device: CpuOption = "auto",
    workers: WorkersOption = None,
    runs: RunsOption = RUNS,
) -> None:
    """Cut images into .npz shards of square crops; a search does this by itself."""
    from data.shards import ShardSettings
    from data.sources import open_source
    from studies.preparation import prepare_source
    from studies.workspace import Workspace

    require_cpu(device)
    usual = ShardSettings(seed=seed)
    settings = replace(usual, image_size=parse_image_size(image_size, largest=usual.full_size))
    source = open_source(data, split, synthetic_images=synthetic_images, seed=seed)
    with shown_progress() as progress:
        prepare_source(
            source,
            Workspace(runs, "prepare").shards,
            settings,
            workers=workers,
            say=_say,
            progress=progress,
        )


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Annotation: a file, or a folder for yolo, voc.")],
    target: Annotated[Path, typer.Argument(help="What to write; must not be there yet.")],
    source_format: Annotated[str, typer.Option("--from", help="wider, coco, yolo or voc.")],
    target_format: Annotated[str, typer.Option("--to", help="wider, coco, yolo or voc.")],
    images: Annotated[
        Path | None,
        typer.Option(help="Folder the images' names start from; wider and yolo need it."),
    ] = None,
    seed: UnusedSeedOption = 0,  # noqa: ARG001
    device: CpuOption = "auto",
) -> None:
    """Write the annotation of one split in another format; images are not copied."""
    from data.formats import convert as convert_annotation

    require_cpu(device)
    with shown_progress() as progress:
        report = convert_annotation(
            source,
            target,
            source_format=source_format,
            target_format=target_format,
            images=images,
            progress=progress,
        )
    _say(
        f"{target}: {report.faces} faces, {report.ignored} of them ignored, "
        f"in {report.images} images"
    )
    for line in report.lost:
        _say(f"lost: {line}")


@app.command()
def front(
    study: StudyOption = "synthetic",
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print rows as JSON.")] = False,
    seed: UnusedSeedOption = 0,  # noqa: ARG001
    device: CpuOption = "auto",
    storage: StorageOption = None,
    runs: RunsOption = RUNS,
) -> None:
    """Show the Pareto front of a study, cheapest network first; also while it is searching."""
    from studies.front import read_front
    from studies.workspace import Workspace

    require_cpu(device)
    rows = read_front(Workspace(runs, study), storage)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        show_front(rows)


@app.command()
def fidelity(
    study: StudyOption = "synthetic",
    candidates: Annotated[
        int | None, typer.Option(help="Networks to fit alone, 4 at least; unset: the study's own.")
    ] = None,
    finalists: Annotated[
        int | None,
        typer.Option(min=0, help="Networks nearest the front in the finals; unset: its own."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of a fit alone; unset: the study's own.")
    ] = None,
    fits: Annotated[
        int, typer.Option(min=1, help="Fits alone of each network; their mean counts.")
    ] = 1,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    workers: WorkersOption = None,
    storage: StorageOption = None,
    runs: RunsOption = RUNS,
) -> None:
    """Fit networks alone for longer: how far trials agree, and the finals of the front."""
    from studies.fidelity_stage import (
        CANDIDATE_COLUMNS,
        PROXY_COLUMNS,
        FidelityRequest,
        candidate_cells,
        proxy_cells,
        study_fidelity,
    )
    from studies.workspace import Workspace

    request = FidelityRequest(
        workspace=Workspace(runs, study),
        storage_url=storage,
        candidates=candidates,
        finalists=finalists,
        steps=steps,
        fits=fits,
        seed=seed,
        device=device,
        workers=workers,
    )
    with shown_progress() as progress:
        record = study_fidelity(request, say=_say, progress=progress)
    show_table(PROXY_COLUMNS, proxy_cells(record))
    show_table(CANDIDATE_COLUMNS, candidate_cells(record))
    _say(f"result: {request.target}")
    _say(f"next: python run_search.py report {request.workspace.options(storage)}")


@app.command()
def retrain(
    study: ChosenStudyOption = None,
    trial: ChosenTrialOption = None,
    arch: ArchOption = None,
    data: DataOption = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps; unset: long on CUDA, short else.")
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(help="First weights: supernet or scratch; unset: a trial's supernet."),
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of a training crop, pixels; unset: 640 on CUDA.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=0, help="Images a step; 0: the largest that fits on CUDA.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest rate.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="name=value of any setting; may be repeated."),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="Network to learn from: a .onnx or weights file, a trial, an --arch."),
    ] = None,
    track: Annotated[
        list[str] | None,
        typer.Option(help="files, page, tensorboard, wandb; may be repeated; unset: files, page."),
    ] = None,
    synthetic_images: SyntheticOption = 1000,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    storage: StorageOption = None,
    runs: RunsOption = RUNS,
) -> None:
    """Train a trial or any --arch at full size; the same command goes on where it was stopped."""
    from data.sources import open_source
    from nas.device import choose_device
    from nas.distributed import torchrun_team
    from nas.tracking import USUAL_TRACKERS
    from studies.chosen import RetrainOptions, plan_retrain, retrain_network
    from studies.workspace import Choice

    chosen_device, reason = choose_device(device)
    _say(reason)
    options = RetrainOptions(
        start=start,
        steps=steps,
        image_size=image_size,
        batch_size=batch_size,
        learning_rate=learning_rate,
        changes=tuple(changes or ()),
        teacher=teacher,
        trackers=tuple(track or USUAL_TRACKERS),
    )
    request = plan_retrain(
        Choice(runs, study, trial, arch),
        options,
        storage_url=storage,
        seed=seed,
        cuda=chosen_device.type == "cuda",
    )
    source = open_source(data, "train", synthetic_images=synthetic_images, seed=seed)
    with torchrun_team(chosen_device) as (team, own_device), shown_progress() as progress:
        say = _say if team.rank == 0 else unsaid
        say(f"train images: {source.description}")
        report = retrain_network(
            request, source, device=own_device, team=team, say=say, progress=progress
        )
    if team.rank == 0:
        show_retraining(report)
        _say(f"weights: {request.subject.weights}")
        _say(f"next: python run_search.py export {request.subject.options}")


@app.command()
def export(
    study: ChosenStudyOption = None,
    trial: ChosenTrialOption = None,
    arch: ArchOption = None,
    seed: UnusedSeedOption = 0,  # noqa: ARG001
    device: CpuOption = "auto",
    runs: RunsOption = RUNS,
) -> None:
    """Write a trained network to model.onnx, checked against torch."""
    from studies.chosen import export_network
    from studies.workspace import Choice

    require_cpu(device)
    subject = Choice(runs, study, trial, arch).subject
    report = export_network(subject)
    _say(f"{subject.onnx}: {show_quantity(report['file_bytes'])}B")
    _say(f"largest difference to torch: {report['max_difference']:.1e}")
    show_second_opinions(report)
    _say(f"next: python run_search.py benchmark {subject.onnx}")


@app.command()
def zoo(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print rows as JSON.")] = False,
    image_size: Annotated[
        int, typer.Option(help="Side of the image that MACs and memory are for, pixels.")
    ] = 640,
    seed: UnusedSeedOption = 0,  # noqa: ARG001
    device: CpuOption = "auto",
) -> None:
    """List the reference architectures with what they cost; `retrain --arch` trains any."""
    from nas.zoo import zoo_rows

    require_cpu(device)
    rows = [row.to_json() for row in zoo_rows(image_size=parse_image_size(image_size))]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    else:
        show_zoo(rows)


@app.command()
def evaluate(
    model: Annotated[
        Path | None, typer.Argument(help="Exported network, a .onnx file; or --predictions.")
    ] = None,
    data: DataOption = None,
    split: SplitOption = "val",
    image_size: Annotated[
        str, typer.Option(help="Longer side the images are scaled to, pixels; or original.")
    ] = "640",
    *,
    flip: Annotated[bool, typer.Option("--flip", help="Look at mirrored images too.")] = False,
    scales: Annotated[
        str, typer.Option("--scales", help="Of the looks at each image, such as 0.5,1,2.")
    ] = "1",
    ground_truth: Annotated[
        Path | None, typer.Option(help="Folder of WIDER FACE's wider_*_val.mat files.")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Folder or archive of detections to score in place of a model."),
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Score only the images that have predictions.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for numbers, page, worst images; unset: beside the model."),
    ] = None,
    synthetic_images: SyntheticOption = 1000,
    seed: SeedOption = 0,
    device: CpuOption = "auto",
) -> None:
    """Average precision of an exported network, or of detections in files, by several measures."""
    from data.sources import open_source
    from nas.evaluate import EvaluationRequest, evaluate_in_full, evaluate_predictions
    from nas.multi_pass import Passes, parse_scales

    require_cpu(device)
    if predictions is not None:
        if model is not None or ground_truth is None:
            raise UserError("--predictions go with --ground-truth and without a model")
        with shown_progress() as progress:
            scored = evaluate_predictions(
                predictions, ground_truth, partial=partial, progress=progress
            )
        show_wider(scored)
        if output is not None:
            write_json(output / "evaluation.json", scored)
        return
    if model is None:
        raise UserError("say what to evaluate: a model.onnx, or --predictions")
    folder = output or model.parent / "evaluation"
    source = open_source(data, split, synthetic_images=synthetic_images, seed=seed)
    request = EvaluationRequest(
        parse_long_side(image_size),
        passes=Passes(parse_scales(scales), flip=flip),
        ground_truth=ground_truth,
        seed=seed,
    )
    with shown_progress() as progress:
        result = evaluate_in_full(model, source, folder, request=request, progress=progress)
    show_evaluation(result)
    _say(f"page: {folder / 'evaluation.html'}")


@app.command()
def validate(
    model: Annotated[
        str,
        typer.Argument(help="A reference, an architecture's key, a weights or a .onnx file."),
    ],
    seed: UnusedSeedOption = 0,  # noqa: ARG001
    device: DeviceOption = "auto",
) -> None:
    """Check a network: size, shapes, batches, devices, gradients, memory, ONNX; 1 if one fails."""
    from nas.device import choose_device
    from nas.validate import validate_model

    chosen_device, reason = choose_device(device)
    _say(reason)
    with shown_progress() as progress:
        report = validate_model(model, device=chosen_device, progress=progress)
    show_validation(report)
    if not report.passed:
        raise typer.Exit(1)


@app.command()
def benchmark(
    model: ModelArgument,
    image_size: Annotated[
        list[int] | None, typer.Option(help="Side of the image, pixels; may be repeated.")
    ] = None,
    threads: Annotated[
        list[int] | None, typer.Option(min=1, help="CPU threads; may be repeated.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Measured passes.")] = 50,
    seed: UnusedSeedOption = 0,  # noqa: ARG001
    device: CpuOption = "auto",
) -> None:
    """Time an exported network with ONNX Runtime; writes benchmark.json beside it."""
    from nas.benchmark import benchmark as run_benchmark

    require_cpu(device)
    with shown_progress() as progress:
        report = run_benchmark(
            model,
            image_sizes=[parse_image_size(size) for size in image_size or (256, 640)],
            threads=threads or (1, 2),
            runs=repeats,
            progress=progress,
        )
    target = model.parent / "benchmark.json"
    report.write(target)
    show_benchmark(report)
    _say(f"result: {target}")


@app.command("latency-table")
def latency_table(
    output: Annotated[Path, typer.Option(help="The table, a .json file; goes on if it is there.")],
    image_size: Annotated[int, typer.Option(help="Side of the image, pixels.")] = 640,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of one inference.")] = 1,
    device_name: Annotated[
        str | None, typer.Option(help="What to call this machine; unset: its processor.")
    ] = None,
    seed: SeedOption = 0,
    device: CpuOption = "auto",
) -> None:
    """Time every block of the space on this machine, for search --objective latency."""
    from nas.latency_table import empty_table, make_table
    from search_spaces.space import SPACE

    require_cpu(device)
    empty = empty_table(
        image_size=parse_image_size(image_size), threads=threads, device=device_name
    )
    _say(f"device: {empty.device}, {empty.runtime}; other programs would disturb the times")
    with shown_progress() as progress:
        table = make_table(output, empty, SPACE, seed=seed, progress=progress)
    if table.error is not None:
        _say(f"sums of blocks: {table.error.text}")
    _say(f"table: {output}, {len(table.entries)} blocks")
    _say(f"next: python run_search.py search --objective latency --latency-table {output}")


@app.command("compare-samplers")
def compare_samplers(
    table: Annotated[Path, typer.Option(help="Recorded architectures, a .json file.")] = Path(
        "benchmarks/search_table.json"
    ),
    trials: Annotated[int, typer.Option(help="Trained trials of each replay.")] = 100,
    seeds: Annotated[int, typer.Option(help="Replays of each sampler, 2 at least.")] = 20,
    output: Annotated[Path | None, typer.Option(help="All curves, a .json file.")] = None,
    seed: SeedOption = 0,
    device: CpuOption = "auto",
    workers: WorkersOption = None,
) -> None:
    """Replay samplers on a recorded table: hypervolume over trials, ours, Optuna's and random."""
    from studies.replay import COLUMNS, ComparisonPlan, comparison_cells, replay_table

    require_cpu(device)
    plan = ComparisonPlan(trials=trials, seeds=seeds, seed=seed, workers=workers)
    with shown_progress() as progress:
        result = replay_table(table, plan, say=_say, progress=progress)
    show_table(COLUMNS, comparison_cells(result["contenders"]))
    if output is not None:
        write_json(output, result)
        _say(f"result: {output}")


@app.command()
def detect(
    model: ModelArgument,
    image: Annotated[Path, typer.Argument(help="Picture to look at.")],
    output: Annotated[Path | None, typer.Option(help="Picture with the boxes drawn.")] = None,
    score: Annotated[float, typer.Option(min=0, max=1, help="Least score of a box.")] = 0.5,
    image_size: Annotated[
        str, typer.Option(help="Longer side the picture is scaled to, pixels; or original.")
    ] = "original",
    seed: UnusedSeedOption = 0,  # noqa: ARG001
    device: CpuOption = "auto",
) -> None:
    """Find the faces of a picture; prints one line x1 y1 x2 y2 score, in pixels, for each."""
    from nas.detector import FaceDetector
    from nas.drawing import draw, read_image, write_image

    require_cpu(device)
    detector = FaceDetector(model, score_threshold=score, long_side=parse_long_side(image_size))
    picture = read_image(image)
    boxes, scores = detector(picture)
    if output is not None:
        write_image(output, draw(picture, boxes, scores))
    for box, value in zip(boxes, scores, strict=True):
        _say(" ".join(f"{side:.1f}" for side in box) + f" {value:.3f}")
    _say(f"{len(boxes)} faces" + (f" drawn in {output}" if output else ""))


@app.command()
def report(
    study: StudyOption = "synthetic",
    seed: UnusedSeedOption = 0,  # noqa: ARG001
    device: CpuOption = "auto",
    storage: StorageOption = None,
    runs: RunsOption = RUNS,
) -> None:
    """Write report.html of a study: front, history, tables; opens without a network."""
    from studies.study_report import write_study_report
    from studies.workspace import Workspace

    require_cpu(device)
    workspace = Workspace(runs, study)
    url = storage or workspace.storage_url
    with shown_progress() as progress:
        path = write_study_report(workspace, url, say=_say, progress=progress)
    _say(f"report: {path}")


def _joined_numbers(arguments: list[str], option: str) -> list[str]:
    """Arguments with the numbers after an option joined by commas: --scales 0.5 1 2."""
    joined: list[str] = []
    for argument in arguments:
        previous = joined[-2] if len(joined) > 1 else ""
        if previous == option and argument.replace(".", "", 1).isdigit():
            joined[-1] += f",{argument}"
        else:
            joined.append(argument)
    return joined


def main() -> None:
    """Run the command line: without a verb, the search."""
    arguments = _joined_numbers(sys.argv[1:], "--scales")
    asks_for_help = arguments[:1] in (["--help"], ["--install-completion"], ["--show-completion"])
    if not asks_for_help and (not arguments or arguments[0].startswith("-")):
        arguments = ["search", *arguments]
    try:
        app(arguments)
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except SystemExit as end:
        if end.code == CTRL_C:
            typer.echo("stopped; the same command goes on from here", err=True)
        raise


if __name__ == "__main__":
    main()
