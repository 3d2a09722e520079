"""A device that says all at once: ``publisher.py FOLDER FILE PORT`` sends a file's messages over MQTT, once each."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

from delivering.device import FLEET, NAME, identity
from skerry_edge.adapters.transport_mqtt import MqttTransport

LENGTH = 4  # bytes before each message


async def main(folder: Path, data: bytes, port: int) -> None:
    """Says when all is sent, but goes on until killed: the last ones must be allowed to arrive."""
    async with MqttTransport("localhost", port, FLEET, NAME, identity(folder)).connect() as link:
        for message in messages(data):
            await link.send(message)
        print("sent", flush=True)
        await asyncio.Event().wait()


def messages(data: bytes) -> Iterator[bytes]:
    """From what ``joined`` made."""
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + LENGTH], "little")
        at += LENGTH + size
        yield data[at - size : at]


def joined(several: list[bytes]) -> bytes:
    """Each behind its length."""
    return b"".join(len(message).to_bytes(LENGTH, "little") + message for message in several)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]).read_bytes(), int(sys.argv[3])))
