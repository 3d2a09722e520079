"""Notices as mail, one mailbox a route. Mails of one alarm are one thread."""

import smtplib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import formatdate
from pathlib import Path
from typing import Literal

from skerry_cloud.notices import Message
from skerry_shared.errors import LinkError

SECONDS = 20.0

Security = Literal["tls", "starttls", "none"]  # tls: from the first byte; none: for this very machine


@dataclass(frozen=True)
class Server:
    """Where to hand mails in. Without the security that is asked for, nothing is said."""

    host: str
    port: int
    security: Security
    user: str = ""
    password: str = ""
    authority: Path | None = None  # whom to trust instead of the system's list, PEM


class Mail:
    """Tells one mailbox, or with no address the alarm's owner."""

    def __init__(self, server: Server, sender: str, to: str) -> None:
        self._server, self._sender, self._to = server, sender, to
        self._trusted = ssl.create_default_context(cafile=server.authority)

    def tell(self, message: Message) -> None:
        """Hand it in; the server has accepted it then."""
        mail = self._mail(message)
        try:
            with self._connected() as server:
                server.send_message(mail)
        except (smtplib.SMTPException, OSError) as error:
            raise LinkError(f"{self._server.host}:{self._server.port}: {error}") from None

    def renew(self, unresolved: Sequence[Message]) -> None:
        """Mailboxes keep what they were told."""

    def _connected(self) -> smtplib.SMTP:
        told = self._server
        if told.security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(told.host, told.port, timeout=SECONDS, context=self._trusted)
        else:
            server = smtplib.SMTP(told.host, told.port, timeout=SECONDS)
        try:
            if told.security == "starttls":
                server.starttls(context=self._trusted)
            if told.user:
                server.login(told.user, told.password)
        except BaseException:
            server.close()
            raise
        return server

    def _mail(self, message: Message) -> EmailMessage:
        to = self._to or message.alarm["owner"]
        if "@" not in to:
            raise LinkError(f"to: the alarm's owner, {to!r}, is no mail address; give the route one")
        mail, thread = EmailMessage(), f"<alarm-{message.alarm['id']}@{message.fleet}.skerry>"
        headers = {
            "From": self._sender, "To": to, "Subject": message.subject, "Date": formatdate(message.time),
            "Message-ID": f"<{message.id}@{message.fleet}.skerry>", "References": thread,
            "Auto-Submitted": "auto-generated",
        }  # fmt: skip
        for name, value in headers.items():
            mail[name] = " ".join(value.split())
        mail.set_content(message.text)
        return mail
