"""Notes that optuna-dashboard shows beside a study and its trials.

Without the optional package optuna-dashboard they are kept as the user attribute "note".
"""

import importlib.util

from optuna.study import Study
from optuna.trial import Trial

from objectives.limits import MEASURED_BY, flag
from studies.settings import StudySettings

NOTE = "note"


def study_note(settings: StudySettings) -> str:
    """What a study is, in Markdown."""
    up, down = settings.metric_names
    limits = "\n".join(
        f"| `{flag(name)}` | {getattr(settings.limits, name):,} |" for name in MEASURED_BY
    )
    return (
        f"Face detectors found by architecture search: `{up}` up, `{down}` down, at "
        f"{settings.limits.image_size} px.\n\n"
        f"| limit | value |\n|---|---|\n{limits}\n\n"
        f"Sampler `{settings.sampler}`, seed {settings.seed}. Every trial keeps the limits and no "
        "two are the same network. A trial's user attributes hold its canonical `key`, its "
        "`params`, `macs` and `peak_bytes`, and its scores."
    )


def note_on_study(study: Study, text: str) -> None:
    """Put a note, Markdown, on a study, in the place of the one before."""
    if _has_dashboard():
        from optuna_dashboard import save_note

        save_note(study, text)
    else:
        study.set_user_attr(NOTE, text)


def note_on_trial(study: Study, number: int, text: str) -> None:
    """Put a note, Markdown, on a finished or running trial.

    Without optuna-dashboard only a running trial can take one, so the note goes to the study's
    user attribute "note <number>".
    """
    if _has_dashboard():
        from optuna_dashboard import save_note

        save_note(Trial(study, study.get_trials(deepcopy=False)[number]._trial_id), text)
    else:
        study.set_user_attr(f"{NOTE} {number}", text)


def _has_dashboard() -> bool:
    return importlib.util.find_spec("optuna_dashboard") is not None
