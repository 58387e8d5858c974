"""Training on distilled sets, and what it is worth on real test images."""

from __future__ import annotations

from pydream.evaluate.config import EvaluateConfig, InspectConfig, RelabelConfig
from pydream.evaluate.ddranking import label_robust_score
from pydream.evaluate.evaluation import evaluate_set
from pydream.evaluate.export import ExportConfig, ExportedSet, export_set
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
