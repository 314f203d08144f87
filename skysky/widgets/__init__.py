"""For notebooks: a picture, its sky and every knob (`SkyExplorer`); live video with its sky painted (`SkyCamera`);
masks corrected by hand (`SkyBrush`)."""
from .brush import SkyBrush
from .camera import SkyCamera
from .explorer import SkyExplorer
from .page import SAMPLES  # first: it says how to install what is missing

__all__ = ["SAMPLES", "SkyBrush", "SkyCamera", "SkyExplorer"]
