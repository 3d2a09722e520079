"""A disk that can be full and can lose power: an ext4 file system of its own, on a file. Needs root.

Power is cut by FS_IOC_SHUTDOWN with NOLOGFLUSH: what was not flushed is lost, and every later call fails.
"""

import errno
import fcntl
import os
import shutil
import struct
import subprocess
from pathlib import Path
from types import TracebackType

FS_IOC_SHUTDOWN, NOLOGFLUSH = 0x8004587D, 2
SIZE = 32 << 20  # bytes
BLOCKS = (1 << 20, 4096, 1)  # bytes of a write that fills it


class Disk:
    """Mounted at ``folder`` while the context is open. Where that is not possible, ``folder`` is like any other."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.is_own = folder, False
        self._image, self._ballast = folder.with_suffix(".img"), folder / "ballast"

    def __enter__(self) -> "Disk":
        self.folder.mkdir()
        if os.geteuid() == 0 and shutil.which("mkfs.ext4"):
            with self._image.open("wb") as image:
                image.truncate(SIZE)
            _run("mkfs.ext4", "-q", "-F", self._image)
            self.is_own = self._mount()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_own:
            _run("umount", "--lazy", self.folder)

    def fill(self) -> None:
        """Leave no byte."""
        with self._ballast.open("ab", buffering=0) as ballast:
            for size in BLOCKS:
                _write_until_full(ballast.fileno(), bytes(size))

    def free(self) -> None:
        """There is room again."""
        self._ballast.unlink(missing_ok=True)

    def cut_power(self) -> None:
        """From now on every call fails with EIO."""
        there = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(there, FS_IOC_SHUTDOWN, struct.pack("I", NOLOGFLUSH))
        finally:
            os.close(there)

    def come_back(self) -> None:
        """As after a start of the machine. No process may have a file open there."""
        _run("umount", self.folder)
        if not self._mount():
            raise RuntimeError(f"{self.folder}: cannot be mounted again")

    def _mount(self) -> bool:
        """Without the kindness to those who rename before they flush."""
        command = ["mount", "-o", "loop,noauto_da_alloc", str(self._image), str(self.folder)]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _write_until_full(file: int, block: bytes) -> None:
    try:
        while True:
            os.write(file, block)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


def _run(*command: object) -> None:
    subprocess.run([*map(str, command)], check=True, capture_output=True)
