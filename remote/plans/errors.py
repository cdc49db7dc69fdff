"""What can be wrong with a call of a plan."""

from __future__ import annotations

from sharetorch.mpc.errors import PlanError, ShapeError
from sharetorch.remote.node import PLAIN_ERRORS


class PlanShapeError(PlanError, ShapeError):
    """Arguments do not have the number, form, shapes or dtypes the plan was built for."""


PLAIN_ERRORS[PlanShapeError.__name__] = PlanShapeError
