import pytest
from hypothesis import given
from hypothesis import strategies as st

from skerry_edge.infer.choose import Choice, Finding, batch_limit, choose, runs_at_once
from skerry_shared.errors import ModelError

CUDA = Finding("cuda", p50_ms=0.1, batch=8)
CPU = Finding("cpu", p50_ms=0.2)
BROKEN = Finding("tensorrt", "crashed (SIGSEGV)")


def test_the_fastest_that_is_right() -> None:
    assert choose([BROKEN, CUDA, CPU]) == Choice(
        "cuda", 8, "cuda 0.1 ms, cpu 0.2 ms; tensorrt: crashed (SIGSEGV)", p50_ms=0.1
    )  # fmt: skip


def test_an_accelerator_that_works_but_is_slower_is_no_fall_back() -> None:
    choice = choose([Finding("cuda", p50_ms=0.3), CPU])
    assert (choice.provider, choice.fallback_from) == ("cpu", "")


def test_a_fall_back_names_what_should_have_done_it() -> None:
    assert choose([BROKEN, CPU]) == Choice("cpu", 1, "tensorrt: crashed (SIGSEGV)", "tensorrt", 0.2)


def test_none_will_do() -> None:
    with pytest.raises(ModelError, match=r"tensorrt: crashed \(SIGSEGV\); cpu: wrong"):
        choose([BROKEN, Finding("cpu", "wrong")])
    with pytest.raises(ModelError, match="no provider"):
        choose([])


findings = st.lists(
    st.builds(
        Finding, st.sampled_from(["cpu", "cuda", "tensorrt"]), st.sampled_from(["", "", "broken"]), st.just(0.0),
        st.floats(0.01, 100),
    ), unique_by=lambda finding: finding.provider,
)  # fmt: skip


@given(findings)
def test_never_what_is_faulty_and_never_silently_the_cpu(found: list[Finding]) -> None:
    right = {finding.provider: finding.p50_ms for finding in found if not finding.fault}
    if not right:
        return
    choice = choose(found)
    assert right[choice.provider] == min(right.values())
    broken = {finding.provider for finding in found if finding.fault and finding.provider != "cpu"}
    assert bool(choice.fallback_from) == (bool(broken) and set(right) == {"cpu"})


@pytest.mark.parametrize(("batch", "p50_ms", "runs"), [(1, 0.1, 8), (1, 5.0, 2), (4, 0.1, 2), (1, 0.0, 2)])
def test_only_short_runs_that_gain_nothing_by_waiting_do_not_wait(batch: int, p50_ms: float, runs: int) -> None:
    assert runs_at_once(Choice("cpu", batch, "", p50_ms=p50_ms), cores=2) == runs
    assert runs_at_once(Choice("cpu", batch, "", p50_ms=p50_ms), cores=16) == 16


@pytest.mark.parametrize(
    ("each", "limit"),
    [
        ([(1, 1.0)], 1),
        ([(1, 1.0), (2, 0.95)], 1),
        ([(1, 1.0), (2, 0.6), (4, 0.4), (8, 0.39)], 4),
        ([(1, 1.0), (2, 1.2), (4, 0.1)], 1),
        ([], 1),
    ],
)
def test_batches_only_while_they_pay(each: list[tuple[int, float]], limit: int) -> None:
    assert batch_limit(each) == limit
