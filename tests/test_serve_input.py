"""What strangers send to the service: pictures of every bad kind, forms, words and bytes that are no HTTP.

Each gets the right status and one line, the next one is served, and nothing stays behind: no file, no memory."""
import json
import socket
import time
import zlib
from urllib.parse import quote

import psutil
import pytest
from test_hostile import AWKWARD, PICTURES
from test_serve import PHOTOS, SKY, ask, serving

SECONDS = 4  # for a header, and for a body
STATUS = {  # the others are 415 or 422: no picture, or a damaged one
    "empty.png": 400, "100000x100000 px.png": 413, "2147483647x2147483647 px.png": 413, "65500x65500 px.jpg": 413,
    "bomb of pixels.png": 413, "cut at 50%.png": 422, "cut at 50%.jpg": 422, "cut at 80%.webp": 422,
    "cut at 80%.tif": 422, "wrong crc.png": 422, "damaged inside.jpg": 422, "too few pixels.png": 422,
    "really html.jpg": 415, "really svg.jpg": 415, "really pdf.jpg": 415, "really zip.jpg": 415,
    "really pickle.jpg": 415, "really ps.jpg": 415, "noise.png": 415, "zeros.png": 415, "a byte.png": 415,
}
BAD = {name: data for name, data in PICTURES.items() if isinstance(data, bytes)}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    limits = {f"SKYSKY_MAX_{name}_SECONDS": str(SECONDS) for name in ("POST", "QUIET")}
    with serving(tmp_path_factory.mktemp("service"), **limits) as process:
        running = psutil.Process(process.run.pid)
        ask(process, PHOTOS[0])
        files = running.num_fds()
        yield process
        assert ask(process, PHOTOS[0])[0] == 200
        end = time.monotonic() + 2*SECONDS
        while running.num_fds() > files + 2 and time.monotonic() < end: time.sleep(.1)
        assert running.num_fds() <= files + 2, "connections and pictures are closed"
        assert running.memory_info().rss < 2e9
        log = process.log.read_text()
        assert "raceback" not in log and '"status": 500' not in log


def refused(answer, *statuses):
    "Prove that an answer is one of these statuses and one line."
    status, body = answer
    said = json.loads(body)["error"]
    assert status in statuses, (status, said)
    assert said.isprintable() and said and len(said) < 500 and "Error(" not in said, said
    return said


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_a_bad_picture_gets_a_status_and_a_line(service, name):
    start = time.monotonic()
    refused(ask(service, BAD[name], Content_Type="application/octet-stream"),
            *([STATUS[name]] if name in STATUS else [413, 415, 422]))
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("name", AWKWARD, ids=ascii)
def test_an_awkward_picture_is_answered(service, name): assert ask(service, AWKWARD[name])[0] == 200


# ---- Forms

def form(*parts, end=b"--sky--\r\n"):
    "A body of parts: header lines, and what they hold."
    return b"".join(b"--sky\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n" for head, data in parts) + end


FILE = 'Content-Disposition: form-data; name="picture"; filename="a.jpg"'
KIND = "multipart/form-data; boundary=sky"
FORMS = {  # body, Content-Type, status
    "a whole one": (form((FILE, PHOTOS[0])), KIND, 200),
    "a way out as the name": (form((FILE.replace("a.jpg", "../../etc/passwd"), PHOTOS[0])), KIND, 200),
    "another type": (form((FILE + "\r\nContent-Type: text/html", PHOTOS[0])), KIND, 200),
    "nothing": (b"", KIND, 400), "no part": (form(), KIND, 400), "no boundary": (form((FILE, b"x")), KIND[:19], 400),
    "another boundary": (form((FILE, b"x")), KIND + "s", 400), "an empty boundary": (form(), KIND[:-3], 400),
    "a long boundary": (form(), KIND + "y"*5000, 400), "a boundary that is no text": (form(), KIND[:-3] + "\xff", 400),
    "no end": (form((FILE, PHOTOS[0]), end=b""), KIND, 400), "half a form": (form((FILE, PHOTOS[0]))[:3000], KIND, 400),
    "a text": (form((FILE.replace('; filename="a.jpg"', ""), b"x")), KIND, 400),
    "another field": (form((FILE.replace("picture", "photo"), PHOTOS[0])), KIND, 400),
    "two photos": (form((FILE, PHOTOS[0]), (FILE, PHOTOS[1])), KIND, 400), "no bytes": (form((FILE, b"")), KIND, 400),
    "10,000 parts": (form(*[(FILE, b"x")]*10_000), KIND, 400), "no name": (form(("X: y", b"x")), KIND, 400),
    "a header of 1 MB": (form((FILE + "\r\nX: " + "a"*10**6, PHOTOS[0])), KIND, 400),
    "a header that is no text": (form((FILE.replace("a.jpg", "\x00\x1b[2J"), b"x")), KIND, 415),
    "base64": (form((FILE + "\r\nContent-Transfer-Encoding: base64", b"/9j/4AAQ")), KIND, 415),
    "a form in a form": (form((FILE, form((FILE, PHOTOS[0])))), KIND, 415),
    "half a photo": (form((FILE, PHOTOS[0][:3000])), KIND, 422),
    "a bomb": (form((FILE, BAD["bomb of pixels.png"])), KIND, 413),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms(service, name):
    body, kind, status = FORMS[name]
    answer = ask(service, body, Content_Type=kind)
    if status == 200: assert answer == ask(service, PHOTOS[0])
    else: refused(answer, status)


# ---- Words

QUERIES = {"output=gif": 400, "output=": 400, "output=mask&output=gif": 400, "output=%00": 400, "layout=../../etc": 400,
           "threshold=nan": 400, "threshold=inf": 400, "threshold=-1": 400, "threshold=1e999": 400, "threshold=": 400,
           "a=b": 400, quote("\x1b[2J\n"): 400, "x"*20_000: 400, "threshold=.5&output=cutout": 200, "": 200}
HEADERS = {("Accept", "video/mp4"): 406, ("Accept", ";;;q=,,"): 406, ("Accept", "image/png;q=nan"): 406,
           ("Accept", "a/b,"*9000): 406, ("Content_Type", "text/html"): 415, ("Content_Type", ""): 200,
           ("Content_Type", "image/png"): 200, ("Content_Type", "application/json"): 400,
           ("Content_Encoding", "gzip"): 200, ("Host", "sky.example"): 421, ("Host", "\xff"): 421,
           ("Sec_Fetch_Site", "cross-site"): 403, ("Authorization", "Basic !"): 200, ("X_Forwarded_Host", "x"): 200}
ENGINE = {"": 400, "height=64": 400, "height=64&width=64&x=1": 400, "height=0&width=64": 400, "height=-1&width=64": 400,
          "height=99999&width=99999": 400, "height=1e3&width=64": 400, "height=64&width=64": 400,
          "height=50&width=50": 422, "height=10&width=10": 422}


@pytest.mark.parametrize("query", QUERIES, ids=lambda q: ascii(q[:40]))
def test_queries(service, query):
    answer = ask(service, PHOTOS[0], f"{SKY}?{query}")
    if QUERIES[query] == 200: assert answer[0] == 200
    else: refused(answer, QUERIES[query])


@pytest.mark.parametrize("header", HEADERS, ids=lambda h: ascii(h)[:60])
def test_headers(service, header):
    answer = ask(service, PHOTOS[0], **{header[0]: header[1]})
    if HEADERS[header] == 200: assert answer[0] == 200
    else: refused(answer, HEADERS[header])


def test_what_is_packed_is_not_unpacked(service):
    refused(ask(service, zlib.compress(PHOTOS[0]), Content_Encoding="deflate"), 415)


@pytest.mark.parametrize("query", ENGINE)
def test_numbers_for_the_model(service, query):
    refused(ask(service, bytes(7500), f"/v1/engine?{query}", Content_Type="application/octet-stream"), ENGINE[query])


# ---- Bytes

def told(service, sent, drip=b""):
    "Status and body of the answer to bytes, and to others that are dripped after them."
    with socket.create_connection(("127.0.0.1", service.port), timeout=3*SECONDS) as wire:
        wire.sendall(sent)
        got, whole = b"", None
        while whole is None or len(got) < whole:
            if drip and not got:
                wire.settimeout(.1)
                try: wire.sendall(drip)
                except OSError: pass
            try: part = wire.recv(1 << 16)
            except TimeoutError:
                assert drip, "no answer"
                continue
            except ConnectionError: part = b""
            if not part: break
            got = (got + part).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
            head, gap, body = got.partition(b"\r\n\r\n")
            if gap: whole = len(head) + 4 + int(head.lower().partition(b"content-length: ")[2].split()[0])
    return int(head.split()[1]), got[len(head) + 4:whole]


POST = b"POST /v1/sky HTTP/1.1\r\nHost: 127.0.0.1\r\n"
BYTES = {  # bytes, dripped ones after them, status
    "a greeting of TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(99) + b"\r\n\r\n", b"", 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", b"", 400), "no host": (b"GET / HTTP/1.1\r\n\r\n", b"", 400),
    "a header of 1 MB": (POST + b"X: " + b"a"*10**6 + b"\r\n\r\n", b"", 431),
    "200,000 headers": (POST + b"X: y\r\n"*200_000 + b"\r\n", b"", 431),
    "a header without end": (POST, b"X: y\r\n", 408), "nothing": (b"", b"", 408), "a letter": (b"P", b"", 408),
    "a length below 0": (POST + b"Content-Length: -5\r\n\r\nabc", b"", 400),
    "two lengths": (POST + b"Content-Length: 3\r\nContent-Length: 5\r\n\r\nabc", b"", 400),
    "a length without end": (POST + b"Content-Length: 99999999999999999999\r\n\r\nabc", b"", 413),
    "10 GB": (POST + b"Content-Length: 10000000000\r\n\r\n", b"", 413),
    "a chunk that is none": (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc", b"", 400),
    "a body without end": (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"800000\r\n" + bytes(2**23) + b"\r\n", 413),
    "a body by drops": (POST + b"Content-Length: 9000\r\n\r\n", b"x", 408),
    "a body that does not come": (POST + b"Content-Length: 9000\r\n\r\n", b"", 408),
    "a promise": (POST + b"Content-Length: 9000\r\nExpect: 100-continue\r\n\r\n", b"", 408),
    "a secret within the header": (b"GET /\r\nX: y HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"", 400),
    "another method": (b"BREW /v1/sky HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"", 405),
    "a way out": (b"GET /../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"", 404),
    "a way that is no text": (b"GET /%ff%00%1b[2J HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"", 404),
    "another server": (b"GET http://sky.example/ HTTP/1.1\r\nHost: sky.example\r\n\r\n", b"", 421),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"", 421),
}


@pytest.mark.parametrize("name", BYTES)
def test_bytes(service, name):
    sent, drip, status = BYTES[name]
    refused(told(service, sent, drip), status)


def test_who_leaves_in_the_middle_leaves_nothing(service):
    for n in range(40):
        with socket.create_connection(("127.0.0.1", service.port)) as wire:
            wire.sendall(POST + f"Content-Length: {len(PHOTOS[0])}\r\n\r\n".encode() + PHOTOS[0][:len(PHOTOS[0])*n//40])
    assert ask(service, PHOTOS[0])[0] == 200


def test_hundreds_who_are_silent_keep_nobody_out(service):
    wires = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(600)]
    try: assert ask(service, PHOTOS[0])[0] == 200
    finally:
        for wire in wires: wire.close()
