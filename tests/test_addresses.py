"""Pictures and services by address: certificates of every kind, redirections, names that lead somewhere else.

Servers stand on 127.0.0.1, which counts as public here; 127.0.0.2 is the neighbour that nobody may reach."""
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from test_cli import SKYSKY
from test_serve import PHOTOS, Process, ask

from skysky import Segmenter
from skysky.core import SkyError
from skysky.serve.answers import answer, wanted

NAMES = ("localhost", "sky.test", "turns.test", "127.0.0.1")
DAYS = {"good": (-1, 9), "late": (-9, -1), "early": (1, 9), "other": (-1, 9), "own": (-1, 9)}  # valid from, to
SECONDS = 3  # that a fetch may take

# `skysky serve --fetch` where names lead to where the tests want them.
SERVICE = """
import socket
from itertools import cycle
from skysky import Segmenter
from skysky.serve import Service, server
from skysky.serve.app import listen

ways = {"sky.test": cycle([["127.0.0.1"]]), "inside.test": cycle([["127.0.0.2"]]),
        "both.test": cycle([["127.0.0.1", "127.0.0.2"]]), "turns.test": cycle([["127.0.0.1"], ["127.0.0.2"]])}
look_up = socket.getaddrinfo

def found(host, *args, **kwargs):
    return [place for ip in (next(ways[host]) if host in ways else [host]) for place in look_up(ip, *args, **kwargs)]

socket.getaddrinfo = found
with listen("127.0.0.1", 0) as door:
    print(f"http://127.0.0.1:{door.getsockname()[1]}", flush=True)
    server(Service(Segmenter(), may_fetch=True, permitted=lambda ip: ip == "127.0.0.1")).run([door])
"""


def certificate(folder, kind, names=NAMES, signer=None):
    "Write KIND.pem, a key and its certificate; returns both. Without a signer it is signed by itself."
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(timezone.utc)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, kind)])
    places = [x509.IPAddress(ip_address(n)) if n[0].isdigit() else x509.DNSName(n) for n in names]
    made = x509.CertificateBuilder().subject_name(name).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number()).issuer_name(signer[1].subject if signer else name)
    since, until = (now + timedelta(days=d) for d in DAYS.get(kind, (-1, 9)))
    made = made.not_valid_before(since).not_valid_after(until)
    made = made.add_extension(x509.SubjectAlternativeName(places), False)
    made = made.add_extension(x509.BasicConstraints(ca=not signer, path_length=None), True)
    made = made.sign(signer[0] if signer else key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    (folder/f"{kind}.pem").write_bytes(made.public_bytes(pem) + key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return key, made


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_): pass

    def do_GET(self):
        self.server.asked.append(self.path)
        to = self.server.moved.get(self.path)
        with suppress(OSError):
            if self.path == "/headers": return self.drip(b"HTTP/1.1 200 OK\r\nX-Sky: ")
            self.send_response(302 if to or self.path == "/nowhere" else 404 if self.path == "/gone" else 200)
            if to: self.send_header("Location", to)
            long = {"/half": 10**5, "/huge": 10**12}.get(self.path, 0 if to else len(PHOTOS[0]))
            self.send_header("Content-Length", str(long))
            self.end_headers()
            if self.path == "/body": return self.drip(PHOTOS[0][:1])
            if not to: self.wfile.write(PHOTOS[0])
            if self.path == "/half": self.close_connection = True

    def drip(self, start):
        self.wfile.write(start)
        while True:
            self.wfile.write(b"x")
            time.sleep(.1)


def serve(host, pem=None, port=0):
    "A server; `asked` are the paths that it was asked for, `moved` where some of them lead."
    server = ThreadingHTTPServer((host, port), Handler)
    server.asked, server.moved, server.handle_error = [], {}, lambda *_: None
    if pem:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, args=(.05,), daemon=True).start()
    return server


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    "Servers with certificates of every kind; `authority` is the file of whoever signed the good ones."
    folder = tmp_path_factory.mktemp("places")
    authority = certificate(folder, "authority")
    for kind in DAYS:
        certificate(folder, kind, ("else.test",) if kind == "other" else NAMES, None if kind == "own" else authority)
    servers = {kind: serve("127.0.0.1", folder/f"{kind}.pem") for kind in DAYS} | {"plain": serve("127.0.0.1")}
    servers["neighbour"] = serve("127.0.0.2", folder/"good.pem", servers["good"].server_port)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ports = {kind: server.server_port for kind, server in servers.items()}
        ports["silent"] = silent.getsockname()[1]
        yield servers, ports, folder/"authority.pem"
    for server in servers.values(): server.shutdown(), server.server_close()


@pytest.fixture(scope="module")
def service(places, tmp_path_factory):
    log = tmp_path_factory.mktemp("service")/"log"
    process = Process(log, SSL_CERT_FILE=str(places[2]), SKYSKY_MAX_FETCH_SECONDS=str(SECONDS), no_proxy="*")
    process.command = [sys.executable, "-c", SERVICE]
    yield process.start()
    process.run.kill()
    assert "Traceback" not in log.read_text()


ADDRESSES = {  # address, with the ports of servers in it: status, and what is said
    "https://sky.test:{good}/photo.jpg": (200, ""), "https://127.0.0.1:{good}/photo.jpg": (200, ""),
    "http://sky.test:{plain}/photo.jpg": (200, ""), "HTTPS://SKY.test:{good}/a%20b?c=d e#f": (200, ""),
    "https://sky.test:{late}/": (422, "its certificate is not valid: certificate has expired"),
    "https://sky.test:{early}/": (422, "its certificate is not valid: certificate is not yet valid"),
    "https://sky.test:{other}/": (422, "its certificate is not valid: Hostname mismatch"),
    "https://sky.test:{own}/": (422, "its certificate is not valid: self-signed certificate"),
    "https://sky.test:{plain}/": (422, "no TLS with it: "), "http://sky.test:{good}/": (422, "cannot be fetched"),
    "https://sky.test:{silent}/": (422, "not done in time"), "https://sky.test:{good}/headers": (422, "not done in"),
    "https://sky.test:{good}/body": (422, "not done in time"), "https://sky.test:{good}/half": (422, "broke off"),
    "https://sky.test:{good}/huge": (422, "more than 200 MB"), "https://sky.test:{good}/gone": (422, "status 404"),
    "https://sky.test:{good}/nowhere": (422, "status 302"), "https://sky.test:1/": (422, "refused"),
    "https://none.invalid/": (422, "cannot be fetched"), "https://both.test:{good}/": (403, "not a public server"),
    "https://inside.test:{good}/": (403, "not a public server"), "https://127.0.0.2:{good}/": (403, "not a public"),
    "https://[::1]:{good}/": (403, "not a public server"), "https://[::ffff:127.0.0.2]:{good}/": (403, "not a public"),
    "https://2130706434:{good}/": (403, "not a public server"), "https://u:secret@sky.test/": (422, "no user"),
    "file:///etc/passwd": (422, "only http"), "": (400, "empty"), "https://sky.test:x/": (422, "cannot be"),
    "https://sky.test:{good}/ HTTP/1.1\r\nHost: inside.test": (200, ""), "a\nb": (422, "only http"),  # a path, it is
}
MOVED = {  # where a server leads to
    "https://sky.test:{good}/photo.jpg": (200, ""), "/photo.jpg": (200, ""), "http://sky.test:{plain}/": (200, ""),
    "https://inside.test:{good}/": (403, "not a public server"), "//inside.test:{good}/": (403, "not a public server"),
    "https://127.0.0.2:{good}/": (403, "not a public server"), "http://[::1]:{good}/": (403, "not a public server"),
    "https://2130706434:{good}/": (403, "not a public"), "https://sky.test@127.0.0.2:{good}/": (422, "no user"),
    "https://sky.test:{late}/": (422, "certificate has expired"), "file:///etc/passwd": (422, "only http"),
    "/moved": (422, "more than 5 redirections"), "https://sky.test:{good}/body": (422, "not done in time"),
}


def asks(service, address):
    "Status, and what is said, in one line."
    start = time.monotonic()
    status, body = ask(service, json.dumps({"address": address}).encode(), Content_Type="application/json")
    assert time.monotonic() - start < SECONDS + 10
    if status == 200: return status, body
    said = json.loads(body)["error"]
    assert said.isprintable() and "_ssl.c" not in said and "secret" not in said and len(said) < 300, said
    return status, said


@pytest.mark.parametrize("address", ADDRESSES, ids=ascii)
def test_an_address_leads_to_a_mask_or_to_a_line(service, places, address):
    servers, ports, _ = places
    want, why = ADDRESSES[address]
    status, said = asks(service, address.format(**ports))
    assert status == want, said
    assert why in said if status != 200 else said == answer(Segmenter(), PHOTOS[0], wanted({}, ""))[1]
    assert not servers["neighbour"].asked


@pytest.mark.parametrize("to", MOVED)
def test_a_redirection_goes_through_the_same_door(service, places, to):
    servers, ports, _ = places
    servers["good"].moved = {"/moved": to.format(**ports)}
    status, said = asks(service, f"https://sky.test:{ports['good']}/moved")
    assert (status, status == 200 or MOVED[to][1] in said) == (MOVED[to][0], True), said
    assert not servers["neighbour"].asked


def test_a_name_that_turns_gains_nothing(service, places):
    "It is looked up once for a connection, and again for a redirection, when it leads inside."
    servers, ports, _ = places
    servers["good"].moved = {"/moved": "/photo.jpg"}
    at = f"https://turns.test:{ports['good']}"
    assert asks(service, f"{at}/photo.jpg")[0] == 200
    assert asks(service, f"{at}/photo.jpg")[0] == 403, "now it leads inside"
    status, said = asks(service, f"{at}/moved")
    assert status == 403 and "not a public server" in said and not servers["neighbour"].asked


KINDS = {"good": "", "late": "certificate has expired", "other": "Hostname mismatch", "own": "self-signed certificate",
         "plain": "no TLS with it"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_and_the_client_say_the_same_of_a_certificate(places, tmp_path, monkeypatch, kind):
    _, ports, authority = places
    address, env = f"https://localhost:{ports[kind]}/photo.jpg", {"SSL_CERT_FILE": str(authority), "no_proxy": "*"}
    run = subprocess.run([*SKYSKY, "mask", address], cwd=tmp_path, env=os.environ | env, capture_output=True, text=True)
    assert run.returncode == bool(KINDS[kind]) and run.stderr.count("\n") == bool(KINDS[kind])
    assert KINDS[kind] in run.stderr and "_ssl.c" not in run.stderr
    for name, value in env.items(): monkeypatch.setenv(name, value)
    with pytest.raises(SkyError, match=KINDS[kind] or "no service of skysky") as said: Segmenter(address)
    assert "_ssl.c" not in str(said.value)
