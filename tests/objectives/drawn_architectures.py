"""Architectures drawn for tests of what they cost."""

import numpy as np

from search_spaces.architecture import Architecture
from search_spaces.space import SPACE


def random_architectures(count: int, *, seed: int) -> list[Architecture]:
    generator = np.random.default_rng(seed)
    return [SPACE.decode(SPACE.random_genotype(generator)) for _ in range(count)]
