import doctest
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry_shared import config
from skerry_shared.config import decode, load_toml
from skerry_shared.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    rate: float = 1.0
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    port: int
    mode: Literal["a", "b"] = "a"
    folder: Path | None = None
    inner: Inner = field(default_factory=Inner)
    named: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.port < 0:
            raise ValueError("port: must not be negative")


def test_everything_declared_is_read() -> None:
    document = {"port": 1, "mode": "b", "folder": "x", "inner": {"rate": 2, "names": ["n"]}, "named": {"k": "v"}}
    assert decode(Outer, document, "t") == Outer(1, "b", Path("x"), Inner(2.0, ("n",)), {"k": "v"})


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({}, "t: missing key 'port' (an integer)"),
        ({"prot": 1}, "t: unknown key 'prot'; did you mean 'port'?"),
        ({"port": 1, "zzzzz": 1}, "t: unknown key 'zzzzz'; known keys: port, mode"),
        ({"port": "1"}, "t: port: expected an integer, got '1'"),
        ({"port": True}, "t: port: expected an integer, got True"),
        ({"port": 1, "mode": "c"}, "t: mode: expected one of 'a', 'b', got 'c'"),
        ({"port": 1, "inner": {"raet": 1}}, "t: inner: unknown key 'raet'; did you mean 'rate'?"),
        ({"port": 1, "inner": {"names": [1]}}, "t: inner: names: expected a string, got 1"),
        ({"port": 1, "inner": 3}, "t: inner: expected a table, got 3"),
        ({"port": -1}, "t: port: must not be negative"),
    ],
)
def test_what_is_wrong_is_named(document: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decode(Outer, document, "t")
    assert str(caught.value).startswith(words)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda v: st.lists(v) | st.dictionaries(st.text(), v),
)


@given(st.dictionaries(st.sampled_from(["port", "mode", "folder", "inner", "named", "other"]), values))
def test_any_document_is_an_outer_or_a_config_error(document: dict[str, object]) -> None:
    try:
        assert isinstance(decode(Outer, document, "t"), Outer)
    except ConfigError as error:
        assert str(error).startswith("t: ")


def test_files_that_are_missing_or_no_toml_are_named(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    with pytest.raises(ConfigError, match="no such file"):
        load_toml(Outer, path)
    path.write_text("port = ")
    with pytest.raises(ConfigError, match=r"c\.toml: "):
        load_toml(Outer, path)
    path.write_text("port = 3")
    assert load_toml(Outer, path) == Outer(3)


def test_doctest() -> None:
    assert doctest.testmod(config).failed == 0
