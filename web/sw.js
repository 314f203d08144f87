// Keeps the page's own files for use without a network, and adds the headers without which a browser gives no threads.
const VERSION = "{{version}}";
const FILES = ["{{files}}"];
const LATER = ["{{later}}"]; // kept once they were asked for
const OWN = new Set([...FILES, ...LATER].map((name) => new URL(name, self.location.href).pathname));

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(VERSION).then((cache) => cache.addAll(FILES)).then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  const old = caches.keys().then((names) => names.filter((name) => name.startsWith("skysky-") && name !== VERSION));
  event.waitUntil(old.then((names) => Promise.all(names.map((name) => caches.delete(name)))).then(() => self.clients.claim()));
});

async function answer(request) {
  let found = await caches.match(request, { ignoreSearch: true });
  if (!found) {
    found = await fetch(request);
    if (found.ok) await (await caches.open(VERSION)).put(request, found.clone());
  }
  const headers = new Headers(found.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  return new Response(found.body, { status: found.status, headers });
}

self.addEventListener("fetch", (event) => {
  if (event.request.method === "GET" && OWN.has(new URL(event.request.url).pathname)) {
    event.respondWith(answer(event.request));
  }
});
