// The page: what is chosen goes to the worker as a bitmap, what comes back is painted, saved or packed.
import { foreground } from "./maths.js";
import { maskName, png, stored, storedView, turn, zip } from "./files.js";

const at = (id) => document.getElementById(id);
const waiting = new Map();
let worker, settings, number = 0, films = 0, film = null; // the video that was chosen last
let shown; // { name, img: ImageData of the picture, prob, height, width, code }
let moving = null; // what is played, as an object that can be stopped
let results = []; // [path, Blob] of several photos

function say(text, wrong = false) {
  at("said").textContent = text;
  at("said").classList.toggle("wrong", wrong);
}

/** Cached files and the headers that threads need come from the service worker; the first visit is loaded once more. */
async function prepare() {
  if (!("serviceWorker" in navigator)) return;
  try {
    await navigator.serviceWorker.register("sw.js");
    await navigator.serviceWorker.ready;
    if (self.crossOriginIsolated || sessionStorage.getItem("again")) return;
    sessionStorage.setItem("again", "1");
    location.reload();
    await new Promise(() => {}); // until the page goes
  } catch (error) {
    console.warn(`No service worker, so no offline use and one thread: ${error.message}`);
  }
}

function start() {
  worker = new Worker(`worker.js${location.search}`, { type: "module" });
  return new Promise((resolve, reject) => {
    worker.addEventListener("error", (event) => reject(new Error(event.message || "the worker does not start")));
    worker.addEventListener("message", ({ data }) => {
      if (data.broken) reject(new Error(data.broken));
      else if (data.ready) resolve(data.ready);
      else {
        const { done, failed } = waiting.get(data.id);
        waiting.delete(data.id);
        if (data.error) failed(new Error(data.error));
        else {
          tell(data.engine);
          done(data);
        }
      }
    });
  });
}

function tell(engine) {
  at("about").textContent = `skysky ${settings.version}, model ${settings.card.name}, ${engine}.`;
}

/** What the worker is to do; of a film, its number. */
function options(frameOf = 0) {
  const { size, whole } = settings.card;
  const twice = at("twice").checked && !frameOf;
  const once = frameOf ? settings.videoSize : whole;
  return { size: twice ? size : once, whole: twice ? whole : once, threshold: Number(at("threshold").value),
    follow: at("follow").checked, film: frameOf, smooth: at("smooth").checked };
}

/** The worker's answer for a bitmap, which moves there; for none, the last one's with other options. */
function ask(bitmap, how) {
  number += 1;
  return new Promise((done, failed) => {
    waiting.set(number, { done, failed });
    worker.postMessage({ id: number, bitmap, options: how }, bitmap ? [bitmap] : []);
  });
}

/** Where the sky is; nowhere when that would be next to nothing. */
function maskOf({ prob }, threshold) {
  const mask = Uint8Array.from(prob, (p) => (p >= threshold ? 255 : 0));
  const count = mask.reduce((sum, value) => sum + (value > 0), 0);
  return count >= settings.minSky * mask.length ? [mask, count / mask.length] : [mask.fill(0), 0];
}

function cutoutOf({ img, prob, height, width }) {
  const [rgb, alpha] = [new Uint8Array(prob.length * 3), prob.map((p) => 1 - p)];
  for (let k = 0; k < prob.length; k += 1) rgb.set(img.data.subarray(4 * k, 4 * k + 3), 3 * k);
  const clean = foreground(rgb, alpha, height, width, settings.cut.sure, settings.cut.slight);
  const out = new Uint8ClampedArray(prob.length * 4);
  for (let k = 0; k < prob.length; k += 1) {
    out.set(clean.subarray(3 * k, 3 * k + 3), 4 * k);
    out[4 * k + 3] = Math.round(alpha[k] * 255);
  }
  return out;
}

function paint() {
  if (!shown) return;
  const { img, prob, height, width } = shown;
  const view = at("view").value;
  let out;
  if (view === "cutout") out = cutoutOf(shown);
  else {
    const [mask] = maskOf(shown, Number(at("threshold").value));
    const colour = [1, 3, 5].map((i) => Number.parseInt(at("colour").value.slice(i, i + 2), 16));
    const opacity = Number(at("opacity").value);
    out = new Uint8ClampedArray(img.data);
    for (let k = 0; k < prob.length; k += 1) {
      for (let c = 0; c < 3; c += 1) {
        if (view === "mask") out[4 * k + c] = mask[k];
        else if (view === "alpha") out[4 * k + c] = Math.round(prob[k] * 255);
        else out[4 * k + c] += opacity * prob[k] * (colour[c] - out[4 * k + c]);
      }
    }
  }
  Object.assign(at("picture"), { width, height });
  at("picture").getContext("2d").putImageData(new ImageData(out, width, height), 0, 0);
  at("stage").hidden = false;
  at("saves").hidden = false;
}

function pixelsOf(source, width, height, code = 1) {
  const [w, h] = code > 4 ? [height, width] : [width, height];
  const context = new OffscreenCanvas(w, h).getContext("2d", { alpha: false, willReadFrequently: true });
  context.setTransform(...turn(code, width, height));
  context.drawImage(source, 0, 0, width, height);
  return context.getImageData(0, 0, w, h);
}

async function one(file, how) {
  const [code, plain] = await stored(file);
  const bitmap = await createImageBitmap(plain);
  if (bitmap.width * bitmap.height > settings.maxPixels) throw new Error(`${file.name}: too many pixels for a browser`);
  const img = pixelsOf(bitmap, bitmap.width, bitmap.height, code);
  bitmap.close();
  return { name: file.name, img, code, ...(await ask(await createImageBitmap(img), how)) };
}

function verdict({ ms }, share) {
  return `${share ? `Sky: ${(100 * share).toFixed(1)} %` : "No sky"}, in ${(ms / 1000).toFixed(2)} s`;
}

async function showPhoto(file) {
  say("Looking…");
  try {
    shown = await one(file, options());
    paint();
    say(`${file.name}. ${verdict(shown, maskOf(shown, Number(at("threshold").value))[1])}`);
  } catch (error) {
    say(`${file.name}: ${error.message}`, true);
  }
}

/** Masks of many pictures into `results`: of each its path below the folder `top`, how to get it, and how many they are. */
async function many(top, pictures) {
  const layout = settings.layouts[at("layout").value];
  const [start_, stopped] = [performance.now(), { stop: false }];
  moving = stopped;
  results = [];
  let failed = 0;
  Object.assign(at("progress"), { hidden: false, value: 0 });
  at("zip").hidden = true;
  at("stop").hidden = false;
  for await (const [path, get, total] of pictures) {
    if (stopped.stop) break;
    at("progress").max = total;
    try {
      shown = await get();
      paint();
      const [mask] = maskOf(shown, Number(at("threshold").value));
      const values = mask.map((value) => (value ? layout.sky : layout.ground));
      const code = layout.upright ? 1 : shown.code;
      const name = maskName(path, layout, top);
      const twins = results.filter(([other]) => other === name).length;
      results.push([twins ? name.replace(/(\.[^.]*)?$/, `-${results.length}$1`) : name,
        await png(...storedView(values, shown.height, shown.width, code), 1, settings.mark)]);
    } catch (error) {
      if (stopped.stop) break;
      failed += 1;
      console.warn(error.message);
    }
    at("progress").value += 1;
    say(`${results.length} of ${total} masks${failed ? `, ${failed} could not be read` : ""}`);
  }
  const seconds = (performance.now() - start_) / 1000;
  say(`${results.length} masks in ${seconds.toFixed(1)} s${failed ? `; ${failed} could not be read` : ""}`, failed > 0);
  Object.assign(at("progress"), { hidden: true });
  at("stop").hidden = true;
  at("zip").hidden = results.length === 0;
}

function manyPhotos(files) {
  const top = files[0].webkitRelativePath.split("/")[0] || "photos";
  return many(top, files.map((file) =>
    [(file.webkitRelativePath || file.name).replace(`${top}/`, ""), () => one(file, options()), files.length]));
}

/** Until an event of the player, its failure, or its end by `close`. */
function until(player, name) {
  const over = new AbortController();
  return new Promise((done, failed) => {
    for (const kind of [name, "emptied"]) player.addEventListener(kind, done, { signal: over.signal });
    player.addEventListener("error", () => failed(new Error("this browser cannot read it")), { signal: over.signal });
  }).finally(() => over.abort());
}

/** A video's frames, so many a second, in full size. Each is sought: none is lost where the model is slow. */
async function* framesOf(file, rate) {
  const [player, own, stem] = [at("player"), (films += 1), file.name.replace(/\.[^.]*$/, "")];
  const seek = (time) => {
    player.currentTime = time;
    return until(player, "seeked");
  };
  try {
    player.src = URL.createObjectURL(file);
    await until(player, "loadeddata");
    if (!Number.isFinite(player.duration)) await seek(1e6); // a recording: its length shows at its end
    const total = Math.max(1, Math.ceil(player.duration * rate - 1e-3));
    for (let n = 0; n < total; n += 1) {
      const name = `${stem}_${String(n).padStart(6, "0")}.jpg`;
      yield [name, async () => {
        await seek(n / rate + 1e-3); // just behind the border between two frames
        const img = pixelsOf(player, player.videoWidth, player.videoHeight);
        return { name, img, code: 1, ...(await ask(await createImageBitmap(img), options(own))) };
      }, total];
    }
  } finally {
    close(player);
  }
}

async function filmMasks() {
  halt();
  const rate = Number(at("rate").value);
  if (!(rate > 0 && rate <= 120)) return say("Frames a second must be above 0 and at most 120", true);
  try {
    return await many(film.name.replace(/\.[^.]*$/, ""), framesOf(film, rate));
  } catch (error) {
    at("progress").hidden = true;
    return say(`${film.name}: ${error.message}`, true);
  }
}

function close(player) {
  player.pause();
  for (const track of player.srcObject?.getTracks() ?? []) track.stop();
  if (player.src) URL.revokeObjectURL(player.src);
  player.removeAttribute("src");
  player.srcObject = null;
  player.load(); // forgets what it had
}

function halt() {
  if (moving) moving.stop = true;
  close(at("player"));
  at("stop").hidden = true;
}

/** Frames of a camera or a video, each painted when its sky is known; the newest one next. */
async function play(name, open) {
  halt();
  const [player, own, its] = [at("player"), { stop: false }, (films += 1)];
  moving = own;
  try {
    await open(player);
    await player.play();
    at("stop").hidden = false;
    let [frames, begun] = [0, performance.now()];
    while (!own.stop && !player.ended) {
      const scale = Math.min(1, settings.liveSide / Math.max(player.videoWidth, player.videoHeight));
      const [width, height] = [player.videoWidth, player.videoHeight].map((side) => Math.round(side * scale));
      const img = pixelsOf(player, width, height);
      shown = { name, img, code: 1, ...(await ask(await createImageBitmap(img), options(its))) };
      if (own.stop) break;
      paint();
      frames += 1;
      say(`${name}: ${((1000 * frames) / (performance.now() - begun)).toFixed(1)} masks a second`);
      if (frames === 30) [frames, begun] = [0, performance.now()];
      await new Promise(requestAnimationFrame);
    }
  } catch (error) {
    if (!own.stop) say(error.name === "NotAllowedError" ? "The camera is not permitted; allow it in the address bar" : error.message, true);
  } finally {
    if (moving === own) halt();
  }
}

function take(list) {
  const files = [...(list ?? [])].filter((file) => file.size);
  if (!files.length || !settings) return;
  halt();
  at("film").hidden = true;
  const photos = files.filter((file) => file.type.startsWith("image/"));
  if (photos.length > 1) manyPhotos(photos);
  else if (photos.length) showPhoto(photos[0]);
  else if (files[0].type.startsWith("video/")) playFile(files[0]);
  else say("No photos among these", true);
}

function playFile(file) {
  film = file;
  at("film").hidden = false;
  return play(file.name, async (player) => { player.src = URL.createObjectURL(file); });
}

function save(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

async function saveShown(kind) {
  const { prob, height, width, name } = shown;
  const stem = name.replace(/\.[^.]*$/, "");
  if (kind === "overlay") return at("picture").toBlob((blob) => save(blob, `${stem}_${at("view").value}.png`));
  const data = { mask: () => maskOf(shown, Number(at("threshold").value))[0],
    alpha: () => Uint8Array.from(prob, (p) => Math.round(p * 255)), cutout: () => cutoutOf(shown) }[kind]();
  return save(await png(data, height, width, kind === "cutout" ? 4 : 1, settings.mark), `${stem}_${kind}.png`);
}

let asked = 0;
/** A knob of the model was turned: the picture that is shown is answered anew. */
async function again(event) {
  at("threshold-said").textContent = at("threshold").value;
  at("opacity-said").textContent = at("opacity").value;
  if (!shown || waiting.size) return;
  const mine = (asked += 1);
  const known = event.target.id !== "twice";
  if (["threshold", "follow", "twice"].includes(event.target.id)) {
    const bitmap = known ? null : await createImageBitmap(shown.img);
    const answer = await ask(bitmap, options());
    if (mine !== asked) return;
    Object.assign(shown, answer);
    say(`${shown.name}. ${verdict(shown, maskOf(shown, Number(at("threshold").value))[1])}`);
  }
  paint();
}

function listen() {
  const buttons = { choose: "photos", folder: "folders", video: "videos" };
  for (const [button, input] of Object.entries(buttons)) {
    at(button).addEventListener("click", () => at(input).click());
    at(input).addEventListener("change", () => {
      take(at(input).files);
      at(input).value = "";
    });
  }
  at("camera").addEventListener("click", () => play("camera", async (player) => {
    player.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  }));
  at("stop").addEventListener("click", halt);
  at("frames").addEventListener("click", filmMasks);
  at("zip").addEventListener("click", async () => save(await zip(results), "masks.zip"));
  for (const button of document.querySelectorAll("[data-save]")) {
    button.addEventListener("click", () => saveShown(button.dataset.save));
  }
  at("knobs").addEventListener("input", again);
  document.addEventListener("paste", (event) => take(event.clipboardData.files));
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault(); // else the browser opens the file in place of the page
      document.body.classList.toggle("over", kind === "dragover");
      if (kind === "drop") take(event.dataTransfer.files);
    });
  }
}

try {
  await prepare();
  const begun = performance.now();
  const ready = await start();
  settings = ready.settings;
  at("threshold").value = settings.card.threshold;
  at("colour").value = settings.colour;
  at("layout").append(...Object.keys(settings.layouts).map((name) => new Option(name, name)));
  again({ target: at("threshold") });
  tell(ready.engine);
  listen();
  say(`Ready after ${((performance.now() - begun) / 1000).toFixed(1)} s. Choose photos, or drop some here.`);
  document.body.dataset.ready = "yes";
} catch (error) {
  say(`The model cannot be loaded: ${error.message}. Reload the page, in a browser of today.`, true);
}
