import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from skerry_edge.memory import clean_code

USED = """
import numpy as np
from pathlib import Path
from skerry_edge.memory import give_back

def files():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("RssFile"))

def work():
    return np.linalg.solve(np.eye(64) * 2, np.ones(64)).sum()

before, right = files(), work()
give_back()
assert work() == right
print(files() / before)
"""

FIELDS = """\
{span} {perms} 00000000 08:01 42 {path}
Rss:                  64 kB
Anonymous:        {dirty:6d} kB
AnonHugePages:         0 kB
VmFlags: rd ex mr mw me
"""


def mapping(start: int, perms: str, path: str, dirty: int) -> str:
    return FIELDS.format(span=f"{start:x}-{start + 0x1000:x}", perms=perms, path=path, dirty=dirty)


def test_code_that_does_not_run_is_given_back_and_runs_again() -> None:
    done = subprocess.run([sys.executable, "-c", USED], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.8


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["r-xp", "r--p", "rw-p", "rw-s", "r--s", "---p"]),
            st.sampled_from(["/usr/lib/a.so", "/a folder/b.so", "", "[heap]", "[vdso]"]),
            st.sampled_from([0, 4]),
        )
    )
)
def test_only_what_is_as_on_disk_is_given_back(maps: list[tuple[str, str, int]]) -> None:
    smaps = "".join(mapping(0x1000 * i, *one) for i, one in enumerate(maps))
    right = [
        (0x1000 * i, 0x1000)
        for i, (perms, path, dirty) in enumerate(maps)
        if perms in ("r-xp", "r--p") and path.startswith("/") and not dirty
    ]
    assert list(clean_code(smaps)) == right
