"""Training on distilled sets, and what it is worth on real test images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydream.evaluate.config import EvaluateConfig, ExportConfig, InspectConfig, RelabelConfig
from pydream.lazy import lazy_members

if TYPE_CHECKING:
    from pydream.evaluate.ddranking import label_robust_score
    from pydream.evaluate.evaluation import evaluate_set
    from pydream.evaluate.export import ExportedSet, export_set
    from pydream.evaluate.relabel import RelabelResult, relabel
    from pydream.evaluate.results import EvaluationResult, EvaluationRow, StudentRun, result_table

__all__ = [
    "EvaluateConfig",
    "EvaluationResult",
    "EvaluationRow",
    "ExportConfig",
    "ExportedSet",
    "InspectConfig",
    "RelabelConfig",
    "RelabelResult",
    "StudentRun",
    "evaluate_set",
    "export_set",
    "label_robust_score",
    "relabel",
    "result_table",
]

lazy_members(
    __name__,
    {
        "EvaluationResult": "pydream.evaluate.results",
        "EvaluationRow": "pydream.evaluate.results",
        "ExportedSet": "pydream.evaluate.export",
        "RelabelResult": "pydream.evaluate.relabel",
        "StudentRun": "pydream.evaluate.results",
        "evaluate_set": "pydream.evaluate.evaluation",
        "export_set": "pydream.evaluate.export",
        "label_robust_score": "pydream.evaluate.ddranking",
        "relabel": "pydream.evaluate.relabel",
        "result_table": "pydream.evaluate.results",
    },
)
