// The model and everything slow, beside the page: a picture comes in, the probability of sky per pixel goes back.
import { dropUnsure, modelShape, resizeLinear, secondLook, shrink, upsampleGuided } from "./maths.js";
import { evenOut } from "./even.js";
import { TemporalFilter } from "./smooth.js";

let ort, session, settings, kind, last, filter;
let engine; // what computes, in words

/** Opens the model on "webgpu" or "wasm", with the runtime that is made for it. */
async function load(wanted, why = "") {
  const [code, wasm] = settings.runtimes[wanted];
  ort = await import(`./runtime/${code}`);
  const threads = self.crossOriginIsolated ? Math.min(8, navigator.hardwareConcurrency) : 1;
  ort.env.wasm.wasmPaths = { wasm: new URL(`runtime/${wasm}`, import.meta.url).href };
  ort.env.wasm.numThreads = threads;
  const model = await (await fetch(settings.card.file)).arrayBuffer();
  session = await ort.InferenceSession.create(model, { executionProviders: [wanted], logSeverityLevel: 3 });
  kind = wanted;
  engine = kind === "webgpu" ? "computed by WebGPU" : `computed by WASM, ${threads} thread${threads > 1 ? "s" : ""}${why}`;
}

/** Why WebGPU does not compute: nothing where it does. A GPU that a processor plays is slower than WASM. */
async function withoutGpu(wish) {
  if (wish === "wasm") return " (as asked for)";
  const adapter = await navigator.gpu?.requestAdapter();
  if (!adapter) return " (no WebGPU here)";
  return adapter.info.isFallbackAdapter && wish !== "webgpu" ? " (no GPU here)" : "";
}

async function open() {
  settings = await (await fetch("settings.json")).json();
  const why = await withoutGpu(new URL(self.location.href).searchParams.get("compute"));
  if (why) return load("wasm", why);
  try {
    await load("webgpu");
    const seen = await run(new Uint8Array(96 * 128 * 3).map((_, k) => k % 251), 96, 128);
    if (!seen.every((p) => p >= 0 && p <= 1)) throw new Error("its answer is no probability");
  } catch (error) {
    console.warn(`WebGPU: ${error.message}`);
    await load("wasm", " (WebGPU failed)");
  }
}

async function run(img, h, w) {
  const input = new ort.Tensor("uint8", img, [1, h, w, 3]);
  const answer = await session.run({ [session.inputNames[0]]: input });
  return answer[session.outputNames[0]].data;
}

async function look(img, h, w) {
  try {
    return await run(img, h, w);
  } catch (error) {
    if (kind === "wasm") throw error;
    console.warn(`WebGPU: ${error.message}`); // a GPU may be taken away at any time
    await load("wasm", " (WebGPU failed)");
    return run(img, h, w);
  }
}

/** The pixels of a bitmap, transparent ones on black: RGB. */
function pixels(bitmap) {
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { alpha: false, willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const img = new Uint8Array(height * width * 3);
  for (let k = 0, at = 0, to = 0; k < height * width; k += 1, at += 4) {
    img[to++] = data[at];
    img[to++] = data[at + 1];
    img[to++] = data[at + 2];
  }
  return img;
}

/** The model's own answer: one look at the whole, a second one along the edge, as `skysky.Segmenter` does. */
async function infer(img, H, W, size, whole) {
  const [h, w] = modelShape(H, W, Math.max(whole, Math.min(size, Math.max(H, W))));
  const small = shrink(img, H, W, h, w);
  const [h1, w1] = modelShape(h, w, whole);
  const seen = shrink(small, h, w, h1, w1);
  const prob = evenOut(await look(seen, h1, w1), h1, w1, seen, settings.even);
  if (h1 === h && w1 === w) return { prob, small, h, w };
  return { prob: await secondLook(prob, h1, w1, small, h, w, look), small, h, w };
}

function enlarge({ prob, small, h, w, img, H, W }, { threshold, follow }) {
  const sure = dropUnsure(prob, h, w, threshold, settings.card.sure, settings.minSky);
  const some = sure.some((p) => p >= threshold);
  if (!follow || !some) return resizeLinear(sure, h, w, H, W);
  return upsampleGuided(sure, h, w, img, H, W, settings.radius, settings.eps, small);
}

/** The answer to a frame, blended with those before of the same film; a photo has no `film`. */
function smoothed({ prob, small, h, w }, { film, smooth }) {
  if (!film || !smooth) filter = null;
  else if (filter?.film !== film) {
    const { strength, change, cut } = settings.smoothing;
    filter = Object.assign(new TemporalFilter(strength, change, cut), { film });
  }
  return filter ? filter.next(prob, small, h, w) : prob;
}

async function work({ bitmap, options }) {
  if (bitmap) {
    const [img, H, W] = [pixels(bitmap), bitmap.height, bitmap.width];
    bitmap.close();
    last = { ...(await infer(img, H, W, options.size, options.whole)), img, H, W };
    last.prob = smoothed(last, options);
  }
  const prob = enlarge(last, options);
  return [{ prob, height: last.H, width: last.W }, [prob.buffer]];
}

const opened = open();
opened.then(
  () => self.postMessage({ ready: { settings, engine } }),
  (error) => self.postMessage({ broken: error.message }),
);

async function reply(before, data) {
  await before;
  const start = performance.now();
  try {
    const [result, moved] = await work(data);
    self.postMessage({ id: data.id, ...result, engine, ms: performance.now() - start }, moved);
  } catch (error) {
    self.postMessage({ id: data.id, error: error.message });
  }
}

let turn = opened; // one picture after the other
self.addEventListener("message", ({ data }) => {
  turn = reply(turn, data);
});
