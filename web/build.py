"""Write the page to a folder: sources, model, runtime, and every number that Python is the home of, as settings.json.

    npm ci --ignore-scripts --prefix web && python web/build.py site/web"""
import hashlib
import json
import shutil
import sys
from pathlib import Path

import skysky
from skysky.compositing import SLIGHT, SURE
from skysky.core import MARK, MIN_SKY
from skysky.defaults import REFINE_RADIUS, VIDEO_SIZE
from skysky.layouts import LAYOUTS
from skysky.refine import upsample_guided
from skysky.weights import DEFAULT_MODEL, model_card, model_path
from skysky.write_images import SKY_COLOR

HERE = Path(__file__).parent
SOURCES = ("index.html", "style.css", "app.js", "worker.js", "maths.js", "files.js")
FIELDS = ("folder", "name", "sky", "ground", "upright", "bare", "drop")  # of a layout
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")  # of onnxruntime-web, npm's package


def settings() -> dict:
    "What the page takes from Python."
    card = model_card(DEFAULT_MODEL)
    layouts = {name: {key: getattr(row, key) for key in FIELDS} for name, row in LAYOUTS.items()}
    card = {key: getattr(card, key) for key in ("name", "file", "size", "whole", "threshold", "sure")}
    return {"version": skysky.__version__, "mark": MARK, "minSky": MIN_SKY, "radius": REFINE_RADIUS,
            "eps": upsample_guided.__defaults__[1], "videoSize": VIDEO_SIZE, "liveSide": 960, "maxPixels": 100_000_000,
            "colour": "#" + bytes(SKY_COLOR).hex(), "cut": {"sure": SURE, "slight": SLIGHT}, "layouts": layouts,
            "card": card}


def build(out: Path):
    "Write the page."
    dist = HERE/"node_modules"/"onnxruntime-web"/"dist"
    if not dist.is_dir(): sys.exit("the page's runtime is not here: run npm ci --ignore-scripts --prefix web")
    shutil.rmtree(out, ignore_errors=True)
    (out/"runtime").mkdir(parents=True)
    for name in SOURCES: shutil.copy(HERE/name, out/name)
    for name in RUNTIME: shutil.copy(dist/name, out/"runtime"/name)
    shutil.copy(HERE.parent/"docs"/"assets"/"favicon.svg", out)
    shutil.copy(model_path(DEFAULT_MODEL), out)
    (out/"settings.json").write_text(json.dumps(settings(), indent=1))
    files = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    digest = hashlib.sha256(b"".join((out/name).read_bytes() for name in files)).hexdigest()[:16]
    worker = (HERE/"sw.js").read_text().replace("{{version}}", f"skysky-{digest}")
    (out/"sw.js").write_text(worker.replace('["{{files}}"]', json.dumps(["./", *files])))


if __name__ == "__main__": build(Path(sys.argv[1]))
