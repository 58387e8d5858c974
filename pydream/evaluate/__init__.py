"""Evaluation of distilled sets by training students on them and testing these on real images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydream.evaluate.config import EvaluateConfig, RelabelConfig
from pydream.lazy import lazy_members

if TYPE_CHECKING:
    from pydream.evaluate.evaluation import evaluate_set
    from pydream.evaluate.relabel import RelabelResult, relabel
    from pydream.evaluate.results import EvaluationResult, EvaluationRow, StudentRun, result_table

__all__ = [
    "EvaluateConfig",
    "EvaluationResult",
    "EvaluationRow",
    "RelabelConfig",
    "RelabelResult",
    "StudentRun",
    "evaluate_set",
    "relabel",
    "result_table",
]

lazy_members(
    __name__,
    {
        "EvaluationResult": "pydream.evaluate.results",
        "EvaluationRow": "pydream.evaluate.results",
        "RelabelResult": "pydream.evaluate.relabel",
        "StudentRun": "pydream.evaluate.results",
        "evaluate_set": "pydream.evaluate.evaluation",
        "relabel": "pydream.evaluate.relabel",
        "result_table": "pydream.evaluate.results",
    },
)
