"From pictures to one exported file, with torch and fastai, which are loaded with the first name that is asked for."
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .callbacks import plot_loss
    from .config import SetSpec, TrainConfig, load_config
    from .data import check_dataset
    from .export import export_model, quantize
    from .known import open_dataset
    from .learner import sky_learner, train
    from .models import load_checkpoint, save_checkpoint
    from .teach import teach

__all__ = ["SetSpec", "TrainConfig", "check_dataset", "export_model", "load_checkpoint", "load_config", "open_dataset",
           "plot_loss", "quantize", "save_checkpoint", "sky_learner", "teach", "train"]
_HOMES = {"plot_loss": "callbacks", "SetSpec": "config", "TrainConfig": "config", "load_config": "config",
          "check_dataset": "data", "export_model": "export", "quantize": "export", "open_dataset": "known",
          "sky_learner": "learner", "train": "learner", "load_checkpoint": "models", "save_checkpoint": "models",
          "teach": "teach"}


def __getattr__(name):
    if name not in _HOMES: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__(): return sorted({*globals(), *__all__})
