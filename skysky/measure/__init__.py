"""How exact masks are, and what they cost: scores of one picture or many, reports, plots.

`evaluate` and `bench` are the functions of the modules that bear their names: `from skysky.measure.bench import bench`.
"""
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bench_report import BenchReport
    from .evaluate import EvaluationReport, plot_best, plot_calibration, plot_curve, plot_violins, plot_worst
    from .metrics import Counts, boundary_f1, false_alarms, iou

__all__ = ["BenchReport", "Counts", "EvaluationReport", "boundary_f1", "false_alarms", "iou", "plot_best",
           "plot_calibration", "plot_curve", "plot_violins", "plot_worst"]
_HOMES = {"BenchReport": "bench_report", "EvaluationReport": "evaluate", "plot_best": "evaluate",
          "plot_calibration": "evaluate", "plot_curve": "evaluate", "plot_violins": "evaluate",
          "plot_worst": "evaluate", "Counts": "metrics", "boundary_f1": "metrics", "false_alarms": "metrics",
          "iou": "metrics"}


def __getattr__(name):
    if name not in _HOMES: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__(): return sorted({*globals(), *__all__})
