// The browser's side of SkyBrush: painting a mask over a picture. Every stroke is drawn here, the kernel only loads and
// saves. A mask has a byte a pixel: 255 sky, 0 not sky, 128 left open.

export const SKY = 255;
export const OPEN = 128;
export const OTHER = 0;
const PAINTS = { [SKY]: [255, 0, 128, 130], [OPEN]: [255, 196, 0, 120], [OTHER]: [0, 0, 0, 0] }; // RGBA over the picture
const STEP = 10; // levels 0..255 that a fill goes from a pixel to the next
const TOTAL = 120; // levels that it goes from where it began
const KEPT = 60; // strokes that can be undone
const PAUSE = 150; // ms after a stroke, after which it is saved

// ---- What can be computed without a page

/** Paint the pixels within `radius` of a line; returns the box that they lie in as [left, top, right, bottom], or null. */
export function paintLine(mask, width, height, [x0, y0], [x1, y1], radius, value) {
  const left = Math.max(0, Math.floor(Math.min(x0, x1) - radius));
  const right = Math.min(width, Math.ceil(Math.max(x0, x1) + radius) + 1);
  const top = Math.max(0, Math.floor(Math.min(y0, y1) - radius));
  const bottom = Math.min(height, Math.ceil(Math.max(y0, y1) + radius) + 1);
  if (left >= right || top >= bottom) return null;
  const [dx, dy] = [x1 - x0, y1 - y0];
  const length = dx * dx + dy * dy || 1;
  for (let y = top; y < bottom; y++) {
    for (let x = left; x < right; x++) {
      const along = Math.min(1, Math.max(0, ((x - x0) * dx + (y - y0) * dy) / length));
      const [ex, ey] = [x - x0 - along * dx, y - y0 - along * dy];
      if (ex * ex + ey * ey <= radius * radius) mask[y * width + x] = value;
    }
  }
  return [left, top, right, bottom];
}

/** Paint the area around a pixel up to its edges, by the colours of the picture (RGBA); returns its box. */
export function fillArea(mask, pixels, width, height, [x, y], value) {
  const start = Math.round(y) * width + Math.round(x);
  const far = (a, b) => Math.max(Math.abs(pixels[4 * a] - pixels[4 * b]), Math.abs(pixels[4 * a + 1] - pixels[4 * b + 1]),
    Math.abs(pixels[4 * a + 2] - pixels[4 * b + 2]));
  const seen = new Uint8Array(width * height);
  const stack = [start];
  let [left, top, right, bottom] = [width, height, 0, 0];
  seen[start] = 1;
  while (stack.length) {
    const i = stack.pop();
    const column = i % width;
    const row = (i - column) / width;
    mask[i] = value;
    [left, top] = [Math.min(left, column), Math.min(top, row)];
    [right, bottom] = [Math.max(right, column + 1), Math.max(bottom, row + 1)];
    for (const [j, inside] of [[i - 1, column > 0], [i + 1, column < width - 1], [i - width, row > 0], [i + width, row < height - 1]]) {
      if (!inside || seen[j] || far(i, j) > STEP || far(start, j) > TOTAL) continue;
      seen[j] = 1;
      stack.push(j);
    }
  }
  return [left, top, right, bottom];
}

/** The smallest box that holds both; null is none. */
export function union(a, b) {
  if (!a || !b) return a ?? b;
  return [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[2], b[2]), Math.max(a[3], b[3])];
}

/** The bytes of a mask within a box. */
export function cut(mask, width, [left, top, right, bottom]) {
  const part = new Uint8Array((right - left) * (bottom - top));
  for (let y = top; y < bottom; y++) part.set(mask.subarray(y * width + left, y * width + right), (y - top) * (right - left));
  return part;
}

/** Put back what `cut` took. */
export function paste(mask, width, [left, top, right, bottom], part) {
  for (let y = top; y < bottom; y++) mask.set(part.subarray((y - top) * (right - left), (y + 1 - top) * (right - left)), y * width + left);
}

/** What was done, to go back and forth. */
export class History {
  constructor() {
    this.done = [];
    this.undone = [];
  }
  add(box, before, after) {
    this.done = [...this.done, { box, before, after }].slice(-KEPT);
    this.undone = [];
  }
  /** Undo the last step of a mask, or do it again; returns the box that changed, or null. */
  undo(mask, width) {
    const step = this.done.pop();
    if (!step) return null;
    this.undone.push(step);
    paste(mask, width, step.box, step.before);
    return step.box;
  }
  redo(mask, width) {
    const step = this.undone.pop();
    if (!step) return null;
    this.done.push(step);
    paste(mask, width, step.box, step.after);
    return step.box;
  }
}

const through = async (bytes, stream) => {
  const writer = stream.writable.getWriter();
  writer.write(bytes);
  writer.close();
  return new Uint8Array(await new Response(stream.readable).arrayBuffer());
};

// ---- The page

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

const TOOLS = [["sky", "Sky", SKY, "s"], ["erase", "Not sky", OTHER, "e"], ["open", "Leave open", OPEN, "o"]];
const KEYS = "s sky · e not sky · o open · f fill · wheel or [ ] size · Ctrl+wheel or + − zoom, 0 all · " +
  "space or right button and drag: move · z undo, y redo · arrows move, x paints · h hide · n next · p back";

class Brush {
  constructor(model, root) {
    Object.assign(this, { model, root, value: SKY, fills: false, radius: 24, zoom: 1, pan: [0, 0], pointers: new Map(), hidden: false });
    this.build();
    model.on("msg:custom", this.receive);
    model.on("comm_live_update", this.disconnect);
    this.ask(0);
  }

  dispose() {
    this.flush();
    this.model.off("msg:custom", this.receive);
    this.model.off("comm_live_update", this.disconnect);
    this.resized.disconnect();
  }

  disconnect = () => this.say("The kernel of this widget is gone: run its cell again, all strokes until now are kept.", true);

  // -- Elements

  build() {
    this.picture = element("canvas");
    this.paint = element("canvas");
    this.ring = element("div", { className: "skysky-ring" });
    this.layers = element("div", { className: "skysky-layers" }, this.picture, this.paint);
    this.stage = element("div", { className: "skysky-easel", tabIndex: 0, role: "application", ariaLabel: "Picture to paint on" },
      this.layers, this.ring);
    const button = (textContent, title, onclick) => element("button", { type: "button", textContent, title, onclick });
    this.tools = Object.fromEntries(TOOLS.map(([name, text, value, key]) => [name, button(text, `Key ${key}`, () => this.take(value))]));
    this.fill = button("Fill to edges", "Key f", () => this.toggleFill());
    this.size = element("input", { type: "range", min: 1, max: 200, ariaLabel: "Brush size", oninput: () => this.resize(+this.size.value) });
    this.name = element("div", { className: "skysky-brush-name" });
    this.message = element("div", { className: "skysky-brush-message", role: "status" });
    this.bar = element("progress", { max: 1, value: 0, ariaLabel: "Pictures done" });
    this.count = element("span");
    const bar = element("div", { className: "skysky-tools", role: "toolbar", ariaLabel: "Brush" }, ...Object.values(this.tools), this.fill,
      element("label", { textContent: "Size " }, this.size),
      button("Undo", "Key z", this.undo), button("Redo", "Key y", this.redo),
      button("Whole picture", "Key 0", () => this.fit()),
      button("Back", "Key p", () => this.go(-1)), button("Done, next", "Key n", () => this.go(1)));
    bar.lastChild.classList.add("skysky-primary");
    this.root.classList.add("skysky-brush");
    this.root.dataset.lmSuppressShortcuts = "true";
    this.root.append(bar, this.stage, element("div", { className: "skysky-brush-foot" }, this.name, this.bar, this.count, this.message),
      element("details", { className: "skysky-keys" }, element("summary", { textContent: "Keys" }), KEYS));
    Object.assign(this.stage, { onpointerdown: this.down, onpointermove: this.move, onpointerup: this.up, onpointercancel: this.up,
      onkeydown: this.key, onkeyup: (e) => e.key === " " && (this.space = false), oncontextmenu: (e) => e.preventDefault(),
      onpointerleave: () => (this.ring.hidden = true) });
    this.stage.addEventListener("wheel", this.wheel, { passive: false });
    this.resized = new ResizeObserver(() => this.width && this.fit());
    this.resized.observe(this.stage);
    this.take(SKY);
    this.resize(this.radius);
  }

  take(value) {
    this.value = value;
    for (const [name, , own] of TOOLS) this.tools[name].setAttribute("aria-pressed", String(own === value));
    this.showRing();
  }

  toggleFill() {
    this.fills = !this.fills;
    this.fill.setAttribute("aria-pressed", String(this.fills));
    this.stage.classList.toggle("skysky-fills", this.fills);
  }

  resize(radius) {
    this.radius = Math.min(200, Math.max(1, radius));
    this.size.value = Math.round(this.radius);
    this.showRing();
  }

  say(text, error = false) {
    this.message.textContent = text;
    this.message.classList.toggle("skysky-error", error);
  }

  // -- Pictures in, masks out

  ask(step) {
    this.model.send({ kind: "open", step });
  }

  receive = async (content, buffers) => {
    if (content.kind === "error") return this.say(content.text, true);
    this.progress(content);
    if (content.kind === "saved") return this.say(content.done ? "" : "kept");
    const [image, bytes] = await Promise.all([createImageBitmap(new Blob([buffers[0]])), through(buffers[1], new DecompressionStream("deflate"))]);
    Object.assign(this, { file: content.name, width: image.width, height: image.height, mask: bytes, history: new History(), unsaved: false });
    for (const canvas of [this.picture, this.paint]) Object.assign(canvas, { width: this.width, height: this.height });
    const context = this.picture.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    this.pixels = context.getImageData(0, 0, this.width, this.height).data;
    this.cursor = [this.width / 2, this.height / 2];
    this.name.textContent = content.name + (content.done ? " (done)" : "");
    this.say(content.said ?? "");
    this.draw([0, 0, this.width, this.height]);
    this.stage.style.aspectRatio = `${this.width} / ${this.height}`;
    this.fit();
  };

  progress({ done_pictures: done, pictures }) {
    this.bar.value = pictures ? done / pictures : 0;
    this.count.textContent = `${done} of ${pictures} done`;
  }

  async save(done) {
    clearTimeout(this.timer);
    const { file, width, height } = this;
    this.unsaved = false;
    const bytes = await through(this.mask.slice(), new CompressionStream("deflate"));
    this.model.send({ kind: "save", name: file, width, height, done }, undefined, [bytes.buffer]);
  }

  flush() {
    if (this.unsaved) this.save(false);
  }

  async go(step) {
    if (!this.mask) return;
    if (step > 0) await this.save(true);
    else if (this.unsaved) await this.save(false);
    this.ask(step);
  }

  // -- Strokes

  /** The pixel of the picture under a pointer. */
  at({ clientX, clientY }) {
    const box = this.stage.getBoundingClientRect();
    return [(clientX - box.left - this.pan[0]) / this.zoom - 0.5, (clientY - box.top - this.pan[1]) / this.zoom - 0.5];
  }

  begin() {
    this.before = this.mask.slice();
    this.changed = null;
  }

  stroke(from, to, event) {
    const box = paintLine(this.mask, this.width, this.height, from, to, this.radius, this.value);
    this.changed = union(this.changed, box);
    this.draw(box);
    if (event) requestAnimationFrame(() => this.root.dispatchEvent(new CustomEvent("stroke", { detail: performance.now() - event.timeStamp })));
  }

  end() {
    if (!this.before) return;
    const { changed: box, before } = this;
    this.before = null;
    if (!box) return;
    this.history.add(box, cut(before, this.width, box), cut(this.mask, this.width, box));
    this.later();
  }

  /** Save when the hand rests. */
  later() {
    this.unsaved = true;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.flush(), PAUSE);
  }

  fillAt(point) {
    const [x, y] = point.map(Math.round);
    if (x < 0 || y < 0 || x >= this.width || y >= this.height) return false;
    this.begin();
    this.changed = fillArea(this.mask, this.pixels, this.width, this.height, [x, y], this.value);
    this.draw(this.changed);
    this.end();
    return true;
  }

  undo = () => this.back("undo");
  redo = () => this.back("redo");

  back(way) {
    const box = this.history?.[way](this.mask, this.width);
    if (!box) return;
    this.draw(box);
    this.later();
  }

  draw(box) {
    if (!box) return;
    const [left, top, right, bottom] = box;
    const image = new ImageData(right - left, bottom - top);
    const out = new Uint32Array(image.data.buffer);
    const colors = new Uint32Array(256);
    for (const [value, rgba] of Object.entries(PAINTS)) colors[value] = new Uint32Array(Uint8Array.from(rgba).buffer)[0];
    for (let y = top, i = 0; y < bottom; y++) for (let x = left; x < right; x++, i++) out[i] = colors[this.mask[y * this.width + x]];
    this.paint.getContext("2d").putImageData(image, left, top);
  }

  // -- Pointers: mouse, pen, one finger paints, two fingers move

  down = (event) => {
    if (!this.mask) return;
    if (event.pointerType === "touch" && [...this.pointers.values()].some((p) => p.pointerType === "pen")) return; // a hand that rests
    this.stage.focus({ preventScroll: true });
    this.stage.setPointerCapture(event.pointerId);
    if (event.pointerType === "pen" && this.pointers.size) {
      this.cancel(); // the hand came down before its pen
      this.pointers.clear();
    }
    this.pointers.set(event.pointerId, event);
    if (this.pointers.size > 1) return this.cancel();
    this.moves = this.space || event.button > 0;
    this.last = this.at(event);
    if (this.moves) return;
    if (this.fills) return (this.filled = this.fillAt(this.last));
    this.begin();
    this.stroke(this.last, this.last, event);
  };

  /** A second finger makes a gesture of what began as a stroke, or filled an area. */
  cancel() {
    if (this.filled) this.undo();
    this.filled = false;
    if (!this.before) return;
    this.mask.set(this.before);
    this.draw(this.changed);
    this.before = null;
  }

  move = (event) => {
    this.hover(event);
    const old = this.pointers.get(event.pointerId);
    if (!old || !this.mask) return;
    if (this.pointers.size > 1) return this.pinch(event, old);
    this.pointers.set(event.pointerId, event);
    if (this.moves) return this.shift(event.clientX - old.clientX, event.clientY - old.clientY);
    if (!this.before) return;
    for (const e of event.getCoalescedEvents?.() ?? [event]) {
      const point = this.at(e);
      this.stroke(this.last, point, e);
      this.last = point;
    }
  };

  up = (event) => {
    this.pointers.delete(event.pointerId);
    if (this.pointers.size) return;
    this.filled = false;
    this.end();
  };

  pinch(event, old) {
    const [other] = [...this.pointers.values()].filter((p) => p.pointerId !== event.pointerId);
    const span = (p) => Math.hypot(p.clientX - other.clientX, p.clientY - other.clientY);
    this.shift((event.clientX - old.clientX) / 2, (event.clientY - old.clientY) / 2);
    this.zoomBy(span(event) / Math.max(1, span(old)), { clientX: (event.clientX + other.clientX) / 2, clientY: (event.clientY + other.clientY) / 2 });
    this.pointers.set(event.pointerId, event);
  }

  wheel = (event) => {
    event.preventDefault();
    const factor = Math.exp(-event.deltaY / 400);
    if (event.ctrlKey || event.metaKey) this.zoomBy(factor, event);
    else this.resize(this.radius * factor);
    this.hover(event);
  };

  // -- The view

  fit() {
    const { clientWidth: w, clientHeight: h } = this.stage;
    this.zoom = Math.min(w / this.width, h / this.height);
    this.pan = [(w - this.width * this.zoom) / 2, (h - this.height * this.zoom) / 2];
    this.show();
  }

  zoomBy(factor, { clientX, clientY }) {
    const box = this.stage.getBoundingClientRect();
    const zoom = Math.min(32, Math.max(0.05, this.zoom * factor));
    const anchor = [clientX - box.left, clientY - box.top];
    this.pan = this.pan.map((p, i) => anchor[i] - ((anchor[i] - p) * zoom) / this.zoom);
    this.zoom = zoom;
    this.show();
  }

  zoomMiddle(factor) {
    const box = this.stage.getBoundingClientRect();
    this.zoomBy(factor, { clientX: box.left + box.width / 2, clientY: box.top + box.height / 2 });
  }

  shift(dx, dy) {
    this.pan = [this.pan[0] + dx, this.pan[1] + dy];
    this.show();
  }

  show() {
    this.layers.style.transform = `translate(${this.pan[0]}px, ${this.pan[1]}px) scale(${this.zoom})`;
    this.layers.classList.toggle("skysky-near", this.zoom > 2);
    this.showRing();
  }

  hover(event) {
    this.cursor = this.at(event);
    this.ring.hidden = event.pointerType === "touch";
    this.showRing();
  }

  showRing() {
    if (!this.cursor) return;
    const [x, y] = this.cursor.map((c, i) => (c + 0.5) * this.zoom + this.pan[i]);
    const side = 2 * this.radius * this.zoom;
    Object.assign(this.ring.style, { width: `${side}px`, height: `${side}px`, transform: `translate(${x - side / 2}px, ${y - side / 2}px)` });
  }

  // -- Keys

  key = (event) => {
    const pressed = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const step = Math.max(1, this.radius / 2);
    const walk = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[pressed];
    const actions = { s: () => this.take(SKY), e: () => this.take(OTHER), o: () => this.take(OPEN), f: () => this.toggleFill(),
      "[": () => this.resize(this.radius / 1.25), "]": () => this.resize(this.radius * 1.25), "+": () => this.zoomMiddle(1.25),
      "=": () => this.zoomMiddle(1.25), "-": () => this.zoomMiddle(0.8), 0: () => this.fit(), y: this.redo, h: () => this.hide(),
      z: () => (event.shiftKey ? this.redo() : this.undo()), n: () => this.go(1), p: () => this.go(-1), x: () => this.dab(),
      " ": () => (this.space = true) };
    if (!this.mask || event.altKey || !(walk || actions[pressed])) return;
    event.preventDefault();
    event.stopPropagation();
    if (!walk) return actions[pressed]();
    this.cursor = [Math.min(this.width - 1, Math.max(0, this.cursor[0] + walk[0])), Math.min(this.height - 1, Math.max(0, this.cursor[1] + walk[1]))];
    this.ring.hidden = false;
    this.showRing();
  };

  /** Paint where the ring is. */
  dab() {
    if (this.fills) return this.fillAt(this.cursor);
    this.begin();
    this.stroke(this.cursor, this.cursor);
    this.end();
  }

  hide() {
    this.hidden = !this.hidden;
    this.paint.style.visibility = this.hidden ? "hidden" : "visible";
  }
}

export default {
  render({ model, el }) {
    const brush = new Brush(model, el);
    return () => brush.dispose();
  },
};
