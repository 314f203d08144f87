"Archives on many machines: what `skysky cluster` runs."
from .archive import mask_archive

__all__ = ["mask_archive"]
