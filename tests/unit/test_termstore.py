"""The words of a batch until they are written: all of them are, and few are in memory."""

import itertools
import tracemalloc
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import termstore
from worker.steps import terms
from worker.steps.copyrows import Row
from worker.steps.postings import decode
from worker.steps.prepare import Piece
from worker.steps.terms import Vocabulary, language_term
from worker.termstore import TermStore

Listed = Counter[tuple[str, int, int, int]]

texts = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=6).map(" ".join), max_size=12)


def row(number: int, words: str) -> Row:
    return Row(b"", "none", b"", number, 0, Piece(words, len(words), b""))


def rows_of(words: Iterable[str]) -> list[Row]:
    return [row(number, text) for number, text in enumerate(words, 1)]


def listed(store: TermStore, rows: Sequence[Row], start: int, stop: int) -> Listed:
    """Give (term, number, times, length) of all that the store has of these rows."""
    found: Listed = Counter()
    for low, high in store.parts(start, stop):
        for one in store.postings(rows[low:high], low).rows():
            found.update((one.term, *entry) for entry in decode(one.entries).tolist())
    return found


def expected(rows: Sequence[Row]) -> Listed:
    found: Listed = Counter()
    for one in rows:
        words = one.piece.text.split()
        found[language_term("none"), one.number, 0, len(words)] += 1
        found.update((word, one.number, times, len(words)) for word, times in Counter(words).items())
    return found


@pytest.fixture(scope="module", autouse=True)
def tight() -> Iterator[None]:
    """Have a vocabulary be full with a few terms, and a part be of a few rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(terms, "_FULL", 3)
        patch.setattr(termstore, "_BYTES_A_PART", 40)
        patch.setattr(termstore, "_ROWS_A_PART", 3)
        yield


@given(first=texts, kept=st.integers(0, 12), then=texts, memory=st.sampled_from([1, 1 << 20]))
def test_all_terms_of_all_rows_are_listed_once(
    first: list[str], kept: int, then: list[str], memory: int
) -> None:
    store = TermStore(memory, Vocabulary())
    kept = min(kept, len(first))
    store.append(rows_of(first))
    store.take_back(kept)
    rows = rows_of([*first[:kept], *then])
    store.append(rows[kept:])
    for start, stop in ((0, len(rows)), (kept, len(rows)), (0, kept)):
        assert listed(store, rows, start, stop) == expected(rows[start:stop])
    store.close()


def test_memory_does_not_grow_with_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "_FULL", 1_000)
    words = (f"{'long' * 20}{n}" for n in itertools.count())  # longer ones than are remembered by the process
    store = TermStore(1, Vocabulary())
    tracemalloc.start()
    for number in range(1, 201):
        store.append([row(number, " ".join(itertools.islice(words, 100)))])
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    store.close()
    assert most < 2 << 20


def test_a_vocabulary_is_full_of_tokens_that_have_few_terms() -> None:
    vocabulary = Vocabulary()
    spelled = ("".join(letters) for letters in itertools.product(*((one, one.upper()) for one in "ab")))
    vocabulary.ids(" ".join(spelled), "none")
    assert len(vocabulary) == 1
    assert vocabulary.is_full
