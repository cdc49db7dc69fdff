"""The small public data sets of the sandbox: those bundled with scikit-learn, and Boston housing if there is a copy."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharetorch.datasets import DATA_VARIABLE, DataError

BOSTON_FILE = "boston_housing.csv"
BOSTON_TAGS = ("#boston", "#housing", "#boston_housing")
BOSTON_TARGET = "MEDV"
BOSTON_DESCRIPTION = """Boston housing data set

Census tracts of greater Boston in 1970, one in each row, from Harrison and Rubinfeld, "Hedonic housing prices and the
demand for clean air", Journal of Environmental Economics and Management, 1978.

Features, in order: CRIM crime rate per person; ZN percent of land for large lots; INDUS percent of land for industry;
CHAS 1 if the tract lies at the Charles river; NOX nitrogen oxides, parts per 10 million; RM rooms per dwelling; AGE
percent of homes built before 1940; DIS weighted distance to five centres of work; RAD access to highways; TAX property
tax per 10,000 dollars; PTRATIO pupils per teacher; B a transform of the share of Black residents; LSTAT percent of
people of lower status. Target: MEDV, median value of homes in 1,000 dollars.

The column B supposes that segregation raises prices; scikit-learn removed the data set for this reason in version 1.2.
"""

BUNDLED = ("diabetes", "breast_cancer", "digits", "iris", "wine", "linnerud")
"""Data sets that come with scikit-learn; each is tagged with its name after a "#"."""


class SampleSet(NamedTuple):
    """A public data set.

    Attributes:
        name: such as "iris".
        tags: by which its parts are found, besides "#data" or "#target".
        data: float32, shape (rows, features).
        target: float32, shape (rows,) or (rows, targets); classes are numbered from 0.
        description: what the columns mean and where the numbers come from.
    """

    name: str
    tags: tuple[str, ...]
    data: Tensor
    target: Tensor
    description: str


def bundled() -> Iterator[SampleSet]:
    """The data sets that come with scikit-learn. Nothing is downloaded.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise DataError(
            "The sandbox spreads data sets that come with scikit-learn, and scikit-learn is not installed: "
            "pip install 'sharetorch[examples]'. Without data: create_sandbox(globals(), download_data=False)."
        ) from error
    for name in BUNDLED:
        found = getattr(datasets, f"load_{name}")()
        yield SampleSet(name, (f"#{name}",), _floats(found.data), _floats(found.target), _plain(found.DESCR))


def _floats(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32)


def _plain(text: str) -> str:
    """A description without the label for cross-references that it begins with."""
    first, _, rest = text.partition("\n")
    return rest.lstrip() if first.startswith(".. _") else text


def boston() -> SampleSet | str:
    """Boston housing from ``boston_housing.csv`` in the folder named by SHARETORCH_DATA.

    Returns:
        The data set; or, if there is no such file, a sentence that says where it was looked for.

    Raises:
        DataError: the file is there, but it is no table of numbers with a column MEDV.
    """
    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        return f"{DATA_VARIABLE} is not set"
    path = Path(folder) / BOSTON_FILE
    if not path.is_file():
        return f"there is no file {path}"
    names, rows = _read(path)
    place = names.index(BOSTON_TARGET)
    table = torch.tensor(rows, dtype=torch.float64)
    features = torch.cat([table[:, :place], table[:, place + 1 :]], dim=1)
    return SampleSet("boston", BOSTON_TAGS, features.float(), table[:, place].float(), BOSTON_DESCRIPTION)


def _read(path: Path) -> tuple[list[str], list[list[float]]]:
    """Column names and rows of a table.

    Raises:
        DataError: not a table of finite numbers with the column MEDV.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            names, *lines = [line for line in csv.reader(stream) if line] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    names = [name.strip().upper() for name in names]
    if BOSTON_TARGET not in names:
        raise DataError(f"{path} has no column {BOSTON_TARGET}; its first line names {', '.join(names) or 'nothing'}.")
    if not lines:
        raise DataError(f"{path} holds no rows.")
    return names, [_numbers(line, len(names), f"{path}, row {row}") for row, line in enumerate(lines, 1)]


def _numbers(line: list[str], columns: int, where: str) -> list[float]:
    try:
        values = [float(text) for text in line]
    except ValueError as error:
        raise DataError(f"{where}: {error}.") from error
    if len(values) != columns or not all(map(math.isfinite, values)):
        raise DataError(f"{where}: {len(values)} values for {columns} columns, or one that is not finite.")
    return values
