// What the page writes: PNG files whose numbers are exactly ours (a canvas would round them), and a ZIP of them.

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit += 1) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

export function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) crc = TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ -1) >>> 0;
}

function chunk(kind, data) {
  const out = new Uint8Array(data.length + 12);
  const view = new DataView(out.buffer);
  view.setUint32(0, data.length);
  out.set(new TextEncoder().encode(kind), 4);
  out.set(data, 8);
  view.setUint32(data.length + 8, crc32(out.subarray(4, data.length + 8)));
  return out;
}

/** A PNG of `channels` 1 (grey), 3 (RGB) or 4 (RGBA), 8 bits each. */
export async function png(data, height, width, channels, mark) {
  const row = width * channels;
  const raw = new Uint8Array(height * (row + 1));
  for (let y = 0; y < height; y += 1) raw.set(data.subarray(y * row, (y + 1) * row), y * (row + 1) + 1);
  const stream = new Blob([raw]).stream().pipeThrough(new CompressionStream("deflate"));
  const packed = new Uint8Array(await new Response(stream).arrayBuffer());
  const head = new Uint8Array(13);
  const view = new DataView(head.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  head.set([8, { 1: 0, 3: 2, 4: 6 }[channels]], 8);
  const said = new TextEncoder().encode(`Software\0${mark}`);
  const parts = [Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10), chunk("IHDR", head), chunk("tEXt", said),
    chunk("IDAT", packed), chunk("IEND", new Uint8Array())];
  return new Blob(parts, { type: "image/png" });
}

/** A ZIP of [name, Blob], stored as they are: PNG files don't shrink. */
export async function zip(files) {
  const [parts, index] = [[], []];
  let at = 0;
  for (const [name, blob] of files) {
    const [path, data] = [new TextEncoder().encode(name), new Uint8Array(await blob.arrayBuffer())];
    const same = new DataView(new ArrayBuffer(26)); // what both headers have
    [20, 0x0800, 0, 0, 0x5821].forEach((value, i) => same.setUint16(2 * i, value, true)); // UTF-8, 1 January 2024
    [crc32(data), data.length, data.length].forEach((value, i) => same.setUint32(10 + 4 * i, value, true));
    same.setUint16(22, path.length, true);
    const fields = new Uint8Array(same.buffer);
    const end = new DataView(new ArrayBuffer(14));
    end.setUint32(10, at, true);
    index.push(Uint8Array.of(80, 75, 1, 2, 20, 0), fields, new Uint8Array(end.buffer), path);
    parts.push(Uint8Array.of(80, 75, 3, 4), fields, path, data);
    at += 30 + path.length + data.length;
  }
  const size = index.reduce((sum, bytes) => sum + bytes.length, 0);
  const end = new DataView(new ArrayBuffer(22));
  end.setUint32(0, 0x06054b50, true);
  end.setUint16(8, files.length, true);
  end.setUint16(10, files.length, true);
  end.setUint32(12, size, true);
  end.setUint32(16, at, true);
  return new Blob([...parts, ...index, new Uint8Array(end.buffer)], { type: "application/zip" });
}

/** The blocks of a JPEG, PNG or WebP file: kind, start and length of what they hold. */
function* blocks(view) {
  const name = (at) => String.fromCharCode(...[0, 1, 2, 3].map((i) => view.getUint8(at + i)));
  if (view.getUint16(0) === 0xffd8) {
    for (let at = 2; view.getUint8(at) === 0xff && view.getUint8(at + 1) !== 0xda; at += 2 + view.getUint16(at + 2)) {
      if (view.getUint8(at + 1) === 0xe1 && name(at + 4) === "Exif") yield ["Exif", at + 10, view.getUint16(at + 2) - 8];
    }
  } else if (name(1).startsWith("PNG")) {
    for (let at = 8; at < view.byteLength; at += 12 + view.getUint32(at)) yield [name(at + 4), at + 8, view.getUint32(at)];
  } else if (name(0) === "RIFF" && name(8) === "WEBP") {
    for (let at = 12, n; at < view.byteLength; at += 8 + n + (n % 2)) {
      n = view.getUint32(at + 4, true);
      const head = name(at) === "EXIF" && name(at + 8) === "Exif" ? 6 : 0;
      yield [name(at), at + 8 + head, n - head];
    }
  }
}

/** Where EXIF data that begin at `tiff` state the orientation, and whether numbers are little-endian; null: nowhere. */
function stated(view, tiff) {
  const little = view.getUint16(tiff) === 0x4949;
  const list = tiff + view.getUint32(tiff + 4, little);
  for (let i = 0; i < view.getUint16(list, little); i += 1) {
    const tag = list + 2 + 12 * i;
    if (view.getUint16(tag, little) === 0x112) return [tag + 8, little];
  }
  return null;
}

/** A picture's EXIF orientation, 1 where none is stated; and the file without it. Not every browser turns every kind. */
export async function stored(blob) {
  const view = new DataView(await blob.arrayBuffer());
  try {
    for (const [kind, start, length] of blocks(view)) {
      if (!["Exif", "eXIf", "EXIF"].includes(kind)) continue;
      const [place, little] = stated(view, start) ?? [];
      const code = place ? view.getUint16(place, little) : 1;
      if (code < 2 || code > 8) return [1, blob];
      view.setUint16(place, 1, little);
      if (kind === "eXIf") view.setUint32(start + length, crc32(new Uint8Array(view.buffer, start - 4, length + 4)));
      return [code, new Blob([view.buffer], { type: blob.type })];
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // cut off: it states none
  }
  return [1, blob];
}

/** How a canvas turns a stored picture of w × h upright. */
export function turn(code, w, h) {
  return [[1, 0, 0, 1, 0, 0], [-1, 0, 0, 1, w, 0], [-1, 0, 0, -1, w, h], [1, 0, 0, -1, 0, h],
    [0, 1, 1, 0, 0, 0], [0, 1, -1, 0, h, 0], [0, -1, -1, 0, h, w], [0, -1, 1, 0, 0, w]][code - 1];
}

/** An upright plane as its pixels are stored under an EXIF orientation: [data, height, width]. */
export function storedView(data, height, width, code) {
  const turned = code > 4;
  const [h, w] = turned ? [width, height] : [height, width];
  const out = new data.constructor(data.length);
  for (let y = 0; y < h; y += 1) {
    for (let x = 0; x < w; x += 1) {
      const v = [3, 4, 6, 7].includes(code) ? h - 1 - y : y;
      const u = [2, 3, 7, 8].includes(code) ? w - 1 - x : x;
      out[y * w + x] = turned ? data[u * width + v] : data[v * width + u];
    }
  }
  return [out, h, w];
}

/** The file of a mask for a picture `path`, in the layout's names. */
export function maskName(path, layout, folder) {
  const [, inner, name] = path.match(/^(.*\/)?([^/]*)$/);
  const [own, ext] = name.match(/^(.+?)(\.[^.]*)?$/).slice(1);
  const stem = layout.drop && own.endsWith(layout.drop) ? own.slice(0, -layout.drop.length) : own;
  const words = { name, stem, ext: ext ?? "", folder };
  const called = (text) => text.replace(/\{(\w+)\}/g, (_, word) => words[word]);
  return `${called(layout.folder)}/${layout.bare ? "" : (inner ?? "")}${called(layout.name)}`;
}
