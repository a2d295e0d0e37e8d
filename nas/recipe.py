"""One value that says everything about a training, and its changes by name.

The settings are defined beside what they set; here they are put together.
"""

import json
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from data.augment import AugmentSettings
from data.errors import UserError, unknown_name
from data.loader import FullSizeSettings
from nas.distillation import DistillationSettings
from nas.fitting import FitSettings
from objectives.loss import LossSettings


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a network is trained. distillation is read where there is a teacher.

    validate_every: steps between two validations; 0 for none. The last step is validated too.
    patience: validations without gain in AP after which training stops; 0 for never.
    compile: run the network through `torch.compile`.
    """

    fit: FitSettings
    loss: LossSettings = field(default_factory=LossSettings)
    views: FullSizeSettings = field(default_factory=FullSizeSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    distillation: DistillationSettings = field(default_factory=DistillationSettings)
    validate_every: int = 0
    patience: int = 0
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("validate_every", "patience"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.patience and not self.validate_every:
            raise ValueError(f"patience must be 0 where validate_every is 0, got {self.patience}")


USUAL = Recipe(
    fit=FitSettings(
        steps=20_000, batch_size=32, image_size=640, learning_rate=2e-3, average_decay=0.999
    ),
    validate_every=1_000,
)
"""For full-size training on a GPU; on a CPU `override` steps, image_size and batch_size."""


def setting_names(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Every setting's name and the fields that lead to it, such as ("fit", "learning_rate")."""
    return {path[-1]: path for path in _paths(recipe)}


def _paths(value: Any) -> Iterator[tuple[str, ...]]:
    for one in fields(value):
        inner = getattr(value, one.name)
        if is_dataclass(inner):
            yield from ((one.name, *path) for path in _paths(inner))
        else:
            yield (one.name,)


def override(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """The recipe with settings changed by "name=value", such as "learning_rate=0.01".

    Numbers of a tuple are separated by commas: "short_sides=0.5,1.5". Of two changes of one
    setting the later counts. All are made at once, then checked together.

    Raises:
        UserError: a name is unknown, or a value is not of its setting's type or range.
    """
    paths = setting_names(recipe)
    tree: dict[str, Any] = {}
    for change in changes:
        name, equals, text = (part.strip() for part in change.partition("="))
        if not equals:
            raise UserError(f"a setting is changed by name=value, got {change!r}")
        if name not in paths:
            raise unknown_name("setting", name, sorted(paths))
        *above, last = paths[name]
        branch, owner = tree, recipe
        for step in above:
            branch, owner = branch.setdefault(step, {}), getattr(owner, step)
        branch[last] = _parse(name, text, get_type_hints(type(owner))[last])
    try:
        changed: Recipe = _replaced(recipe, tree)
    except ValueError as error:
        raise UserError(f"{error}; asked for: {', '.join(changes)}") from error
    return changed


def _replaced(value: Any, tree: Mapping[str, Any]) -> Any:
    """A copy of nested settings with the leaves of the tree."""
    changes = {
        name: _replaced(getattr(value, name), new) if isinstance(new, dict) else new
        for name, new in tree.items()
    }
    return replace(value, **changes)


def _parse(name: str, text: str, kind: Any) -> Any:
    """The value that a text means for a setting of this type."""
    try:
        return _value(text, kind)
    except ValueError as error:
        raise UserError(f"{name} must be {_described(kind)}, got {text!r}") from error


def _value(text: str, kind: Any) -> Any:
    options = get_args(kind)
    if get_origin(kind) is Literal:
        return options[[str(option) for option in options].index(text)]
    if get_origin(kind) is tuple:
        texts = text.strip("()[]").split(",")
        kinds = [options[0]] * len(texts) if options[-1] is ... else options
        return tuple(_value(one.strip(), of) for one, of in zip(texts, kinds, strict=True))
    if get_origin(kind) in (Union, types.UnionType):
        known = [option for option in options if option is not type(None)]
        return None if text.lower() == "none" else _value(text, known[0])
    if kind is bool:
        return {"true": True, "false": False}[_boolean_word(text)]
    return kind(text)


def _boolean_word(text: str) -> str:
    if text.lower() not in ("true", "false"):
        raise ValueError(f"a truth value must be true or false, got {text}")
    return text.lower()


def _described(kind: Any) -> str:
    """A type, for people."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) is tuple:
        return "numbers separated by commas, as many as there are"
    simple = {int: "a whole number", float: "a number", bool: "true or false"}
    return simple.get(kind, str(kind))


def recipe_to_json(recipe: Recipe) -> dict[str, Any]:
    """A recipe in JSON's types; tuples become lists."""
    value: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return value


def recipe_from_json(value: Mapping[str, Any]) -> Recipe:
    """The recipe that `recipe_to_json` wrote; settings that did not exist then have their defaults.

    Raises:
        UserError: a setting is unknown or out of range.
    """
    try:
        recipe: Recipe = settings_from_json(Recipe, value)
    except (ValueError, TypeError) as error:
        raise UserError(f"a stored recipe cannot be read: {error}") from error
    return recipe


def settings_from_json(kind: Any, value: Mapping[str, Any]) -> Any:
    """Settings of this type, nested ones too, from what `asdict` and JSON made of them.

    Raises:
        UserError: a setting is unknown.
        ValueError: one is out of range.
        TypeError: one that has no default is missing.
    """
    hints = get_type_hints(kind)
    arguments: dict[str, Any] = {}
    for name, inner in value.items():
        if name not in hints:
            raise unknown_name("setting", name, sorted(hints))
        nested = _settings_type(hints[name])
        if nested is not None and inner is not None:
            arguments[name] = settings_from_json(nested, inner)
        else:
            arguments[name] = tuple(inner) if isinstance(inner, list) else inner
    return kind(**arguments)


def _settings_type(hint: Any) -> Any:
    """The dataclass that a hint allows, by itself or beside None; None where it allows none."""
    return next((kind for kind in (hint, *get_args(hint)) if is_dataclass(kind)), None)
