// From what the model says of a small picture to a mask that follows the edges of the large one: `skysky.refine` and
// `skysky.segment` in a browser. tests/test_web.py runs both on the same arrays.
// Pictures are Uint8Array of height × width × 3, planes Float32Array of height × width, everything row by row.

export const STRIDE = 32;
const FIT_NOISE = 1e-4;
const BAND_ROWS = 32;
const [TILE, MARGIN, BAND] = [96, 32, 0.02];

/** The shape in which a picture is fed to a model: longer side `size`, both multiples of STRIDE. */
export function modelShape(height, width, size) {
  const scale = size / Math.max(height, width);
  return [height, width].map((side) => Math.max(STRIDE, Math.round((side * scale) / STRIDE) * STRIDE));
}

/** For each of n cells: from which of N cells it takes how much, as OpenCV's INTER_AREA. */
function areaTable(N, n) {
  const scale = N / n;
  return Array.from({ length: n }, (_, i) => {
    const [from, to] = [i * scale, Math.min(N, (i + 1) * scale)];
    const taps = [];
    for (let at = Math.floor(from + 1e-3); at < to - 1e-3; at += 1) {
      taps.push([at, (Math.min(to, at + 1) - Math.max(from, at)) / (to - from)]);
    }
    return taps;
  });
}

export function resizeArea(src, H, W, h, w, channels) {
  const [rows, columns] = [areaTable(H, h), areaTable(W, w)];
  const out = new Float32Array(h * w * channels);
  const sum = new Float32Array(w * channels);
  for (let y = 0; y < h; y += 1) {
    sum.fill(0);
    for (const [sy, beta] of rows[y]) {
      for (let x = 0; x < w; x += 1) {
        for (const [sx, alpha] of columns[x]) {
          const at = (sy * W + sx) * channels;
          for (let c = 0; c < channels; c += 1) sum[x * channels + c] += beta * alpha * src[at + c];
        }
      }
    }
    out.set(sum, y * w * channels);
  }
  return out;
}

/** For each of n cells: the first of two of N cells it lies between, and the share of the second. */
function linearTable(N, n) {
  const [first, share] = [new Int32Array(n), new Float32Array(n)];
  for (let i = 0; i < n; i += 1) {
    const at = Math.min(Math.max(((i + 0.5) * N) / n - 0.5, 0), N - 1);
    first[i] = Math.min(Math.floor(at), Math.max(N - 2, 0));
    share[i] = at - first[i];
  }
  return [first, share];
}

export function resizeLinear(src, H, W, h, w, channels = 1) {
  const [[top, down], [left, right]] = [linearTable(H, h), linearTable(W, w)];
  const [out, below, beside] = [new Float32Array(h * w * channels), H > 1 ? W * channels : 0, W > 1 ? channels : 0];
  for (let y = 0, to = 0; y < h; y += 1) {
    for (let x = 0; x < w; x += 1) {
      for (let c = 0; c < channels; c += 1, to += 1) {
        const at = (top[y] * W + left[x]) * channels + c;
        const upper = src[at] + right[x] * (src[at + beside] - src[at]);
        const lower = src[at + below] + right[x] * (src[at + below + beside] - src[at + below]);
        out[to] = upper + down[y] * (lower - upper);
      }
    }
  }
  return out;
}

/** Rounded to 0..255. */
export function bytes(values) {
  const out = new Uint8Array(values.length);
  for (let i = 0; i < out.length; i += 1) out[i] = Math.min(255, Math.max(0, Math.round(values[i])));
  return out;
}

function halved(img, H, W) {
  const [h, w] = [H / 2, W / 2];
  const out = new Uint8Array(h * w * 3);
  for (let y = 0, to = 0; y < h; y += 1) {
    for (let x = 0; x < w; x += 1) {
      const at = (2 * y * W + 2 * x) * 3;
      for (let c = 0; c < 3; c += 1, to += 1) {
        out[to] = (img[at + c] + img[at + 3 + c] + img[at + 3 * W + c] + img[at + 3 * W + 3 + c] + 2) >> 2;
      }
    }
  }
  return out;
}

/** A picture scaled: down by averages, up by straight lines. */
export function shrink(img, H, W, h, w) {
  const down = h * w < H * W;
  while (H % 2 === 0 && W % 2 === 0 && H >= 2 * h && W >= 2 * w) {
    img = halved(img, H, W);
    [H, W] = [H / 2, W / 2];
  }
  if (H === h && W === w) return img;
  return bytes(down && H >= h && W >= w ? resizeArea(img, H, W, h, w, 3) : resizeLinear(img, H, W, h, w, 3));
}

/** Index outside of 0..n-1 reflected at the edge: -1 is 0, n is n - 1. */
function reflected(i, n) {
  while (i < 0 || i >= n) i = i < 0 ? -1 - i : 2 * n - 1 - i;
  return i;
}

/** The same with the edge itself not repeated: -1 is 1, n is n - 2. */
export function mirrored(i, n) {
  if (n === 1) return 0;
  const at = Math.abs(i) % (2 * n - 2);
  return at < n ? at : 2 * n - 2 - at;
}

/** Mean over a square window of 2·radius + 1; `outside` says which index stands for one beyond the edge. */
export function box(src, h, w, radius, outside = reflected) {
  const [mid, out, n] = [new Float32Array(h * w), new Float32Array(h * w), 2 * radius + 1];
  const columns = Int32Array.from({ length: w + 2 * radius }, (_, x) => outside(x - radius, w));
  for (let y = 0, to = 0; y < h; y += 1) {
    for (let x = 0; x < w; x += 1, to += 1) {
      let sum = 0;
      for (let d = 0; d < n; d += 1) sum += src[y * w + columns[x + d]];
      mid[to] = sum / n;
    }
  }
  for (let y = 0; y < h; y += 1) {
    const rows = Array.from({ length: n }, (_, d) => outside(y + d - radius, h) * w);
    for (let x = 0; x < w; x += 1) {
      let sum = 0;
      for (const row of rows) sum += mid[row + x];
      out[y * w + x] = sum / n;
    }
  }
  return out;
}

/** The largest and the smallest value within `radius` along lines of `count` values that lie `step` apart. */
function extremes(tops, bottoms, radius, lines, stride, count, step) {
  const [high, low] = [new Float32Array(tops.length), new Float32Array(tops.length)];
  for (let line = 0; line < lines; line += 1) {
    for (let i = 0; i < count; i += 1) {
      const at = line * stride;
      let [most, least] = [tops[at + i * step], bottoms[at + i * step]];
      for (let d = Math.max(0, i - radius); d <= Math.min(count - 1, i + radius); d += 1) {
        const k = at + d * step;
        if (tops[k] > most) most = tops[k];
        if (bottoms[k] < least) least = bottoms[k];
      }
      high[at + i * step] = most;
      low[at + i * step] = least;
    }
  }
  return [high, low];
}

/** 0..1: how near an edge of the model's answer is; 0 where it is flat all around. */
export function edgeOf(prob, h, w, radius) {
  const rows = extremes(prob, prob, 2 * radius, h, w, w, 1);
  const [high, low] = extremes(...rows, 2 * radius, w, 1, h, w);
  return box(high.map((value, i) => Math.min(1, Math.max(0, 4 * (value - low[i]) - 0.2))), h, w, 1);
}

/** Planes a_r, a_g, a_b, b of p ≈ a·I + b in the window round each pixel, and the variance they leave unexplained. */
function fitPlanes(prob, guide, h, w, radius, eps) {
  const mean = (values) => box(values, h, w, radius);
  const times = (a, b) => a.map((value, i) => value * b[i]);
  const p = mean(prob);
  const m = guide.map(mean);
  const square = mean(times(prob, prob));
  const cross = guide.map((c) => mean(times(c, prob)));
  const pairs = [[0, 0], [0, 1], [0, 2], [1, 1], [1, 2], [2, 2]];
  const second = pairs.map(([i, j]) => mean(times(guide[i], guide[j])));
  const planes = Array.from({ length: 5 }, () => new Float32Array(h * w));
  const [[mr, mg, mb], [cr, cg, cb], [srr, srg, srb, sgg, sgb, sbb]] = [m, cross, second];
  for (let k = 0; k < h * w; k += 1) {
    const rr = srr[k] - mr[k] * mr[k] + eps;
    const gg = sgg[k] - mg[k] * mg[k] + eps;
    const bb = sbb[k] - mb[k] * mb[k] + eps;
    const rg = srg[k] - mr[k] * mg[k];
    const rb = srb[k] - mr[k] * mb[k];
    const gb = sgb[k] - mg[k] * mb[k];
    const r = cr[k] - mr[k] * p[k];
    const g = cg[k] - mg[k] * p[k];
    const b = cb[k] - mb[k] * p[k];
    const irr = gg * bb - gb * gb;
    const irg = gb * rb - rg * bb;
    const irb = rg * gb - gg * rb;
    const igb = rg * rb - rr * gb;
    const det = rr * irr + rg * irg + rb * irb;
    const ar = (irr * r + irg * g + irb * b) / det;
    const ag = (irg * r + (rr * bb - rb * rb) * g + igb * b) / det;
    const ab = (irb * r + igb * g + (rr * gg - rg * rg) * b) / det;
    planes[0][k] = ar;
    planes[1][k] = ag;
    planes[2][k] = ab;
    planes[3][k] = p[k] - ar * mr[k] - ag * mg[k] - ab * mb[k];
    planes[4][k] = Math.max(0, square[k] - p[k] * p[k] - ar * r - ag * g - ab * b);
  }
  return planes;
}

function part(plane, w, top, bottom, left, right) {
  const out = new Float32Array((bottom - top) * (right - left));
  for (let y = top; y < bottom; y += 1) out.set(plane.subarray(y * w + left, y * w + right), (y - top) * (right - left));
  return out;
}

/** The planes to apply to the full picture, a band of rows after the other, where there is an edge. */
function coefficients(prob, guide, edge, h, w, radius, eps) {
  const planes = [0, 1, 2, 3].map((i) => (i < 3 ? new Float32Array(h * w) : prob.map((p, k) => (1 - edge[k]) * p)));
  const margin = 2 * radius;
  for (let y0 = 0; y0 < h; y0 += BAND_ROWS) {
    const y1 = Math.min(y0 + BAND_ROWS, h);
    let [x0, x1] = [w, 0];
    for (let y = y0; y < y1; y += 1) {
      for (let x = 0; x < w; x += 1) {
        if (edge[y * w + x] > 0) [x0, x1] = [Math.min(x0, x), Math.max(x1, x + 1)];
      }
    }
    if (x0 >= x1) continue;
    const [top, bottom] = [Math.max(y0 - margin, 0), Math.min(y1 + margin, h)];
    const [left, right] = [Math.max(x0 - margin, 0), Math.min(x1 + margin, w)];
    const [ph, pw] = [bottom - top, right - left];
    const cut = (plane) => part(plane, w, top, bottom, left, right);
    const fit = fitPlanes(cut(prob), guide.map(cut), ph, pw, radius, eps);
    const weight = fit[4].map((left_) => 1 / (left_ + FIT_NOISE));
    const total = box(weight, ph, pw, radius);
    for (let i = 0; i < 4; i += 1) {
      const mixed = box(fit[i].map((value, k) => value * weight[k]), ph, pw, radius);
      for (let y = y0; y < y1; y += 1) {
        for (let x = x0; x < x1; x += 1) {
          const k = (y - top) * pw + x - left;
          planes[i][y * w + x] += (edge[y * w + x] / total[k]) * mixed[k];
        }
      }
    }
  }
  return planes;
}

/** `prob` at the size of the picture, along the picture's edges. `small` is the picture at the size of `prob`. */
export function upsampleGuided(prob, h, w, img, H, W, radius, eps = 1e-4, small = null) {
  const [h2, w2] = [Math.min(h, Math.ceil(H / 2)), Math.min(w, Math.ceil(W / 2))];
  if (h !== h2 || w !== w2) {
    prob = resizeArea(prob, h, w, h2, w2, 1);
    [h, w, small] = [h2, w2, null];
  }
  small ??= shrink(img, H, W, h, w);
  const guide = [0, 1, 2].map((c) => Float32Array.from({ length: h * w }, (_, k) => small[3 * k + c] / 255));
  const edge = edgeOf(prob, h, w, radius);
  const planes = coefficients(prob, guide, edge, h, w, radius, eps);
  const [[tops, downs], [lefts, rights]] = [linearTable(h, H), linearTable(w, W)];
  const [below, beside] = [h > 1 ? w : 0, w > 1 ? 1 : 0];
  const out = new Float32Array(H * W);
  for (let y = 0, to = 0; y < H; y += 1) {
    const down = downs[y];
    for (let x = 0; x < W; x += 1, to += 1) {
      const [k, right] = [tops[y] * w + lefts[x], rights[x]];
      const mix = (plane) => {
        const upper = plane[k] + right * (plane[k + beside] - plane[k]);
        const lower = plane[k + below] + right * (plane[k + below + beside] - plane[k + below]);
        return upper + down * (lower - upper);
      };
      if (edge[k] + edge[k + beside] + edge[k + below] + edge[k + below + beside] > 0) {
        const at = 3 * to;
        const value = (mix(planes[0]) * img[at] + mix(planes[1]) * img[at + 1] + mix(planes[2]) * img[at + 2]) / 255;
        out[to] = Math.min(1, Math.max(0, value + mix(planes[3])));
      } else out[to] = mix(prob);
    }
  }
  return out;
}

/** Regions of sky in which no pixel is sure are folded to below the threshold; all, if next to nothing remains. */
export function dropUnsure(prob, h, w, threshold, sure, minSky) {
  const label = new Int32Array(h * w);
  const [kept, area, stack] = [[false], [0], []];
  for (let start = 0; start < h * w; start += 1) {
    if (label[start] || prob[start] < threshold) continue;
    const name = kept.length;
    kept.push(false);
    area.push(0);
    stack.push(start);
    label[start] = name;
    while (stack.length) {
      const k = stack.pop();
      const x = k % w;
      area[name] += 1;
      if (prob[k] >= Math.max(sure, threshold)) kept[name] = true;
      for (const n of [x > 0 ? k - 1 : -1, x < w - 1 ? k + 1 : -1, k - w, k + w]) {
        if (n >= 0 && n < h * w && !label[n] && prob[n] >= threshold) {
          label[n] = name;
          stack.push(n);
        }
      }
    }
  }
  const sky = area.reduce((sum, n, i) => sum + (kept[i] ? n : 0), 0);
  if (sky < minSky * h * w) kept.fill(false);
  const below = threshold * (1 - 1e-6);
  const fold = (p) => Math.min((threshold * (1 - p)) / Math.max(1 - threshold, 1e-6), below);
  return prob.map((p, k) => (label[k] && !kept[label[k]] ? fold(p) : p));
}

/** Distance to the nearest 0 of a mask, by OpenCV's 3 × 3 steps. */
function distance(mask, h, w) {
  const [straight, slant, far] = [0.955, 1.3693, 1e6];
  const d = new Float32Array((h + 2) * (w + 2)).fill(far);
  const W = w + 2;
  const visit = (y, x, ahead) => {
    const k = (y + 1) * W + x + 1;
    if (!mask[y * w + x]) {
      d[k] = 0;
      return;
    }
    const before = Math.min(d[k - ahead], d[k - ahead * W]) + straight;
    const across = Math.min(d[k - ahead * (W - 1)], d[k - ahead * (W + 1)]) + slant;
    d[k] = Math.min(d[k], before, across);
  };
  for (let y = 0; y < h; y += 1) for (let x = 0; x < w; x += 1) visit(y, x, 1);
  for (let y = h - 1; y >= 0; y -= 1) for (let x = w - 1; x >= 0; x -= 1) visit(y, x, -1);
  return part(d, W, 1, h + 1, 1, w + 1);
}

/** How much the second look counts, 0..1: 1 near the edge of the sky. */
export function edgeBand(large, H, W) {
  const sky = Uint8Array.from(large, (p) => p >= 0.5);
  const count = sky.reduce((sum, s) => sum + s, 0);
  if (!count || count === H * W) return new Float32Array(H * W);
  const radius = Math.max(2, Math.round(BAND * Math.max(H, W)));
  const [inside, outside] = [distance(sky, H, W), distance(sky.map((s) => 1 - s), H, W)];
  return inside.map((d, k) => Math.min(1, Math.max(0, 2 - (2 * Math.max(d, outside[k])) / radius)));
}

/** Runs of tiles that have a part in the band: top, left, right. */
export function edgeStrips(band, H, W) {
  const strips = [];
  for (let top = 0; top < H; top += TILE) {
    let left = -1;
    for (let x = 0; x < W + TILE; x += TILE) {
      let any = false;
      for (let y = top; y < Math.min(top + TILE, H) && !any; y += 1) {
        for (let i = x; i < Math.min(x + TILE, W) && !any; i += 1) any = band[y * W + i] > 0;
      }
      if (any && left < 0) left = x;
      if (!any && left >= 0) {
        strips.push([top, left, x]);
        left = -1;
      }
    }
  }
  return strips;
}

/** The whole view's answer, its edge drawn anew from strips of the larger picture. `look(img, h, w)` is the model. */
export async function secondLook(prob, h, w, img, H, W, look) {
  const large = resizeLinear(prob, h, w, H, W);
  const band = edgeBand(large, H, W);
  const fine = large.slice();
  for (const [top, left, right] of edgeStrips(band, H, W)) {
    const [sh, sw] = [TILE + 2 * MARGIN, right - left + 2 * MARGIN];
    const strip = new Uint8Array(sh * sw * 3);
    const columns = Int32Array.from({ length: sw }, (_, x) => mirrored(left + x - MARGIN, W));
    for (let y = 0, to = 0; y < sh; y += 1) {
      const row = mirrored(top + y - MARGIN, H) * W;
      for (let x = 0; x < sw; x += 1, to += 3) {
        const at = 3 * (row + columns[x]);
        strip[to] = img[at];
        strip[to + 1] = img[at + 1];
        strip[to + 2] = img[at + 2];
      }
    }
    const seen = await look(strip, sh, sw);
    for (let y = top; y < Math.min(top + TILE, H); y += 1) {
      for (let x = left; x < Math.min(right, W); x += 1) {
        fine[y * W + x] = seen[(y - top + MARGIN) * sw + x - left + MARGIN];
      }
    }
  }
  return large.map((p, k) => p + band[k] * (fine[k] - p));
}

function spread(img, weight, h, w) {
  const out = new Float32Array(h * w * 3);
  if (Math.min(h, w) < 2) {
    const total = Math.max(weight.reduce((a, b) => a + b, 0), 1e-6);
    for (let c = 0; c < 3; c += 1) {
      let sum = 0;
      for (let k = 0; k < h * w; k += 1) sum += img[3 * k + c] * weight[k];
      for (let k = 0; k < h * w; k += 1) out[3 * k + c] = sum / total;
    }
    return out;
  }
  const [h2, w2] = [(h + 1) >> 1, (w + 1) >> 1];
  const known = resizeArea(weight, h, w, h2, w2, 1);
  const coarse = resizeArea(img.map((value, k) => value * weight[Math.floor(k / 3)]), h, w, h2, w2, 3);
  const even = coarse.map((value, k) => value / (known[Math.floor(k / 3)] + 1e-6));
  const wide = resizeLinear(spread(even, known.map((k) => Math.min(1, 4 * k)), h2, w2), h2, w2, h, w, 3);
  return out.map((_, k) => wide[k] + weight[Math.floor(k / 3)] * (img[k] - wide[k]));
}

/** The colour of the ground in each pixel, without the sky's. `alpha` is the share of ground. */
export function foreground(img, alpha, h, w, sure, slight) {
  const weight = alpha.map((a) => (a <= sure ? slight * a ** 4 : 1));
  if (!alpha.some((a) => a <= sure) || !alpha.some((a) => a > 0)) return img;
  const clean = bytes(spread(Float32Array.from(img), weight, h, w));
  return img.map((value, k) => (alpha[Math.floor(k / 3)] <= sure ? clean[k] : value));
}
