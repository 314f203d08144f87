// The browser's side of the explorer's picture: shows the JPEG that the kernel made, and takes a new picture that is
// chosen, dropped or pasted. It goes to the kernel in parts: Jupyter closes a connection on which a message is too large.

export const PART = 4_000_000; // bytes; a server takes messages of 10 MB by default

/** `[start, end]` of the parts of a file. */
export function parts(size, part = PART) {
  return Array.from({ length: Math.max(1, Math.ceil(size / part)) }, (_, i) => [i * part, Math.min(size, (i + 1) * part)]);
}

function render({ model, el }) {
  const image = Object.assign(document.createElement("img"), { draggable: false });
  const file = Object.assign(document.createElement("input"), { type: "file", accept: "image/*", hidden: true });
  const button = Object.assign(document.createElement("button"), {
    type: "button", textContent: "Choose a picture…", className: "skysky-choose", title: "Or drop or paste one here" });
  el.classList.add("skysky-picture");
  el.dataset.lmSuppressShortcuts = "true";
  el.append(image, button, file);

  let newest; // upload: one that begins while another is under way takes its place
  const send = async (picture) => {
    const large = picture.size > model.get("limit"); // then nothing but its size is sent, and the kernel says what to do
    const ranges = large ? [[0, 0]] : parts(picture.size);
    const upload = (newest = Math.random().toString(36).slice(2));
    for (const [i, [start, end]] of ranges.entries()) {
      const buffer = await picture.slice(start, end).arrayBuffer();
      if (upload !== newest) return;
      const { name, size } = picture;
      const part = { kind: "part", name, size, upload, first: i === 0, last: i === ranges.length - 1 };
      model.send(part, undefined, [buffer]);
    }
  };
  const take = (files) => files?.length && send(files[0]);
  const over = (on) => (event) => {
    event.preventDefault(); // else the browser opens the file in place of the page
    event.stopPropagation();
    el.classList.toggle("skysky-over", on);
  };
  button.onclick = () => file.click();
  file.onchange = () => take(file.files);
  el.onpaste = (event) => take(event.clipboardData.files);
  el.ondragover = over(true);
  el.ondragleave = over(false);
  el.ondrop = (event) => {
    over(false)(event);
    take(event.dataTransfer.files);
  };

  const show = () => {
    const old = image.src;
    image.alt = model.get("alt");
    image.src = URL.createObjectURL(new Blob([model.get("value")]));
    if (old) image.onload = () => URL.revokeObjectURL(old);
  };
  model.on("change:value", show);
  show();
  return () => URL.revokeObjectURL(image.src);
}

export default { render };
