"""What batch norms and ReLUs in blocks cost a short training: one network, five kinds of blocks.

Run from the repository's root:
python -m benchmarks.blocks DATA [--steps 700] [--seeds 0] [--write docs/results/blocks.json]
DATA is a folder as WIDER FACE's. The network is the space's own, of inverted residuals with
separable convolutions in stem, neck and head; a variant puts batch norms and ReLUs back where
MobileNets have them. All are trained from scratch by the recipe of `benchmarks.references`, see
the same batches, and are judged on the val split by the WIDER FACE protocol, long side 640 px.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.references import RECIPE
from data.files import write_json
from data.loader import FullSizeLoader
from data.progress import Progress
from data.sources import open_source
from nas.evaluate import EvaluationRequest, evaluate_in_full
from nas.export import export_onnx
from nas.fitting import seeded
from nas.recipe import USUAL, Recipe, override, recipe_to_json
from nas.records import record_header, usable_cores
from nas.retrain import Company, retrain
from nas.weights import load_weights
from objectives.cost import architecture_cost, count_parameters
from search_spaces.architecture import Architecture
from search_spaces.blocks import DepthwiseSeparable, InvertedResidual
from search_spaces.network import Detector, build
from studies.console import shown_progress

ARCHITECTURE = Architecture.from_key(
    "stem16x1_inverted.32x2k3e3.none-inverted.48x3k3e3.none-inverted.64x2k3e3.none"
    "_pan.48x1_per_level.depthwise.64x1.none"
)

FOLDER = Path("runs/blocks")
LONG_SIDE = 640


def _norm_act_behind(convolution: nn.Conv2d) -> nn.Sequential:
    channels = convolution.out_channels
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def _norm_behind(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels))


def _change_pairs(network: nn.Module, change: Callable[[nn.Conv2d], nn.Sequential]) -> None:
    """Put something between the two convolutions of every depthwise separable one."""
    for module in network.modules():
        if isinstance(module, DepthwiseSeparable):
            first = "mix" if module.mixes_first else "filter"
            module.register_module(first, change(module.get_submodule(first)))  # type: ignore[arg-type]


def _norms_in_pairs(network: nn.Module) -> None:
    _change_pairs(network, _norm_behind)


def _norms_and_activations_in_pairs(network: nn.Module) -> None:
    _change_pairs(network, _norm_act_behind)


def _norms_in_inverted(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, InvertedResidual):
            module.register_module("widen", _norm_act_behind(module.widen))


def _norms_everywhere(network: nn.Module) -> None:
    _norms_and_activations_in_pairs(network)
    _norms_in_inverted(network)


VARIANTS: dict[str, Callable[[nn.Module], None]] = {
    "own": lambda _network: None,
    "batch norm in separable convolutions": _norms_in_pairs,
    "batch norm and ReLU in separable convolutions": _norms_and_activations_in_pairs,
    "batch norm and ReLU behind widening": _norms_in_inverted,
    "both, as in MobileNets": _norms_everywhere,
}


def make(variant: str, seed: int) -> Detector:
    """The network with one kind of blocks."""
    with seeded(seed):
        network = build(ARCHITECTURE)
        VARIANTS[variant](network)
    return network


def measure(
    data: Path, variant: str, seed: int, recipe: Recipe, *, progress: Progress
) -> dict[str, Any]:
    """Train and judge one variant."""
    folder = FOLDER / f"{variant.replace(' ', '-')}-{seed}"
    result = folder / "row.json"
    if result.is_file():
        row: dict[str, Any] = json.loads(result.read_text())
        return row
    source = open_source(data, "train", synthetic_images=0, seed=seed)
    batches = FullSizeLoader(
        source,
        batch_size=recipe.fit.batch_size,
        image_size=recipe.fit.image_size,
        seed=seed,
        augment=recipe.augment,
        views=recipe.views,
    )
    network = make(variant, seed)
    report = retrain(
        network, batches, recipe, folder=folder, facts={}, company=Company(progress=progress)
    )
    weights, _ = load_weights(folder / "weights.safetensors")
    network.load_state_dict(weights)
    export_onnx(network.eval(), folder / "model.onnx", metadata={})
    held_out = open_source(data, "val", synthetic_images=0, seed=seed)
    scores = evaluate_in_full(
        folder / "model.onnx",
        held_out,
        folder / "evaluation",
        request=EvaluationRequest(LONG_SIDE, worst=0, seed=seed),
    )
    row = {
        "seed": seed,
        "params": count_parameters(network),
        "last_loss": report.last_loss,
        "seconds": report.seconds,
        **{name: scores[name] for name in ("ap", "interval", "wider")},
    }
    write_json(result, row)
    return row


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=700, help="(700)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="(0)")
    parser.add_argument("--write", type=Path, help="a JSON file, beside printing it")
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    options = parse()
    torch.set_num_threads(usable_cores())
    recipe = override(USUAL, (*RECIPE, f"steps={options.steps}", "validate_every=0"))
    source = open_source(options.data, "train", synthetic_images=0, seed=0)
    with shown_progress() as progress:
        rows = {
            variant: [
                measure(options.data, variant, seed, recipe, progress=progress)
                for seed in options.seeds
            ]
            for variant in VARIANTS
        }
    result = {
        **record_header(seed=options.seeds[0], data_hash=source.fingerprint()),
        "architecture": ARCHITECTURE.key,
        "macs": architecture_cost(ARCHITECTURE, image_size=640).macs,
        "trained_on": source.description,
        "recipe": recipe_to_json(recipe),
        "variants": rows,
    }
    print(json.dumps(result, indent=2))
    if options.write is not None:
        write_json(options.write, result)


if __name__ == "__main__":
    main()
