// Smoothing in time: `skysky.refine.TemporalFilter` in a browser, for frames given one after the other.
// Planes are arrays of height × width, row by row. tests/test_web.py runs both on the same frames.
import { box, bytes, mirrored, resizeArea } from "./maths.js";

const TINY = 2 ** -23; // FLT_EPSILON
const REDUCED = 4; // motion and cuts are looked for at a fraction of the model's size

/** A plane moved by dx to the right and dy down, px; the border repeats the edge. */
function moved(plane, h, w, dx, dy) {
  const out = new Float32Array(h * w);
  const between = (i, n) => {
    const at = Math.min(Math.max(i, 0), n - 1);
    const first = Math.min(Math.floor(at), n - 2);
    return [first, at - first];
  };
  const columns = Array.from({ length: w }, (_, x) => between(x - dx, w));
  for (let y = 0, to = 0; y < h; y += 1) {
    const [row, down] = between(y - dy, h);
    for (const [column, right] of columns) {
      const at = row * w + column;
      const upper = plane[at] + right * (plane[at + 1] - plane[at]);
      const lower = plane[at + w] + right * (plane[at + w + 1] - plane[at + w]);
      out[to++] = upper + down * (lower - upper);
    }
  }
  return out;
}

/** The next size that has no prime factor above 5, as OpenCV pads a plane before it transforms it. */
function padded(n) {
  let rest = n;
  for (const factor of [2, 3, 5]) while (rest % factor === 0) rest /= factor;
  return rest === 1 ? n : padded(n + 1);
}

/** Fourier's transform, in place, of `lines` lines of n numbers; sign 1 is the inverse, not divided by n. */
function transform([re, im], lines, stride, n, step, sign) {
  const [cos, sin] = [Math.cos, Math.sin].map((f) => Float64Array.from({ length: n }, (_, k) => f((2 * Math.PI * k) / n)));
  const [outRe, outIm] = [new Float64Array(n), new Float64Array(n)];
  for (let line = 0; line < lines; line += 1) {
    for (let f = 0; f < n; f += 1) {
      let [a, b, turn] = [0, 0, 0];
      for (let t = 0, at = line * stride; t < n; t += 1, at += step) {
        const [c, s] = [cos[turn], sign * sin[turn]];
        a += re[at] * c - im[at] * s;
        b += re[at] * s + im[at] * c;
        turn = turn + f < n ? turn + f : turn + f - n;
      }
      outRe[f] = a;
      outIm[f] = b;
    }
    for (let t = 0, at = line * stride; t < n; t += 1, at += step) [re[at], im[at]] = [outRe[t], outIm[t]];
  }
}

/** The spectrum of a plane that fades out to its border: [real, imaginary] of H × W. */
function spectrum(plane, h, w, H, W) {
  const hann = (n) => Float64Array.from({ length: n }, (_, i) => Math.sin((Math.PI * i) / (n - 1))); // its root
  const [rows, columns] = [hann(h), hann(w)];
  const planes = [new Float64Array(H * W), new Float64Array(H * W)];
  for (let y = 0; y < h; y += 1) for (let x = 0; x < w; x += 1) planes[0][y * W + x] = plane[y * w + x] * rows[y] * columns[x];
  transform(planes, h, W, W, 1, -1);
  transform(planes, W, 1, H, W, -1);
  return planes;
}

/** How the picture moved, px to the right and down, by phase correlation; not at all where that brings nothing closer. */
function motion(before, now, h, w) {
  const [H, W] = [padded(h), padded(w)];
  const [[a, b], [c, d]] = [spectrum(before, h, w, H, W), spectrum(now, h, w, H, W)];
  const cross = [a.map((re, k) => re * c[k] + b[k] * d[k]), a.map((re, k) => b[k] * c[k] - re * d[k])];
  const factor = cross[0].map((re, k) => Math.hypot(re, cross[1][k]) / (re ** 2 + cross[1][k] ** 2 + TINY));
  for (const part of cross) part.forEach((value, k) => { part[k] = value * factor[k]; });
  for (const k of [0, W / 2, (H / 2) * W, (H / 2) * W + W / 2]) cross[0][k] = 1; // the real ones, as in OpenCV
  transform(cross, H, W, W, 1, 1);
  transform(cross, W, 1, H, W, 1);
  const [midY, midX] = [Math.floor(H / 2), Math.floor(W / 2)];
  const at = (y, x) => cross[0][((y + H - midY) % H) * W + ((x + W - midX) % W)]; // no motion lies in the middle
  let [top, left] = [0, 0];
  for (let y = 0; y < H; y += 1) for (let x = 0; x < W; x += 1) if (at(y, x) > at(top, left)) [top, left] = [y, x];
  let [sum, sumX, sumY] = [0, 0, 0];
  for (let y = Math.max(0, top - 2); y <= Math.min(H - 1, top + 2); y += 1) {
    for (let x = Math.max(0, left - 2); x <= Math.min(W - 1, left + 2); x += 1) {
      sum += at(y, x);
      sumX += x * at(y, x);
      sumY += y * at(y, x);
    }
  }
  const [dx, dy] = [W / 2 - sumX / sum, H / 2 - sumY / sum];
  if (!Number.isFinite(dx + dy)) return [0, 0];
  const apart = (plane) => plane.reduce((total, value, k) => total + Math.abs(value - now[k]), 0);
  return apart(moved(before, h, w, dx, dy)) < apart(before) ? [dx, dy] : [0, 0];
}

/** Whether two frames, moved onto each other, show different scenes. */
function isCut(before, now, h, w, least) {
  const [a, b] = [before, now].map((plane) => {
    const low = box(plane, h, w, 10, mirrored);
    const rest = plane.map((value, k) => value - low[k]);
    const mean = rest.reduce((sum, value) => sum + value, 0) / rest.length;
    return rest.map((value) => value - mean);
  });
  const product = (p, q) => p.reduce((sum, value, k) => sum + value * q[k], 0);
  const [aa, bb] = [product(a, a), product(b, b)];
  return Math.sqrt(Math.min(aa, bb) / a.length) > 1 && product(a, b) / Math.sqrt(aa * bb) < least;
}

/** Smooths a model's answers to frames; `change` and `cut` as in Python. */
export class TemporalFilter {
  constructor(strength, change, cut) {
    this.share = Float32Array.from({ length: 256 }, (_, i) => strength * Math.exp(-((i / change) ** 2)));
    this.cut = cut;
    this.last = null;
  }

  /** The answer to the next frame, blended with those before; `img` is the frame in RGB, at the same size. */
  next(prob, img, h, w) {
    const grey = Float32Array.from({ length: h * w }, (_, k) =>
      (9798 * img[3 * k] + 19235 * img[3 * k + 1] + 3735 * img[3 * k + 2] + 16384) >> 15);
    const guide = bytes(box(grey, h, w, 2, mirrored));
    const [h4, w4] = [h / REDUCED, w / REDUCED]; // whole: sides are multiples of the stride
    const coarse = Float32Array.from(bytes(resizeArea(guide, h, w, h4, w4, 1)));
    const { last } = this;
    if (last && last.h === h && last.w === w) {
      const [dx, dy] = motion(last.coarse, coarse, h4, w4);
      if (!isCut(moved(last.coarse, h4, w4, dx, dy), coarse, h4, w4, this.cut)) {
        const [before, was] = [last.prob, last.guide].map((plane) => moved(plane, h, w, REDUCED * dx, REDUCED * dy));
        prob = prob.map((p, k) => p + this.share[Math.abs(guide[k] - Math.round(was[k]))] * (before[k] - p));
      }
    }
    this.last = { prob, guide, coarse, h, w };
    return prob;
  }
}
