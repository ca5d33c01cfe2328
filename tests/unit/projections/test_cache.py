"""The cache of rendered documents: bounded, and never of another generation or position."""

from projections.reads.cache import ENTRY_OVERHEAD_BYTES, DocumentCache, PageCache


def test_gives_back_only_the_position_asked_for() -> None:
    cache = DocumentCache()
    cache.keep("vms", [("a", 7, b"{}")])
    assert cache.look_up("vms", ["a", "a", "b"], [7, 8, 7]) == [b"{}", None, None]
    assert cache.look_up("hosts", ["a"], [7]) == [None]


def test_takes_the_newer_document_in_place_of_the_older() -> None:
    cache = DocumentCache()
    cache.keep("vms", [("a", 7, b"old"), ("a", 8, b"new")])
    assert cache.look_up("vms", ["a", "a"], [7, 8]) == [None, b"new"]


def test_forgets_what_was_unused_for_longest_beyond_its_bound() -> None:
    cache = DocumentCache(bytes_max=3 * (ENTRY_OVERHEAD_BYTES + 10))
    cache.keep("vms", [(name, 1, b"x" * 10) for name in "abc"])
    cache.look_up("vms", ["a"], [1])
    cache.keep("vms", [("d", 1, b"x" * 10)])
    found = cache.look_up("vms", list("abcd"), [1] * 4)
    assert [document is not None for document in found] == [True, False, True, True]


def test_forgets_all_of_another_generation() -> None:
    cache = DocumentCache()
    cache.serve("one")
    cache.keep("vms", [("a", 7, b"{}")])
    cache.serve("one")
    assert cache.look_up("vms", ["a"], [7]) == [b"{}"]
    cache.serve("two")
    assert cache.look_up("vms", ["a"], [7]) == [None]


def test_a_document_larger_than_all_is_not_kept() -> None:
    cache = DocumentCache(bytes_max=100)
    cache.keep("vms", [("a", 7, b"x" * 1_000)])
    assert cache.look_up("vms", ["a"], [7]) == [None]


def test_pages_unused_for_longest_are_forgotten() -> None:
    pages = PageCache(bytes_max=2 * (ENTRY_OVERHEAD_BYTES + 10))
    for name in "ab":
        pages.keep(name, name, 10)
    assert pages.get("a") == "a"
    pages.keep("c", "c", 10)
    assert [pages.get(name) for name in "abc"] == ["a", None, "c"]
    pages.keep("a", "larger", ENTRY_OVERHEAD_BYTES)
    assert [pages.get(name) for name in "abc"] == ["larger", None, None]


def test_pages_of_another_generation_are_forgotten() -> None:
    pages = PageCache()
    assert not pages.serve("one")
    pages.keep("a", "page", 10)
    assert pages.serve("one")
    assert pages.get("a") == "page"
    assert not pages.serve("two")
    assert pages.get("a") is None
