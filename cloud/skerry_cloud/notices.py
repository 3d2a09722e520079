"""A notice as it leaves the cloud, and what carries one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Message:
    """What happened to an alarm. ``id`` is the same at every attempt, so that who was told twice can know."""

    id: str
    fleet: str
    what: str  # opened, acknowledged, assigned, worsened, escalated, resolved
    time: float  # Unix seconds
    reason: str
    actor: str
    alarm: Mapping[str, Any]  # the alarm's row as it was then

    @property
    def place(self) -> str:
        """Where, for people."""
        level, name = str(self.alarm["level"]), str(self.alarm["name"])
        return {"device": name, "group": f"group {name}", "fleet": "the whole fleet"}[level]

    @property
    def subject(self) -> str:
        """In one short line, the same words for an alarm but for what happened."""
        alarm = self.alarm
        return f"[{self.fleet}] alarm {alarm['id']} {self.what}: {alarm['workload']} on {self.place}, {alarm['kind']}"

    @property
    def text(self) -> str:
        """For people who read it away from a screen with ``skerry``."""
        alarm = self.alarm
        lines = [
            alarm["summary"], "", f"{self.what} by {self.actor}: {self.reason}", "",
            f"state    {alarm['state']}, health {alarm['health']}", f"owner    {alarm['owner'] or 'nobody'}",
            f"devices  {', '.join(alarm['devices'])}", "",
            f"look:         skerry drift show {alarm['id']}", f"take it over: skerry drift ack {alarm['id']}",
        ]  # fmt: skip
        return "\n".join(lines) + "\n"


class Carrier(Protocol):
    """A road out. Both methods block for some seconds at most and raise LinkError if it has to be tried again."""

    def tell(self, message: Message) -> None:
        """Bring this message to its end; when it returns, the other side has it."""
        ...

    def renew(self, unresolved: Sequence[Message]) -> None:
        """Say again what is not resolved, if the other side forgets it otherwise; called every few minutes."""
        ...
