"The sky on the sphere: projections of panoramas and fisheyes, and the figures that are measured there."
from .blend import SphereSegmenter, heading_of, segment_view
from .projections import (
    FACES,
    LENSES,
    Equirectangular,
    Fisheye,
    Perspective,
    View,
    cube_views,
    find_circle,
    from_cube,
    reproject,
    to_cube,
)
from .sky_view import (
    Estimate,
    HorizonProfile,
    gap_fraction,
    horizon_profile,
    pixel_fraction,
    sky_figures,
    sky_fraction,
    view_factor,
)
from .street import draw_street
from .sun import SunHours, sun_hours, sun_path
from .survey import projected, view_of

__all__ = ["FACES", "LENSES", "Equirectangular", "Estimate", "Fisheye", "HorizonProfile", "Perspective",
           "SphereSegmenter", "SunHours", "View", "cube_views", "draw_street", "find_circle", "from_cube",
           "gap_fraction", "heading_of", "horizon_profile", "pixel_fraction", "projected", "reproject",
           "segment_view", "sky_figures", "sky_fraction", "sun_hours", "sun_path", "to_cube", "view_factor",
           "view_of"]
