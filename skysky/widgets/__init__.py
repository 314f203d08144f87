"""For notebooks: a picture, its sky and every knob (`SkyExplorer`); live video with its sky painted (`SkyCamera`);
masks corrected by hand (`SkyBrush`)."""
from .page import SAMPLES  # first: it says how to install what is missing
from .brush import BrushFolder, SkyBrush
from .camera import SkyCamera
from .explorer import SkyExplorer

__all__ = ["SAMPLES", "BrushFolder", "SkyBrush", "SkyCamera", "SkyExplorer"]
