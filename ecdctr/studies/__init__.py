"""Studies over many replays: the evidence for the default model, and forgetting."""

__all__ = [
    "cache",
    "evidence",
    "evidence_figures",
    "evidence_page",
    "evidence_plot",
    "evidence_runs",
    "forgetting_figures",
    "forgetting_page",
    "forgetting_study",
]
