"""Questions as people ask them, made of what a corpus says: its headings and sentences, and common words.

The same for the same chunks, and no two the same.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import cycle

from sqlalchemy import Connection, text

SENTENCE = re.compile(r"\b[A-Z][a-z]+(?:,? [A-Za-z][a-z'-]*){6,30}[.?!]")
WORD = re.compile(r"[A-Za-z][a-z-]{3,}")
MOST_WORDS, LEAST_WORDS = 14, 2
HEADED = "what does it say about {} and when should it be used"
# {0} and {1}: the longest words of one sentence; {2}: its beginning.
FORMS = (
    "{2}",
    "how does the {0} work and what is it used for",
    "what is the difference between {0} and {1}",
    HEADED,
    "why is the {0} not set when I use {1} in a file",
    "where can I find out which {0} is used by default",
    "is there a way to get all of the {0} without the {1}",
    "{0} {1}",
)

Chunk = tuple[str, Sequence[str]]


def ask_about(chunks: Sequence[Chunk]) -> Iterator[str]:
    """Yield questions about chunks: one of each, then another of each, in another form."""
    asked = {""}
    for turn in range(len(FORMS)):
        for chunk, form in zip(chunks, cycle((*FORMS[turn:], *FORMS[:turn])), strict=False):
            question = _question(*chunk, form)
            if question not in asked:
                asked.add(question)
                yield question


def _question(said: str, headings: Sequence[str], form: str) -> str:
    """Ask about a chunk; gives nothing where it has no sentence of two words that tell something."""
    if form is HEADED:
        return HEADED.format(headings[-1]) if headings else ""
    found = SENTENCE.search(said)
    words = sorted(set(WORD.findall(found[0].lower())), key=lambda word: (-len(word), word)) if found else []
    if found is None or len(words) < LEAST_WORDS:
        return ""
    return form.format(*words[:LEAST_WORDS], " ".join(found[0].split()[:MOST_WORDS]))


def some_chunks(connection: Connection, tenant: str) -> list[Chunk]:
    """Give some of a tenant's chunks as (text, heading path), from all over: in the order of their hashes."""
    found = connection.execute(
        text("""
            SELECT text, heading_path FROM chunks JOIN tenants USING (tenant_id)
            WHERE name = :tenant ORDER BY content_hash LIMIT 5000"""),
        {"tenant": tenant},
    )
    return [(row.text, row.heading_path) for row in found]
