// Where the model is not sure, the flat region round it answers: the sums of skysky.segment's `even_out`.
import { resizeArea, resizeLinear, shrink } from "./maths.js";

/** n lines of m cells with c values each, `step` apart from cell to cell and `line` from line to line: each value drawn to
 * its own and to its neighbours', in place. `hold` is how firmly each holds to the next one. */
function drawTogether(x, hold, m, step, n, line, c) {
  const own = new Float32Array(m);
  for (let k = 0; k < n; k += 1) {
    const at = (i) => (k * line + i * step) * c;
    for (let i = 0; i < m; i += 1) {
      own[i] = 1 + (i ? hold[k * line + (i - 1) * step] : 0) + (i < m - 1 ? hold[k * line + i * step] : 0);
      if (!i) continue;
      const [before, share] = [hold[k * line + (i - 1) * step], hold[k * line + (i - 1) * step] / own[i - 1]];
      own[i] -= share * before;
      for (let j = 0; j < c; j += 1) x[at(i) + j] += share * x[at(i - 1) + j];
    }
    for (let i = m - 1; i >= 0; i -= 1) {
      for (let j = 0; j < c; j += 1) {
        if (i < m - 1) x[at(i) + j] += hold[k * line + i * step] * x[at(i + 1) + j];
        x[at(i) + j] /= own[i];
      }
    }
  }
}

/** What the colours round pixel k differ by at most, of 255. */
function among(img, H, W, k) {
  const [y, x] = [Math.floor(k / W), k % W];
  let most = 0;
  for (let c = 0; c < 3; c += 1) {
    let [low, high] = [255, 0];
    for (let i = Math.max(0, y - 1); i <= Math.min(H - 1, y + 1); i += 1) {
      for (let j = Math.max(0, x - 1); j <= Math.min(W - 1, x + 1); j += 1) {
        const value = img[3 * (i * W + j) + c];
        [low, high] = [Math.min(low, value), Math.max(high, value)];
      }
    }
    most = Math.max(most, high - low);
  }
  return most;
}

/** Lets the flat region round it answer where the model is not sure: `even_out` of skysky.segment. */
export function evenOut(prob, h, w, img, { size, hold, step, edge }) {
  const scale = Math.min(1, size / Math.max(h, w));
  const [H, W] = [h, w].map((n) => Math.max(1, Math.round(n * scale)));
  const p = resizeArea(prob, h, w, H, W, 1).map((v) => Math.min(Math.max(v, 1e-3), 1 - 1e-3));
  const logit = p.map((v) => Math.log(v / (1 - v)));
  const sure = p.map((v) => (2 * v - 1) ** 2);
  const x = new Float32Array(H * W * 2);
  for (let k = 0; k < H * W; k += 1) {
    x[2 * k + 1] = sure[k] + 1e-3;
    x[2 * k] = x[2 * k + 1] * logit[k];
  }
  const guide = shrink(img, h, w, H, W);
  const holds = (far) => p.map((_, k) => {
    let most = 0;
    for (let c = 0; c < 3; c += 1) most = Math.max(most, Math.abs(guide[3 * (k + far) + c] - guide[3 * k + c]));
    return hold * Math.exp(-most / 255 / step);
  });
  drawTogether(x, holds(1), W, 1, H, W, 2);
  drawTogether(x, holds(W), H, W, W, 1, 2);
  const odds = p.map((_, k) => {
    const doubt = (1 - sure[k]) * Math.exp(-among(guide, H, W, k) / 255 / edge);
    return Math.exp(doubt * (logit[k] - x[2 * k] / x[2 * k + 1]));
  });
  const fine = resizeLinear(odds, H, W, h, w);
  return prob.map((v, k) => v / (v + (1 - v) * fine[k]));
}
