"Rendered scenes with exact, anti-aliased sky masks: `render_scene` draws one, `write_scenes` a folder of them."
from .render import KINDS, NO_SKY_KINDS, SKIES, Scene, render_scene, scene_kind, write_scenes

__all__ = ["KINDS", "NO_SKY_KINDS", "SKIES", "Scene", "render_scene", "scene_kind", "write_scenes"]
