"""What every carrier of notices has to do, against real servers on loopback with real TLS."""

import base64
import hashlib
import hmac
import json
import signal
import socketserver
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from skerry_cloud import alarms
from skerry_cloud.adapters import alertmanager
from skerry_cloud.adapters.alertmanager import Alertmanager
from skerry_cloud.adapters.mail import Mail, Server
from skerry_cloud.adapters.webhook import Webhook, key
from skerry_cloud.keys import Keys
from skerry_cloud.notices import Carrier, Message
from skerry_cloud.store import Alarm, Store
from skerry_shared.errors import ConfigError, LinkError

NOTIFIER = Path(__file__).parents[1] / "faults/notifier.py"
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
ALARM: dict[str, Any] = {
    "id": 3, "level": "device", "name": "edge-1", "devices": ["edge-1"], "workload": "fashion", "release": 2,
    "kind": "drift", "health": "drift", "state": "open", "owner": "ada@example.org", "opened": 1.8e9, "step": 0,
    "summary": "edge-1: fashion release 2 drifts since …: brightness is lower",
}  # fmt: skip
OPENED = Message("main-notice-7", "main", "opened", 1.8e9, "it drifts", "drift", ALARM)
RESOLVED = Message(
    "main-notice-8", "main", "resolved", 1.8e9 + 60, "lamp mended", "operator", ALARM | {"state": "resolved"}
)


@dataclass
class Web:
    """An HTTPS server that keeps what it is told."""

    tls: ssl.SSLContext
    status: int = 200
    got: threading.Event = field(default_factory=threading.Event)
    hold: threading.Event | None = None  # until it is set, nothing is answered
    told: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    def __enter__(self) -> "Web":
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                web.told.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
                web.got.set()
                if web.hold:
                    web.hold.wait(30)
                self.send_response(web.status)
                self.send_header("location", "/elsewhere")
                self.send_header("content-length", "4")
                self.end_headers()
                self.wfile.write(b"busy")

            def log_message(self, format: str, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = self.tls.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://localhost:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


class Post:
    """As much of an SMTP server (RFC 5321, STARTTLS of RFC 3207) as a client needs to hand a mail in."""

    def __init__(self, tls: ssl.SSLContext, refuses: bool = False, starttls: bool = True) -> None:
        self.mails: list[bytes] = []
        self.secured: list[bool] = []
        post = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                secured = False
                self.request.sendall(b"220 post\r\n")
                lines = self.request.makefile("rb")
                while line := lines.readline():
                    verb = line.split()[0].upper()
                    if verb == b"STARTTLS":
                        self.request.sendall(b"220 go\r\n")
                        self.request, secured = tls.wrap_socket(self.request, server_side=True), True
                        lines = self.request.makefile("rb")
                    elif verb == b"EHLO":
                        offered = b"250-STARTTLS\r\n" if starttls and not secured else b""
                        self.request.sendall(b"250-post\r\n" + offered + b"250 AUTH PLAIN\r\n")
                    elif verb == b"AUTH":
                        right = line.split()[2] == base64.b64encode(b"\0skerry\0pass")
                        self.request.sendall(b"235 ok\r\n" if right else b"535 no\r\n")
                    elif verb == b"DATA":
                        self.request.sendall(b"354 go on\r\n")
                        mail = b"".join(iter(lines.readline, b".\r\n"))
                        if not refuses:
                            post.mails.append(mail)
                            post.secured.append(secured)
                        self.request.sendall(b"451 later\r\n" if refuses else b"250 ok\r\n")
                    else:
                        self.request.sendall(b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")
                        if verb == b"QUIT":
                            return

        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    def __enter__(self) -> "Post":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@pytest.fixture
def tls(fleet_keys: Keys) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(fleet_keys.tls.certificate, fleet_keys.tls.key)
    return context


@pytest.fixture
def web(tls: ssl.SSLContext) -> Iterator[Web]:
    with Web(tls) as server:
        yield server


def mail(port: int, authority: Path, to: str = "", password: str = "pass", security: Any = "starttls") -> Mail:
    return Mail(Server("localhost", port, security, "skerry", password, authority), "skerry@example.org", to)


@pytest.mark.parametrize("kind", ["webhook", "alertmanager", "mail"])
def test_a_carrier_returns_when_it_was_taken_and_raises_when_not(
    kind: str, tls: ssl.SSLContext, web: Web, fleet_keys: Keys
) -> None:
    authority = fleet_keys.tls.authority
    with Post(tls) as post, Post(tls, refuses=True) as refusing:

        def carrier(well: bool) -> Carrier:
            web.status = 202 if well else 503
            carriers: dict[str, Carrier] = {
                "webhook": Webhook(web.url, SECRET, authority), "alertmanager": Alertmanager(web.url, "", authority),
                "mail": mail((post if well else refusing).port, authority),
            }  # fmt: skip
            return carriers[kind]

        carrier(True).tell(OPENED)
        with pytest.raises(LinkError, match="answered 503: busy" if kind != "mail" else "451"):
            carrier(False).tell(OPENED)
        for number, told in enumerate((len(web.told), len(post.mails))):
            assert told == ((2, 0) if kind != "mail" else (0, 1))[number]
        carrier(True).renew([])
    with pytest.raises(LinkError):
        carrier(True).tell(OPENED) if kind == "mail" else Webhook("https://localhost:9", SECRET, authority).tell(OPENED)


def test_a_webhook_is_signed_so_that_its_receiver_can_check_it(web: Web, fleet_keys: Keys) -> None:
    Webhook(web.url + "/hook", SECRET, fleet_keys.tls.authority, lambda: 1234.9).tell(OPENED)
    ((path, headers, body),) = web.told
    assert (path, headers["webhook-id"], headers["webhook-timestamp"]) == ("/hook", "main-notice-7", "1234")
    code = hmac.new(b"k" * 32, b"main-notice-7.1234." + body, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(code).decode()
    told = json.loads(body)
    assert (told["what"], told["alarm"]["name"], told["fleet"]) == ("opened", "edge-1", "main")


@pytest.mark.parametrize("secret", ["", "hush", "whsec_", "whsec_!!", "whsec_" + base64.b64encode(b"short").decode()])
def test_a_weak_secret_is_refused(secret: str) -> None:
    with pytest.raises(ConfigError, match="openssl rand -base64 32"):
        key(secret)


def test_no_redirect_is_followed_and_no_strangers_certificate_taken(web: Web, fleet_keys: Keys) -> None:
    web.status = 307
    with pytest.raises(LinkError, match="answered 307"):
        Webhook(web.url, SECRET, fleet_keys.tls.authority).tell(OPENED)
    assert len(web.told) == 1
    with pytest.raises(LinkError, match=r"(?i)certificate"):
        Webhook(web.url, SECRET, None).tell(OPENED)


def test_an_alert_holds_until_it_is_resolved(web: Web, fleet_keys: Keys) -> None:
    carrier = Alertmanager(web.url + "/", "token", fleet_keys.tls.authority)
    carrier.tell(OPENED)
    carrier.tell(RESOLVED)
    carrier.renew([OPENED, OPENED])
    assert {path for path, _, _ in web.told} == {"/api/v2/alerts"}
    assert web.told[0][1]["authorization"] == "Bearer token"
    (first,), (last,), both = (json.loads(body) for _, _, body in web.told)
    assert first["labels"] == last["labels"] and len(both) == 2
    assert first["labels"] == {"alertname": "SkerryAlarm", "fleet": "main", "alarm": "3", "level": "device",
                               "place": "edge-1", "workload": "fashion"}  # fmt: skip
    assert first["startsAt"] == last["startsAt"] == "2027-01-15T08:00:00+00:00"
    assert last["endsAt"] == "2027-01-15T08:01:00+00:00"
    assert alertmanager.HOLDS == 3600 and first["endsAt"] == "2027-01-15T09:00:00+00:00"


def test_a_mail_goes_to_the_owner_by_starttls_in_one_thread(tls: ssl.SSLContext, fleet_keys: Keys) -> None:
    authority = fleet_keys.tls.authority
    with Post(tls) as post:
        for message in (OPENED, RESOLVED):
            mail(post.port, authority).tell(message)
        mail(post.port, authority, "chief@example.org").tell(OPENED)
    first, second, third = (message_from_bytes(raw) for raw in post.mails)
    assert post.secured == [True] * 3
    assert [found["To"] for found in (first, second, third)] == ["ada@example.org"] * 2 + ["chief@example.org"]
    assert first["Subject"] == "[main] alarm 3 opened: fashion on edge-1, drift"
    assert first["References"] == second["References"] and first["Message-ID"] != second["Message-ID"]
    assert first["Message-ID"] == third["Message-ID"] == "<main-notice-7@main.skerry>"
    assert b"skerry drift show 3" in first.get_payload(decode=True)


def test_a_mail_is_never_handed_to_another_machine_in_clear(tls: ssl.SSLContext, fleet_keys: Keys) -> None:
    authority = fleet_keys.tls.authority
    with Post(tls, starttls=False) as post:
        with pytest.raises(LinkError, match="STARTTLS"):
            mail(post.port, authority).tell(OPENED)
        assert post.mails == []
        mail(post.port, authority, security="none").tell(OPENED)
        with pytest.raises(LinkError, match="535"):
            mail(post.port, authority, security="none", password="wrong").tell(OPENED)
    assert post.secured == [False]
    with pytest.raises(LinkError, match="no mail address"):
        mail(1, authority).tell(Message("i", "main", "opened", 1.0, "", "drift", ALARM | {"owner": "ada"}))


def test_whoever_dies_in_the_midst_of_telling_tells_it_again_under_the_same_name(
    web: Web, fleet_keys: Keys, tmp_path: Path, with_store: Callable[[Any], None]
) -> None:
    """Killed after the other side has it and before that is noted; then with the other side away for a while."""
    command = [sys.executable, str(NOTIFIER), f"sqlite+aiosqlite:///{tmp_path}/state.db", web.url,
               str(fleet_keys.tls.authority)]  # fmt: skip

    async def raise_alarm(store: Store) -> None:
        async with store.begin() as session:
            row = {name: value for name, value in ALARM.items() if name != "id"} | {"since": 1.0, "raised": 2.0}
            await alarms.raise_(session, Alarm(**row, detail={}), "drift")

    with_store(raise_alarm)
    web.hold = threading.Event()
    with subprocess.Popen(command) as first:
        assert web.got.wait(30)
        first.send_signal(signal.SIGKILL)
    web.hold.set()
    web.got.clear()
    web.status = 503
    with subprocess.Popen(command) as second:
        assert web.got.wait(30)
        web.status = 200
        web.got.clear()
        assert web.got.wait(30)
        second.kill()
    assert len(web.told) >= 3 and {headers["webhook-id"] for _, headers, _ in web.told} == {"main-notice-1"}
