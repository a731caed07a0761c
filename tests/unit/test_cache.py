"""The memo: what is used stays, what is not goes."""

from __future__ import annotations

from sidecar.generate.cache import ResultCache


def never() -> str:
    raise AssertionError("it was remembered")


def test_a_result_is_made_once() -> None:
    """Within a run, and in the run after it, the first result is given again."""
    memo = ResultCache()
    result = memo.get("key", object)
    assert memo.get("key", never) is result
    memo.rotate()
    assert memo.get("key", never) is result


def test_none_is_a_result() -> None:
    """A function that gives None is not called again either."""
    memo = ResultCache()
    assert memo.get("key", lambda: None) is None
    assert memo.get("key", never) is None


def test_what_is_used_in_every_run_stays_for_ever() -> None:
    """Use in a run keeps a result for the next one, however many there are."""
    memo = ResultCache()
    result = memo.get("key", object)
    for _ in range(10):
        memo.rotate()
        assert memo.get("key", never) is result


def test_what_a_whole_run_did_not_use_is_forgotten() -> None:
    """A result that a run did without, while it made others, is made anew by the next."""
    memo = ResultCache()
    memo.get("key", lambda: "old")
    memo.rotate()
    memo.get("another", object)
    memo.rotate()
    assert memo.get("key", lambda: "new") == "new"


def test_a_run_that_made_nothing_new_forgets_nothing() -> None:
    """Runs that found all they asked for leave the rest for the run that will need it."""
    memo = ResultCache()
    memo.get("key", lambda: "old")
    memo.get("coarse", object)
    memo.rotate()
    for _ in range(5):
        memo.get("coarse", never)
        memo.rotate()
    assert memo.get("key", never) == "old"


def test_memory_is_bounded_by_two_runs() -> None:
    """However many different keys there ever were, those of two runs are all that is kept."""
    memo = ResultCache()
    for run in range(50):
        for number in range(10):
            memo.get((run, number), object)
        memo.rotate()
    assert len(memo) == 10


def test_keys_are_told_apart_by_all_they_hold() -> None:
    """Each key has a result of its own."""
    memo = ResultCache()
    assert [memo.get((name, depth), lambda: object()) for name in "ab" for depth in (1, 2)] == [
        memo.get((name, depth), never) for name in "ab" for depth in (1, 2)
    ]
    assert len(memo) == 4


def test_a_function_that_fails_leaves_nothing_behind() -> None:
    """After an error the next call tries again."""
    memo = ResultCache()
    try:
        memo.get("key", never)
    except AssertionError:
        assert memo.get("key", lambda: "now") == "now"
