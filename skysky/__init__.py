"Sky masks for photos, folders, videos and live cameras; what is asked for is loaded when it is asked for."
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .images import read_image
    from .mask import SkyMask
    from .segment import Segmenter
    from .video import segment_video
    from .widgets import SkyBrush, SkyCamera, SkyExplorer

__all__ = ["Segmenter", "SkyBrush", "SkyCamera", "SkyExplorer", "SkyMask", "read_image", "segment_video"]
_HOMES = {"Segmenter": "segment", "SkyBrush": "widgets", "SkyCamera": "widgets", "SkyExplorer": "widgets",
          "SkyMask": "mask", "read_image": "images", "segment_video": "video"}


def __getattr__(name):
    if name not in _HOMES: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__(): return sorted({*globals(), *__all__})
