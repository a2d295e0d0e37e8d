"""MATLAB's .mat files, read with scipy: what is wrong with a damaged one is said in a sentence."""

import contextlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.errors import UserError


@contextlib.contextmanager
def mat_tables(
    path: Path, kind: str, *, names: tuple[str, ...] | None = None
) -> Iterator[dict[str, Any]]:
    """The tables of a file by name, to be taken apart in the block; only `names` where given.

    kind: what the file should be, for people, such as "WIDER FACE annotation".

    Raises:
        UserError: the file cannot be read, or the block finds that a table is missing or made
            another way.
    """
    from scipy.io import loadmat  # slow to load, and few need it
    from scipy.io.matlab import MatReadError

    # What scipy raises for a file that is cut short, changed, MATLAB 7.3's HDF5 or something else:
    # a wrong size asks for more memory than there is, a wrong type leaves a name of scipy's unset.
    damaged = (MatReadError, zlib.error, OSError, NotImplementedError, ArithmeticError)
    damaged_inside = (MemoryError, UnboundLocalError)
    # What the block comes upon in tables of other sizes, or in text where a table should be.
    unexpected = (ValueError, TypeError, IndexError, AttributeError)
    try:
        yield loadmat(path, variable_names=names)
    except KeyError as error:
        raise unsound_mat(path, kind, f"it has no {error.args[0]}") from error
    except (*damaged, *damaged_inside, *unexpected) as error:
        raise unsound_mat(path, kind, str(error) or type(error).__name__) from error


def unsound_mat(path: Path, kind: str, why: str) -> UserError:
    """The error of a file that is not the `kind` that it should be."""
    return UserError(f"{path} is no sound {kind} ({why}); copy it anew")
