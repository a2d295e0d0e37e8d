import json
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from data.augment import AugmentSettings
from data.errors import UserError
from data.loader import FullSizeSettings
from nas.fitting import FitSettings
from nas.recipe import USUAL, Recipe, override, recipe_from_json, recipe_to_json, setting_names
from objectives.loss import LossSettings

RECIPE = Recipe(fit=FitSettings(steps=10))


def leaves(value: Any) -> list[str]:
    """The names of all settings that hold no others."""
    names = []
    for one in fields(value):
        inner = getattr(value, one.name)
        names += leaves(inner) if is_dataclass(inner) else [one.name]
    return names


def test_no_two_settings_have_one_name() -> None:
    every = leaves(RECIPE)
    assert len(every) == len(set(every))
    assert set(setting_names(RECIPE)) == set(every)
    assert {"steps", "box_weight", "reach_cells", "short_sides", "flip_share"} <= set(every)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("learning_rate=0.01", replace(RECIPE, fit=replace(RECIPE.fit, learning_rate=0.01))),
        ("learning_rate=1", replace(RECIPE, fit=replace(RECIPE.fit, learning_rate=1.0))),
        ("steps = 20", replace(RECIPE, fit=replace(RECIPE.fit, steps=20))),
        ("optimizer=sgd", replace(RECIPE, fit=replace(RECIPE.fit, optimizer="sgd"))),
        ("box_kind=diou", replace(RECIPE, loss=LossSettings(box_kind="diou"))),
        ("short_sides=0.5,1.5", replace(RECIPE, views=FullSizeSettings(short_sides=(0.5, 1.5)))),
        ("short_sides=(0.5, 1)", replace(RECIPE, views=FullSizeSettings(short_sides=(0.5, 1.0)))),
        ("flip_share=0", replace(RECIPE, augment=AugmentSettings(flip_share=0.0))),
        ("compile=true", replace(RECIPE, compile=True)),
        ("compile=False", RECIPE),
        ("validate_every=5", replace(RECIPE, validate_every=5)),
        (
            "reach_cells=1",
            replace(
                RECIPE,
                loss=replace(
                    RECIPE.loss, assignment=replace(RECIPE.loss.assignment, reach_cells=1)
                ),
            ),
        ),
    ],
)
def test_a_setting_is_changed_by_its_name_and_type(change: str, expected: Recipe) -> None:
    assert override(RECIPE, [change]) == expected


def test_changes_are_made_together_and_the_later_counts() -> None:
    changed = override(RECIPE, ["patience=2", "steps=5", "validate_every=3", "steps=7"])
    assert (changed.patience, changed.validate_every, changed.fit.steps) == (2, 3, 7)
    assert override(RECIPE, []) == RECIPE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("learning_rat=1", r"unknown setting 'learning_rat'; .* Did you mean 'learning_rate'\?"),
        ("fit=3", "unknown setting 'fit'"),
        ("steps", r"a setting is changed by name=value, got 'steps'"),
        ("steps=1.5", r"steps must be a whole number, got '1.5'"),
        ("steps=0", r"steps must be at least 1, got 0; asked for: steps=0"),
        ("learning_rate=fast", r"learning_rate must be a number, got 'fast'"),
        ("learning_rate=nan", r"learning_rate must be positive, got nan"),
        ("compile=1", r"compile must be true or false, got '1'"),
        ("optimizer=adam", r"optimizer must be one of adamw, sgd, got adam"),
        ("box_kind=iou2", r"box_kind must be one of eiou, .*, got 'iou2'"),
        ("short_sides=1", r"short_sides must be numbers separated by commas"),
        ("short_sides=2,1", r"short_sides must be two rising positive numbers"),
        ("patience=3", r"patience must be 0 where validate_every is 0, got 3"),
    ],
)
def test_what_cannot_be_meant_is_the_users_to_put_right(change: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        override(RECIPE, [change])


@pytest.mark.parametrize("recipe", [RECIPE, USUAL, override(USUAL, ["short_sides=0.5,1"])])
def test_a_recipe_comes_back_from_json(recipe: Recipe) -> None:
    stored = json.loads(json.dumps(recipe_to_json(recipe)))
    assert recipe_from_json(stored) == recipe
    assert recipe_to_json(recipe) == stored


def test_an_older_recipe_gets_the_defaults_of_newer_settings() -> None:
    stored = recipe_to_json(RECIPE)
    del stored["fit"]["schedule"], stored["views"], stored["compile"]
    assert recipe_from_json(stored) == RECIPE


def test_a_stored_recipe_with_what_is_not_known_is_refused() -> None:
    stored = recipe_to_json(RECIPE)
    with pytest.raises(UserError, match="unknown setting 'colour_blind'"):
        recipe_from_json({**stored, "colour_blind": 1})
    with pytest.raises(UserError, match="a stored recipe cannot be read: steps must be"):
        recipe_from_json({**stored, "fit": {**stored["fit"], "steps": 0}})
    with pytest.raises(UserError, match="a stored recipe cannot be read"):
        recipe_from_json({})
