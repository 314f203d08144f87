"For notebooks: a picture, its sky and every knob (`SkyExplorer`); live video with its sky painted (`SkyCamera`)."
from .camera import SkyCamera
from .explorer import SAMPLES, SkyExplorer, replace_sky

__all__ = ["SAMPLES", "SkyCamera", "SkyExplorer", "replace_sky"]
