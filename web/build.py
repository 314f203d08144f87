"""Write the page to a folder: sources, model, runtime, and every number that Python is the home of, as settings.json.

    npm ci --ignore-scripts --prefix web && python web/build.py DIR"""
import hashlib
import json
import sys
from pathlib import Path

import skysky
from skysky.compositing import SLIGHT, SURE
from skysky.core import MARK, MIN_SKY
from skysky.defaults import REFINE_RADIUS, SMOOTHING, VIDEO_SIZE
from skysky.layouts import LAYOUTS
from skysky.refine import CHANGE, CUT, upsample_guided
from skysky.segment import EVEN_EDGE, EVEN_HOLD, EVEN_SIZE, EVEN_STEP
from skysky.weights import DEFAULT_MODEL, model_card, model_path
from skysky.write_images import SKY_COLOR

HERE = Path(__file__).parent
SOURCES = ("index.html", "style.css", "app.js", "worker.js", "maths.js", "even.js", "smooth.js", "files.js")
FIELDS = ("folder", "name", "sky", "ground", "upright", "bare", "drop")  # of a layout
RUNTIMES = {"wasm": ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"),  # of onnxruntime-web, npm's package
            "webgpu": ("ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm")}
LINKS = {"Install and use": "overview.html", "The book": "docs/book.html", "Commands": "nbs/commands/01_options.html",
         "Models": "models.html", "Gallery": "gallery.html", "Reference": "reference/skysky.html"}


def settings() -> dict:
    "What the page takes from Python."
    card = model_card(DEFAULT_MODEL)
    layouts = {name: {key: getattr(row, key) for key in FIELDS} for name, row in LAYOUTS.items()}
    card = {key: getattr(card, key) for key in ("name", "file", "size", "whole", "threshold", "sure")}
    return {"version": skysky.__version__, "mark": MARK, "minSky": MIN_SKY, "radius": REFINE_RADIUS,
            "eps": upsample_guided.__defaults__[1], "videoSize": VIDEO_SIZE, "liveSide": 960, "maxPixels": 100_000_000,
            "colour": "#" + bytes(SKY_COLOR).hex(), "cut": {"sure": SURE, "slight": SLIGHT}, "layouts": layouts,
            "card": card, "even": {"size": EVEN_SIZE, "hold": EVEN_HOLD, "step": EVEN_STEP, "edge": EVEN_EDGE},
            "smoothing": {"strength": SMOOTHING, "change": CHANGE, "cut": CUT}, "runtimes": RUNTIMES}


def build(out: Path):
    "Write the page: alone, or as the front page of the documentation, if that is there."
    dist = HERE/"node_modules"/"onnxruntime-web"/"dist"
    if not dist.is_dir(): sys.exit("the page's runtime is not here: run npm ci --ignore-scripts --prefix web")
    (out/"runtime").mkdir(parents=True, exist_ok=True)
    made = {name: (HERE/name).read_bytes() for name in SOURCES}
    if (out/"overview.html").is_file():
        links = "".join(f'<a href="{address}">{name}</a>\n' for name, address in LINKS.items())
        made["index.html"] = made["index.html"].replace(b"<!--links-->", f"<nav>\n{links}</nav>".encode())
    made |= {f"runtime/{name}": (dist/name).read_bytes() for names in RUNTIMES.values() for name in names}
    made["favicon.svg"] = (HERE.parent/"docs"/"assets"/"favicon.svg").read_bytes()
    model = model_path(DEFAULT_MODEL)
    made |= {model.name: model.read_bytes(), "settings.json": json.dumps(settings(), indent=1).encode()}
    for name, data in made.items(): (out/name).write_bytes(data)
    digest = hashlib.sha256(b"".join(made[name] for name in sorted(made))).hexdigest()[:16]
    later = [f"runtime/{name}" for name in RUNTIMES["webgpu"]]
    worker = (HERE/"sw.js").read_text().replace("{{version}}", f"skysky-{digest}")
    for place, names in {"files": ["./", *sorted(made.keys() - {*later})], "later": later}.items():
        worker = worker.replace(f'["{{{{{place}}}}}"]', json.dumps(names))
    (out/"sw.js").write_text(worker)


if __name__ == "__main__": build(Path(sys.argv[1]))
