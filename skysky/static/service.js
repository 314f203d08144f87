// The page of `skysky serve`: sends a photo to where the page is from, and shows what comes back.

const at = (id) => document.getElementById(id);
let photo, turn = 0;

function say(text, wrong = false) {
  at("said").textContent = text;
  at("said").classList.toggle("wrong", wrong);
}

function show(blob, name) {
  URL.revokeObjectURL(at("result").src);
  const address = URL.createObjectURL(blob);
  Object.assign(at("result"), { src: address, alt: name, hidden: false });
  Object.assign(at("save"), { href: address, download: name, hidden: false });
}

async function ask(accept, output) {
  const query = new URLSearchParams();
  if (output) query.set("output", output);
  if (at("threshold").value) query.set("threshold", at("threshold").value);
  const headers = { Accept: accept };
  if (at("token").value) headers.Authorization = `Bearer ${at("token").value}`;
  const reply = await fetch(`v1/sky?${query}`, { method: "POST", body: photo, headers });
  if (reply.ok) return reply;
  if (reply.status === 401) at("secret").hidden = false;
  throw new Error((await reply.json()).error);
}

async function run() {
  if (!photo) return;
  const mine = (turn += 1);
  const output = at("output").value;
  say("Looking…");
  try {
    const reply = await ask("image/*", output);
    const blob = await reply.blob();
    const sky = await (await ask("application/json")).json();
    if (mine !== turn) return; // another one was asked for meanwhile
    const stem = (photo.name ?? "photo").replace(/\.[^.]*$/, "");
    show(blob, `${stem}_${output}.${blob.type === "image/png" ? "png" : "jpg"}`);
    const share = `${(100 * sky.fraction).toFixed(1)} % of ${sky.width} × ${sky.height} pixels`;
    say(sky.has_sky ? `Sky: ${share}` : "No sky in this photo");
  } catch (error) {
    if (mine === turn) say(error.message, true);
  }
}

function take(files) {
  if (!files?.length) return;
  photo = files[0];
  run();
}

at("choose").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", () => take(at("file").files));
for (const id of ["output", "threshold", "token"]) at(id).addEventListener("change", run);
at("form").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("paste", (event) => take(event.clipboardData.files));
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault(); // else the browser opens the file in place of the page
    document.body.classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files);
  });
}
