// The browser's side of SkyCamera. It shows the picture at its own rate, sends the kernel one small JPEG at a time, and
// paints the masks that come back: whatever a slider does is done here, without a question to the kernel.

export const PATIENCE = 2500; // ms without an answer, after which the kernel counts as silent
export const GIVE_UP = 15000; // ms without an answer, after which the camera is released
const SOFT = 0.1; // width of the painted edge around the threshold, in probability
const READING = 250; // ms that figures stay: nobody reads faster, and text costs the page a layout
const KEPT = 30; // answers that the shown rate and round trip look back on

// ---- What can be computed without a page

/** Width and height of what the model is fed: the longer side `size`, the aspect kept. */
export function fitSize(width, height, size) {
  const scale = size / Math.max(width, height);
  return [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
}

/** "#rrggbb" as [r, g, b]. */
export function parseColor(hex) {
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
}

/** What to paint for each probability 0..255: RGBA in the byte order of ImageData. */
export function palette({ threshold, opacity, color, view }) {
  const [r, g, b] = parseColor(color);
  const bytes = new Uint8ClampedArray(1024);
  for (let i = 0; i < 256; i++) {
    const inside = Math.min(1, Math.max(0, (i / 255 - threshold) / SOFT + 0.5));
    const grey = view === "mask" ? 255 * inside : i;
    if (view === "overlay") bytes.set([r, g, b, 255 * inside * opacity], 4 * i);
    else if (view === "cut-out") bytes.set([0, 0, 0, 255 * inside], 4 * i);
    else bytes.set([grey, grey, grey, 255], 4 * i);
  }
  return new Uint32Array(bytes.buffer);
}

/** Move `old` towards `next`, in place, keeping the share `smoothing` of it; a copy of `next` where there is no old. */
export function smooth(old, next, smoothing) {
  if (!old || old.length !== next.length || smoothing <= 0) return Float32Array.from(next);
  for (let i = 0; i < old.length; i++) old[i] = next[i] + smoothing * (old[i] - next[i]);
  return old;
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted.length ? sorted[sorted.length >> 1] : NaN;
}

/** One frame in flight: what was sent, whether it was answered, and how long that took. */
export class Link {
  constructor(now = () => performance.now()) {
    this.now = now;
    this.id = 0;
    this.since = null; // when the frame in flight was taken
    this.trips = []; // ms of the last answers
    this.times = []; // when they came
  }
  get busy() {
    return this.since !== null;
  }
  get waited() {
    return this.busy ? this.now() - this.since : 0;
  }
  send() {
    this.since = this.now();
    return ++this.id;
  }
  /** Note the answer to frame `id`; false for one that nobody waits for. */
  answered(id) {
    if (!this.busy || id !== this.id) return false;
    this.note(this.waited);
    this.since = null;
    return true;
  }
  note(trip) {
    this.trips = [...this.trips, trip].slice(-KEPT);
    this.times = [...this.times, this.now()].slice(-KEPT);
  }
  get trip() {
    return median(this.trips);
  }
  get rate() {
    const span = this.times.at(-1) - this.times[0];
    return span > 0 ? (1000 * (this.times.length - 1)) / span : 0;
  }
}

/** Whether VS Code shows this page: from vscode-webview:// as a program, from https:// in a browser; its body has a mark. */
export function inVSCode({ protocol }, body) {
  return protocol.startsWith("vscode") || "vscodeThemeKind" in body.dataset;
}

/** Why this page can open no camera, or null. */
export function obstacle({ vscode, allowed, host, isSecureContext, mediaDevices }) {
  if (vscode) return "VS Code opens no camera for a notebook: choose a video file, or a camera of the kernel.";
  if (!allowed)
    return "The page around this notebook lets it have no camera: open the notebook in a tab of its own, or choose a video file.";
  if (!isSecureContext || !mediaDevices)
    return `A browser gives its camera to https:// and localhost pages only, and this one comes from ${host}: use an SSH tunnel, or a camera of the kernel.`;
  return null;
}

/** What to do about an error of getUserMedia or of a video element. */
export function advice({ name, message }) {
  const known = {
    NotAllowedError: "The camera was refused: allow it in the address bar of the browser, then press Start.",
    NotFoundError: "This computer has no camera that the browser can see: connect one, or choose another source.",
    NotReadableError: "The camera is in use elsewhere: close the program that has it, then press Start.",
    OverconstrainedError: "That camera is gone: choose another one.",
  };
  return known[name] ?? `The source cannot be opened (${message || name}): choose another one.`;
}

/** The bytes of a canvas. Its toBlob waits until the page is idle, 20 ms beside a video; toDataURL takes 2 ms. */
export function fromDataURL(url) {
  const text = atob(url.slice(url.indexOf(",") + 1));
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes.buffer;
}

async function inflate(buffer) {
  const stream = new DecompressionStream("deflate");
  const writer = stream.writable.getWriter();
  writer.write(buffer);
  writer.close();
  return new Uint8Array(await new Response(stream.readable).arrayBuffer());
}

// ---- The page

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function download(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000); // the browser reads it after the click
}

const stamp = () => new Date().toISOString().slice(0, 19).replace(/[-:]/g, "").replace("T", "-");

const HINTS = {
  camera: "Press Start. What the camera sees goes to your kernel and nowhere else.",
  file: "Choose a video file: it is played here.",
  kernel: "Name the source, then press Start.",
};

class Camera {
  constructor(model, root) {
    this.model = model;
    this.root = root;
    this.connected = true;
    this.vscode = inVSCode(location, document.body);
    this.session = null; // names one run from start to stop; answers to an earlier one are dropped
    this.build();
    this.model.on("msg:custom", this.receive);
    this.model.on("comm_live_update", this.disconnect); // kernel restarted, or gone
    this.model.on("destroy", this.disconnect);
    this.model.on("change", this.restyle);
    this.timer = setInterval(this.watch, 250);
    addEventListener("pagehide", this.stop);
    this.restyle();
    this.idle(this.vscode ? this.cameraObstacle() : (this.obstacle() ?? HINTS[this.place.value]));
  }

  dispose() {
    this.stop();
    clearInterval(this.timer);
    removeEventListener("pagehide", this.stop);
  }

  cameraObstacle() {
    const allowed = document.featurePolicy?.allowsFeature("camera") ?? true; // where a frame can't tell, the browser asks
    const { mediaDevices } = navigator;
    return obstacle({ vscode: this.vscode, allowed, host: location.host, isSecureContext, mediaDevices });
  }

  /** Why the chosen source cannot be opened, or null. */
  obstacle() {
    return this.place.value.startsWith("camera") ? this.cameraObstacle() : null;
  }

  // -- Elements

  build() {
    this.canvas = element("canvas", { width: 640, height: 360, role: "img", ariaLabel: "Picture with its sky painted" });
    this.figures = element("div", { className: "skysky-figures" });
    this.message = element("div", { className: "skysky-message", role: "status", ariaLive: "polite" });
    this.video = element("video", { muted: true, playsInline: true, loop: true });
    this.small = element("canvas"); // the picture at the model's size
    this.paint = element("canvas"); // the mask in its colours
    const stage = element("div", { className: "skysky-stage" }, this.canvas, this.figures, this.message);
    this.root.classList.add("skysky-camera");
    this.root.dataset.lmSuppressShortcuts = "true"; // JupyterLab's keys are not meant for sliders and buttons
    this.root.addEventListener("keydown", (e) => e.stopPropagation());
    this.root.append(stage, this.buildBar(), this.buildSliders());
  }

  buildBar() {
    const option = (value, text) => element("option", { value, textContent: text });
    this.devices = element("optgroup", { label: "This browser" }, option("camera", "Camera"));
    this.place = element("select", { ariaLabel: "Source", onchange: this.choose }, this.devices,
      element("optgroup", { label: "Files" }, option("file", "Video file…")),
      element("optgroup", { label: "The kernel" }, option("kernel", "Camera, stream or file…")));
    this.file = element("input", { type: "file", accept: "video/*", ariaLabel: "Video file", onchange: this.start });
    this.address = element("input", { type: "text", placeholder: "0, rtsp://…, or a file of the kernel's computer",
      ariaLabel: "Camera number, address or file on the kernel's side", value: this.model.get("source"),
      onkeydown: (e) => e.key === "Enter" && this.start() });
    this.place.value = this.address.value ? "kernel" : this.vscode ? "file" : "camera";
    const button = (text, title, onclick) => element("button", { type: "button", textContent: text, title, onclick });
    this.startStop = button("Start", "Start or stop the source", () => (this.session ? this.stop() : this.start()));
    this.startStop.classList.add("skysky-primary");
    this.shot = button("Snapshot", "Save what is shown as a PNG file", this.snapshot);
    this.rec = button("Record", "Record what is shown as a video file", this.record);
    this.look();
    return element("div", { className: "skysky-bar" }, this.startStop, this.place, this.file, this.address, this.shot, this.rec);
  }

  buildSliders() {
    this.inputs = {};
    const field = (name, label, node) => {
      node.oninput = () => this.set(name, node.type === "range" ? Number(node.value) : node.value);
      node.ariaLabel = label; // without the number beside it, which would be read as a part of the name
      this.inputs[name] = node;
      const value = element("output");
      return element("label", {}, element("span", { textContent: label }), node, ...(node.type === "range" ? [value] : []));
    };
    const range = (max) => element("input", { type: "range", min: 0, max, step: 0.01 });
    const view = element("select", {}, ...this.model.get("views").map((v) => element("option", { value: v, textContent: v })));
    return element("div", { className: "skysky-sliders" },
      field("threshold", "Threshold", range(1)), field("opacity", "Opacity", range(1)),
      field("smoothing", "Smoothing", range(0.95)), field("color", "Colour", element("input", { type: "color" })),
      field("view", "View", view));
  }

  choose = () => {
    this.stop();
    this.look();
    this.idle(this.obstacle() ?? HINTS[this.place.value] ?? "Press Start.");
  };

  look() {
    this.file.hidden = this.place.value !== "file";
    this.address.hidden = this.place.value !== "kernel";
    this.startStop.textContent = this.session ? "Stop" : "Start";
    this.startStop.classList.toggle("skysky-on", Boolean(this.session));
    this.shot.disabled = this.rec.disabled = !this.session;
    this.rec.textContent = this.recorder ? "Stop recording" : "Record";
    this.rec.classList.toggle("skysky-recording", Boolean(this.recorder));
  }

  say(text, error = false) {
    if (this.message.textContent === text && this.message.classList.contains("skysky-error") === error) return;
    this.message.textContent = text;
    this.message.classList.toggle("skysky-error", error);
    this.message.setAttribute("role", error ? "alert" : "status");
  }

  idle(text, error = false) {
    this.say(text, error || text === this.obstacle());
    this.root.classList.add("skysky-idle");
    this.figures.textContent = "";
    this.canvas.getContext("2d").clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.look();
  }

  // -- Settings: shared with the kernel, applied here at once

  set(name, value) {
    this.model.set(name, value);
    this.restyle();
    if (this.connected) this.model.save_changes();
  }

  restyle = () => {
    this.style = Object.fromEntries(Object.keys(this.inputs).map((name) => [name, this.model.get(name)]));
    for (const [name, node] of Object.entries(this.inputs)) {
      if (node.value !== String(this.style[name])) node.value = this.style[name];
      if (node.type === "range") node.nextSibling.textContent = Number(this.style[name]).toFixed(2);
    }
    this.colors = palette(this.style);
    this.paintMask();
  };

  // -- Start and stop

  start = async () => {
    this.stop();
    if (!this.connected) return this.idle("The kernel of this widget is gone: run its cell again.", true);
    const why = this.obstacle();
    if (why) return this.idle(why, true);
    const session = (this.session = Math.random().toString(36).slice(2));
    this.link = new Link();
    this.reported = -READING;
    this.root.classList.remove("skysky-idle");
    this.say("Opening the source…");
    this.look();
    try {
      if (this.place.value === "kernel") return this.openKernel();
      const stream = this.place.value === "file" ? null : await this.openCamera();
      if (session !== this.session) return release(stream); // stopped while the browser was asking
      await this.play(stream);
      this.say("");
      this.next(session);
    } catch (error) {
      if (session !== this.session) return;
      this.stop();
      this.idle(advice(error), true);
    }
  };

  stop = () => {
    if (!this.session) return;
    if (this.place.value === "kernel" && this.connected) this.model.send({ kind: "close", session: this.session });
    this.session = this.mask = this.levels = this.picture = null;
    this.recorder?.stop();
    release(this.video.srcObject);
    if (this.video.src) URL.revokeObjectURL(this.video.src);
    this.video.srcObject = null;
    this.video.removeAttribute("src");
    this.video.load(); // lets go of the last frame
    this.idle("Stopped.");
  };

  disconnect = () => {
    this.connected = false;
    this.stop();
    this.idle("The kernel of this widget is gone, the camera is off: run the cell again.", true);
  };

  async openCamera() {
    const id = this.place.value.split(":")[1];
    const video = { width: { ideal: 1280 }, height: { ideal: 720 }, ...(id ? { deviceId: { exact: id } } : { facingMode: "environment" }) };
    const stream = await navigator.mediaDevices.getUserMedia({ video, audio: false });
    await this.listCameras();
    for (const track of stream.getTracks()) track.onended = () => {
      this.stop();
      this.idle("The camera was disconnected, or its permission withdrawn.", true);
    };
    return stream;
  }

  async listCameras() {
    const chosen = this.place.value;
    const cameras = (await navigator.mediaDevices.enumerateDevices()).filter((d) => d.kind === "videoinput");
    this.devices.replaceChildren(element("option", { value: "camera", textContent: "Camera" }),
      ...cameras.map((d, i) => element("option", { value: `camera:${d.deviceId}`, textContent: d.label || `Camera ${i + 1}` })));
    this.place.value = chosen;
  }

  async play(stream) {
    if (stream) this.video.srcObject = stream;
    else {
      if (!this.file.files.length) throw new Error("no file chosen");
      this.video.src = URL.createObjectURL(this.file.files[0]);
    }
    await this.video.play();
    this.resize(this.video.videoWidth, this.video.videoHeight);
  }

  openKernel() {
    this.model.send({ kind: "open", session: this.session, source: this.address.value.trim(), id: this.link.send() });
  }

  // -- Frames out

  next(session) {
    const frame = () => {
      if (session !== this.session) return;
      this.picture = this.video;
      this.draw();
      this.fresh = true; // came after the frame in flight: goes as soon as that is answered
      if (!this.link.busy) this.send(session);
      this.next(session);
    };
    if (this.video.requestVideoFrameCallback) this.video.requestVideoFrameCallback(frame);
    else requestAnimationFrame(frame);
  }

  send(session) {
    const id = this.link.send();
    this.fresh = false;
    const [width, height] = fitSize(this.video.videoWidth, this.video.videoHeight, this.model.get("size"));
    Object.assign(this.small, { width, height }).getContext("2d").drawImage(this.video, 0, 0, width, height);
    this.model.send({ kind: "frame", session, id }, undefined, [fromDataURL(this.small.toDataURL("image/jpeg", 0.85))]);
  }

  // -- Masks in

  receive = async (content, buffers) => {
    const { session, kind, id } = content;
    if (session !== this.session) return;
    if (kind === "failed") {
      this.stop();
      return this.idle(content.error, true);
    }
    if (kind === "note") this.link.since = this.link.now(); // opening, or waiting for its source: alive
    else if (kind !== "picture" && !this.link.answered(id)) return;
    if (kind === "mask" && this.fresh) this.send(session);
    this.say(content.error ?? "", Boolean(content.error));
    if (!buffers.length) return;
    const levels = await inflate(buffers.at(-1));
    const picture = kind === "picture" ? await createImageBitmap(new Blob([buffers[0]])) : this.picture;
    if (session !== this.session) return;
    [this.mask, this.levels] = [content, smooth(this.levels, levels, this.style.smoothing)];
    this.paintMask();
    if (kind === "picture") this.show(picture, content);
    this.report(content);
  };

  show(picture, { session, id, trip }) {
    this.picture?.close?.();
    this.picture = picture;
    this.resize(picture.width, picture.height);
    this.draw();
    this.link.note(trip);
    this.link.since = this.link.now(); // from here on the kernel owes the next one
    this.model.send({ kind: "ack", session, id });
  }

  report({ ms, fraction, id }) {
    const { rate, trip } = this.link;
    const sky = fraction > 0 ? `sky ${(100 * fraction).toFixed(0)} %` : "no sky";
    this.root.dispatchEvent(new CustomEvent("mask", { detail: { id, ms, fraction, trip: this.link.trips.at(-1) } }));
    if (this.link.now() < this.reported + READING) return;
    this.reported = this.link.now();
    this.figures.replaceChildren(
      rate ? `${rate.toFixed(rate < 10 ? 1 : 0)} masks/s · ` : "", `${trip.toFixed(0)} ms round trip · `,
      element("span", { className: "skysky-detail", textContent: `${ms.toFixed(0)} ms model · ` }), sky);
  }

  /** Say so when the kernel is silent; let the camera go when it stays so. */
  watch = () => {
    if (!this.session || this.link.waited < PATIENCE) return;
    if (this.link.waited < GIVE_UP) this.say("The kernel does not answer: it is busy with another cell, or gone.", true);
    else {
      this.stop();
      this.idle("The kernel did not answer, the camera is off: press Start when it is free, or run the cell again.", true);
    }
  };

  // -- Drawing

  resize(width, height) {
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
  }

  paintMask() {
    if (!this.mask) return;
    const [height, width] = this.mask.shape;
    if (this.paint.width !== width) this.paint.width = width;
    if (this.paint.height !== height) this.paint.height = height;
    const context = this.paint.getContext("2d");
    const image = context.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    for (let i = 0; i < pixels.length; i++) pixels[i] = this.colors[(this.levels[i] + 0.5) | 0];
    context.putImageData(image, 0, 0);
    this.draw();
  }

  draw() {
    if (!this.picture) return;
    const context = this.canvas.getContext("2d");
    const { width, height } = this.canvas;
    context.globalCompositeOperation = "copy"; // a cut-out leaves nothing of the frame before
    context.drawImage(this.picture, 0, 0, width, height);
    context.globalCompositeOperation = this.style.view === "cut-out" ? "destination-out" : "source-over";
    if (this.mask) context.drawImage(this.paint, 0, 0, width, height);
  }

  // -- Keeping what is shown

  snapshot = () => this.canvas.toBlob((blob) => download(blob, `sky-${stamp()}.png`), "image/png");

  record = () => {
    if (this.recorder) return this.recorder.stop();
    const type = ["video/webm", "video/mp4"].find((t) => MediaRecorder.isTypeSupported(t));
    const stream = this.canvas.captureStream(30);
    const parts = [];
    this.recorder = new MediaRecorder(stream, { mimeType: type });
    this.recorder.ondataavailable = (e) => parts.push(e.data);
    this.recorder.onstop = () => {
      release(stream);
      this.recorder = null;
      this.look();
      download(new Blob(parts, { type }), `sky-${stamp()}.${type.split("/")[1]}`);
    };
    this.recorder.start(1000);
    this.look();
  };
}

function release(stream) {
  for (const track of stream?.getTracks() ?? []) {
    track.onended = null;
    track.stop();
  }
}

export default {
  render({ model, el }) {
    const camera = new Camera(model, el);
    return () => camera.dispose();
  },
};
