"""The main job: images in, a searched, retrained, exported and measured detector out.

Every stage leaves a file that the next one reads, and is passed over when its file is there
already; so the same command goes on where it was stopped.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from data.errors import UserError, unknown_name
from data.files import write_json
from data.progress import Progress, silent
from data.sample import ImageSource
from data.shards import ShardSet, ShardSettings
from data.sources import open_source
from nas.device import choose_device
from nas.fidelity import FEWEST_CANDIDATES
from nas.latency_table import empty_table, make_table
from nas.outlook import OUTLOOK
from nas.proxy import ProxyEvaluator, ProxyJob
from nas.recipe import Recipe
from nas.records import record_header, usable_cores
from nas.supernet_training import (
    SupernetJob,
    load_supernet,
    supernet_hash,
    train_supernet,
)
from nas.teachers import WEIGHTS
from objectives.cost import architecture_cost
from objectives.latency_table import LatencyTable, load_latency_table, space_layers
from objectives.limits import Limits
from search_spaces.space import SPACE
from search_spaces.starting_points import starting_points
from studies.chosen import RetrainRequest, export_network, measure_network, retrain_network
from studies.dashboard import note_on_study, note_on_trial, study_note
from studies.design_rules import by_latency, by_macs
from studies.early_stopping import StoppingReport, stopping_report
from studies.executors import local_workers
from studies.fidelity_stage import FidelityPlan, measure_fidelity
from studies.front import (
    FIDELITY,
    choose_to_retrain,
    final_front,
    finals_of,
    front_rows,
)
from studies.preparation import prepare_source
from studies.say import Say, unsaid
from studies.schedule import Schedule, schedule_for, schedule_from_json
from studies.search import Search, run_search
from studies.settings import (
    DEFAULT_SAMPLER,
    JSON,
    OBJECTIVES,
    SAMPLERS,
    StudySettings,
    name_of_score,
    require_same,
)
from studies.space_stage import (
    DROPPED,
    audit_space,
    dropped_choices,
    narrowed_space,
    space_of_study,
)
from studies.stopwatch import Stopwatch
from studies.storage import TrialRow, load_study, saved_settings
from studies.study_report import write_study_report
from studies.supernet_stage import keep_supernet
from studies.teacher_stage import TeacherJob, check_teacher, keep_teacher, train_teacher
from studies.workspace import Workspace

LOOKAHEAD = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """What a person asks of a search. None stands for: decide, and say why.

    data: WIDER FACE folder, None for drawn faces. retrain: "auto", "all", "none" or a number.
    supernet_steps, teacher_steps, proxy_steps, retrain_steps: in place of the schedule's.
    latency_table: file of the device's table, for the objective latency; None: this machine's.
    shrink: whether to search the narrower space that the audit proposes. early_stopping: whether
    hopeless fits end early; inherit: whether trials start from a supernet's weights; teach: whether
    they learn from a teacher; None: by the schedule. supernet, teacher: files of trained ones;
    None: they are trained in this search.
    """

    workspace: Workspace
    budget: int
    data: Path | None = None
    limits: Limits = field(default_factory=Limits)
    objective: str = "macs"
    sampler: str = DEFAULT_SAMPLER
    seed: int = 0
    device: str = "auto"
    workers: int | None = None
    storage_url: str | None = None
    retrain: str = "auto"
    supernet_steps: int | None = None
    teacher_steps: int | None = None
    proxy_steps: int | None = None
    retrain_steps: int | None = None
    latency_table: Path | None = None
    shrink: bool = False
    early_stopping: bool | None = None
    inherit: bool | None = None
    supernet: Path | None = None
    teach: bool | None = None
    teacher: Path | None = None

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise UserError(f"--budget must be at least 1 trial, got {self.budget}")
        if self.objective not in OBJECTIVES:
            raise unknown_name("objective", self.objective, tuple(OBJECTIVES))
        if self.sampler not in SAMPLERS:
            raise unknown_name("sampler", self.sampler, SAMPLERS)
        if self.retrain not in ("auto", "all", "none") and not self.retrain.isdecimal():
            raise UserError(
                f"--retrain must be auto, all, none or a number of networks, got {self.retrain!r}"
            )
        if self.latency_table is not None and self.objective != "latency":
            raise UserError(
                f"--latency-table goes with --objective latency, got {self.objective}; "
                "leave one of them out"
            )
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        """Nothing, unless a network is given that is also to be left out, or to be trained."""
        if self.supernet is not None and (self.inherit is False or self.supernet_steps is not None):
            other = "--no-inherit" if self.inherit is False else "--supernet-steps"
            raise UserError(
                f"--supernet gives a trained supernet and does not go with {other}; "
                "leave one of them out"
            )
        if self.teacher is not None and self.teacher_steps is not None:
            raise UserError(
                "--teacher gives a trained teacher and does not go with --teacher-steps; "
                "leave one of them out"
            )
        if self.teach is False and self.has_teacher_wish:
            raise UserError("--no-teach leaves out the teacher; give no --teacher, --teacher-steps")

    @property
    def has_teacher_wish(self) -> bool:
        """Whether a teacher is given, or its length: so there is to be one, at any budget."""
        return self.teacher is not None or self.teacher_steps is not None

    @property
    def url(self) -> str:
        """The storage of the study."""
        return self.storage_url or self.workspace.storage_url


def run_job(
    request: JobRequest, *, say: Say = unsaid, progress: Progress = silent
) -> list[dict[str, Any]]:
    """Run the whole job and return the rows of the front.

    Raises:
        UserError: something that the person can put right; nothing is lost, the same command
            goes on.
    """
    return _Job(request, say, progress).run()


class _Job:
    def __init__(self, request: JobRequest, say: Say, progress: Progress) -> None:
        self.request = request
        self.say = say
        self.progress = progress
        self.workspace = request.workspace
        self.device, reason = choose_device(request.device)
        say(reason)
        self._saved = saved_settings(self.workspace.study, request.url)
        self.space = space_of_study(
            self.workspace.study, self._saved, shrink=request.shrink, say=say
        )
        self._table = self._known_table()
        if request.supernet is not None:
            load_supernet(request.supernet, SPACE)  # now, not after the crops are made
        if request.teacher is not None:
            check_teacher(request.teacher)
        self.schedule = self._schedule()
        self.workers = self._workers()
        self.stages = Stopwatch(self.workspace.file("timings.json"))

    def run(self) -> list[dict[str, Any]]:
        self._refuse_other_settings()
        source = self._open("train")
        with self.stages.time("audit"):
            self._audit()
        if self.request.objective == "latency":
            with self.stages.time("latency table"):
                self._table = self._latency_table()
        with self.stages.time("prepare"):
            shards, folder = self._prepare(source)
        self._refuse_other_settings(data_hash=shards.hash)
        supernet = None
        if self.schedule.proxy.inherit:
            with self.stages.time("supernet"):
                supernet = self._supernet(shards, folder)
        teacher = None
        if self.schedule.proxy.teaching is not None:
            with self.stages.time("teacher"):
                teacher = self._teacher(shards)
        job = ProxyJob(
            shards=folder,
            supernet=supernet,
            teacher=teacher,
            settings=self.schedule.proxy,
            seed=self.request.seed,
            device=str(self.device),
            latency_table=self._table,
        )
        with self.stages.time("search"):
            rows = self._search(shards, job)
        self._write_front(rows, shards)
        with self.stages.time("fidelity"):
            self._fidelity(rows, job, shards)
        with self.stages.time("retrain, export, benchmark"):
            self._retrain(rows, source, supernet)
        front = self._write_front(rows, shards)
        names = {"supernet": _name(supernet), "teacher": _name(teacher)}
        self._note(front, self._settings(shards.hash, **names))
        with self.stages.time("report"):
            write_study_report(
                self.workspace, self.request.url, say=self.say, progress=self.progress
            )
        self._tell_what_next(front)
        return front

    @property
    def _full_size(self) -> int:
        """Long side of the deployed images, but at least a crop's."""
        return max(ShardSettings().image_size, self.request.limits.image_size)

    def _schedule(self) -> Schedule:
        """The schedule of the study if there is one, else by the budget; then what was asked."""
        request = self.request
        if self._saved is None:
            on_cuda, is_real = self.device.type == "cuda", request.data is not None
            schedule = schedule_for(request.budget, cuda=on_cuda, real=is_real)
            faces = "real faces" if is_real else "drawn faces"
            reason = f"by the budget of {request.budget}, for {faces}"
        else:
            schedule = schedule_from_json(self._saved["stages"]["schedule"])
            reason = "the study's own"
        schedule = schedule.with_steps(
            supernet=request.supernet_steps,
            teacher=request.teacher_steps,
            proxy=request.proxy_steps,
            retrain=request.retrain_steps,
        ).with_wishes(
            early_stopping=request.early_stopping,
            inherit=request.inherit,
            teach=request.has_teacher_wish or request.teach,
        )
        self.say(f"schedule: {schedule.line}: {reason}")
        return schedule

    def _workers(self) -> int:
        if self.request.workers is not None:
            return self.request.workers
        if self.device.type == "cuda":
            self.say("workers 1: trials share one CUDA device")
            return 1
        workers = min(LOOKAHEAD, usable_cores())
        self.say(f"workers {workers}: one for each core, {LOOKAHEAD} at most")
        return workers

    def _open(self, split: str) -> ImageSource:
        source = open_source(
            self.request.data,
            split,
            synthetic_images=self.schedule.synthetic_images,
            seed=self.request.seed,
        )
        self.say(f"{split} images: {source.description}")
        return source

    def _audit(self) -> None:
        proposal = audit_space(
            self.workspace.file("audit.json"),
            self.request.limits,
            seed=self.request.seed,
            say=self.say,
            progress=self.progress,
        )
        if self.request.shrink and self._saved is None:
            self.space = narrowed_space(proposal, say=self.say)
        elif proposal.dropped and not self.request.shrink:
            self.say("narrower space: not used; a new study with --shrink searches it")

    def _known_table(self) -> LatencyTable | None:
        """The given latency table, or the one that the study has; None where there is neither."""
        path = self.request.latency_table or self.workspace.latency_table
        if self.request.objective != "latency":
            return None
        if self.request.latency_table is None and not path.is_file():
            return None
        image_size = self.request.limits.image_size
        table = load_latency_table(path, image_size=image_size)
        table.require(space_layers(SPACE, image_size=image_size))
        return table

    def _latency_table(self) -> LatencyTable:
        """The known table, else that of this machine, which all studies share; the study's copy."""
        table = self._table or self._machine_table()
        self.say(
            f"latency: summed from the table of {table.device}, {table.threads} threads, "
            f"{table.image_size} px: {table.error.text if table.error else 'error unknown'}"
        )
        write_json(
            self.workspace.latency_table,
            {**record_header(seed=None, data_hash=None), **table.to_json()},
        )
        return table

    def _machine_table(self) -> LatencyTable:
        empty = empty_table(image_size=self.request.limits.image_size)
        path = self.workspace.cache / "latency" / f"{empty.fingerprint}.json"
        self.say(f"latency table of this machine: {path}; other programs would disturb it")
        return make_table(path, empty, SPACE, seed=0, progress=self.progress)

    def _prepare(self, source: ImageSource) -> tuple[ShardSet, Path]:
        return prepare_source(
            source,
            self.workspace.shards,
            ShardSettings(seed=self.request.seed, full_size=self._full_size),
            workers=self.request.workers,
            say=self.say,
            progress=self.progress,
        )

    def _supernet(self, shards: ShardSet, folder: Path) -> Path:
        request, settings = self.request, self.schedule.supernet
        if request.supernet is not None:
            return keep_supernet(
                self.workspace,
                request.supernet,
                data_hash=shards.hash,
                seed=request.seed,
                say=self.say,
            )
        known = self._of_study("supernet", self.workspace.supernet)
        if known is not None:
            return known
        name = supernet_hash(
            self.space, request.limits, settings, data_hash=shards.hash, seed=request.seed
        )
        path = self.workspace.supernet(name)
        if path.is_file():
            self.say(f"supernet {name}: trained before")
            return path
        job = SupernetJob(
            shards=folder,
            held_out_share=self.schedule.proxy.held_out_share,
            limits=request.limits,
            settings=settings,
            seed=request.seed,
            path=path,
            facts=record_header(seed=request.seed, data_hash=shards.hash),
            device=str(self.device),
            space=self.space,
        )
        processes = 1 if self.device.type == "cuda" else self.request.workers or usable_cores()
        train_supernet(job, processes=processes, progress=self.progress)
        self.say(f"supernet {name}: trained; --supernet {path} gives it to another study")
        return path

    def _teacher(self, shards: ShardSet) -> Path:
        request = self.request
        if request.teacher is not None:
            return keep_teacher(
                self.workspace,
                request.teacher,
                data_hash=shards.hash,
                seed=request.seed,
                say=self.say,
            )
        known = self._of_study("teacher", lambda name: self.workspace.teacher(name) / WEIGHTS)
        if known is not None:
            return known.parent
        job = TeacherJob(
            shards=shards,
            held_out_share=self.schedule.proxy.held_out_share,
            recipe=self.schedule.teacher_recipe,
            seed=request.seed,
            device=self.device,
        )
        return train_teacher(self.workspace, job, say=self.say, progress=self.progress)

    def _of_study(self, stage: str, place: Callable[[str], Path]) -> Path | None:
        """The weights of the supernet, or teacher, that the study began with; None where it has
        none yet, or they are gone. place: where they lie, by their name."""
        name: str | None = None if self._saved is None else self._saved["stages"].get(stage)
        if name is None or not place(name).is_file():
            return None
        self.say(f"{stage} {name}: trained before")
        return place(name)

    def _settings(
        self, data_hash: str, *, supernet: str | None, teacher: str | None
    ) -> StudySettings:
        request = self.request
        return StudySettings(
            space=self.space.fingerprint,
            data=data_hash,
            limits=request.limits,
            objective=request.objective,
            sampler=request.sampler,
            seed=request.seed,
            lookahead=LOOKAHEAD,
            starts=tuple(architecture.key for architecture in starting_points(self.space)),
            stages={
                "schedule": self.schedule.to_json(),
                "supernet": supernet,
                "teacher": teacher,
                **self._table_facts,
                **self._space_facts,
            },
            raised=self._raised,
        )

    @property
    def _raised(self) -> str | None:
        """The score that trials raise: the study's own if there is one."""
        return OUTLOOK if self._saved is None else self._saved.get("raised")

    @property
    def _table_facts(self) -> dict[str, str]:
        """What a study remembers of its latency table: another one would be another objective."""
        if self._table is None:
            return {}
        return {"latency_device": self._table.device, "latency_table": self._table.fingerprint}

    @property
    def _space_facts(self) -> dict[str, JSON]:
        """What a study remembers of a narrower space, to go on in the same one."""
        return {DROPPED: dropped_choices(self.space)} if self.request.shrink else {}

    def _refuse_other_settings(self, *, data_hash: str | None = None) -> None:
        """Before a supernet is trained and files are written for a search that may not be."""
        if self._saved is not None:
            stages = self._saved["stages"]
            wanted = self._settings(
                data_hash or self._saved["data"],
                supernet=stages["supernet"],
                teacher=stages.get("teacher"),
            )
            require_same(self.workspace.study, saved=self._saved, wanted=wanted)

    def _search(self, shards: ShardSet, job: ProxyJob) -> tuple[TrialRow, ...]:
        search = Search(
            study_name=self.workspace.study,
            storage_url=self.request.url,
            settings=self._settings(
                shards.hash, supernet=_name(job.supernet), teacher=_name(job.teacher)
            ),
            space=self.space,
            cost=partial(architecture_cost, image_size=self.request.limits.image_size),
            lowered=by_macs if self._table is None else by_latency(self._table),
        )
        with local_workers(partial(ProxyEvaluator, job), processes=self.workers) as workers:
            rows = run_search(search, workers, budget=self.request.budget, progress=self.progress)
        stopping = self._stopping()
        if stopping is not None:
            self.say(stopping.line)
        return rows

    def _stopping(self) -> StoppingReport | None:
        """What early stopping did, once the study is there."""
        if not self.schedule.proxy.early_stopping:
            return None
        study = load_study(self.workspace.study, self.request.url)
        return stopping_report(study)

    def _write_front(self, rows: Sequence[TrialRow], shards: ShardSet) -> list[dict[str, Any]]:
        front = front_rows(self.workspace, rows, self._cost)
        stopping, finals = self._stopping(), finals_of(self.workspace, rows)
        write_json(
            self.workspace.file("front.json"),
            {
                **record_header(seed=self.request.seed, data_hash=shards.hash),
                "study": self.workspace.study,
                "objectives": ["ap", self._cost],
                "trials": len(rows),
                "data": shards.manifest["source"],
                "early_stopping": None if stopping is None else stopping.to_json(),
                "finals": None if finals is None else {"steps": finals["steps"]},
                "front": front,
            },
        )
        return front

    @property
    def _cost(self) -> str:
        return OBJECTIVES[self.request.objective]

    def _fidelity(self, rows: Sequence[TrialRow], job: ProxyJob, shards: ShardSet) -> None:
        """Fit networks alone for longer: to say how far trials agree with them, and as finals."""
        if len(rows) < FEWEST_CANDIDATES:
            self.say(f"rank fidelity: not measured, fewer than {FEWEST_CANDIDATES} trials")
            return
        target = self.workspace.file(FIDELITY)
        if target.is_file() and json.loads(target.read_text())["trials"] == len(rows):
            self.say("rank fidelity: measured before")
            return
        plan = FidelityPlan(
            workspace=self.workspace,
            cost=self._cost,
            score=name_of_score(self._raised),
            data_hash=shards.hash,
            proxy=job,
            alone=self.schedule.alone,
            candidates=self.schedule.fidelity_candidates,
            finalists=self.schedule.finalists,
            seed=self.request.seed,
            workers=self.workers,
        )
        measure_fidelity(plan, rows, say=self.say, progress=self.progress)

    def _retrain(
        self, rows: Sequence[TrialRow], source: ImageSource, supernet: Path | None
    ) -> None:
        choice = self.request.retrain
        if choice == "auto":
            choice = "roles" if self.device.type == "cuda" else "1"
            why = "CUDA is there" if choice == "roles" else "on a CPU; --retrain N takes more"
            what = "knee and extremes" if choice == "roles" else "the knee alone"
            self.say(f"retraining: {what}: {why}")
        front = final_front(self.workspace, rows, self._cost)
        chosen = choose_to_retrain(front, self._cost, choice)
        if chosen and self.device.type == "cpu":
            origin = "" if supernet is None else " from the supernet's weights"
            self.say(
                f"retraining on a CPU is short: {self.schedule.retrain.steps} steps on crops of "
                f"{self.schedule.retrain.image_size} px{origin}; "
                "for a detector to use, run retrain with --steps 20000 or more, on CUDA if you can"
            )
        validation = self._open("val") if chosen else None
        for row in chosen:
            if validation is not None:
                self._finish(row, source, validation, supernet)

    def _finish(
        self, row: TrialRow, source: ImageSource, validation: ImageSource, supernet: Path | None
    ) -> None:
        """Bring one network of the front from its architecture to measured ONNX."""
        subject, seed = self.workspace.subject(row.trial), self.request.seed
        if not subject.weights.is_file():
            request = RetrainRequest(
                subject=subject,
                key=row.key,
                recipe=Recipe(fit=self.schedule.retrain),
                seed=seed,
                supernet=supernet,
            )
            retrain_network(request, source, device=self.device, progress=self.progress)
        if not subject.onnx.is_file():
            export_network(subject, image_size=self.request.limits.image_size)
        if not (subject.folder / "benchmark.json").is_file():
            measure_network(
                subject,
                validation,
                image_size=self.request.limits.image_size,
                seed=seed,
                progress=self.progress,
            )

    def _note(self, front: Sequence[dict[str, Any]], settings: StudySettings) -> None:
        """Say in the dashboard what the study is and what became of its retrained networks."""
        study = load_study(self.workspace.study, self.request.url)
        note_on_study(study, study_note(settings))
        for row in front:
            if "retrained_ap" in row:
                note_on_trial(
                    study,
                    row["trial"],
                    f"Retrained: AP {row['retrained_ap']:.3f}, exported to `{row['onnx']}`.",
                )

    def _tell_what_next(self, front: Sequence[dict[str, Any]]) -> None:
        for stage, seconds in self.stages.this_run.items():
            self.say(f"{stage}: {seconds:.1f} s")
        self.say(f"total: {sum(self.stages.this_run.values()):.1f} s")
        folder = self.workspace.folder
        self.say(f"front: {len(front)} networks in {folder / 'front.json'}")
        self.say(f"report: {folder / 'report.html'}")
        self.say(f"watch: optuna-dashboard {self.request.url}")
        by_role = sorted(front, key=lambda row: row["role"] != "knee")
        done = next((row for row in by_role if "onnx" in row), None)
        if done is not None:
            self.say(f"next: python run_search.py detect {done['onnx']} PHOTO --output boxes.jpg")
        else:
            options = self.workspace.options(self.request.storage_url)
            self.say(f"next: python run_search.py front {options}")


def _name(trained: Path | None) -> str | None:
    """What a study remembers of its supernet or its teacher."""
    return None if trained is None else trained.stem
