"For notebooks: a picture, its sky and every knob (`SkyExplorer`); live video with its sky painted (`SkyCamera`)."
from .page import SAMPLES  # first: it says how to install what is missing
from .camera import SkyCamera
from .explorer import SkyExplorer

__all__ = ["SAMPLES", "SkyCamera", "SkyExplorer"]
