"""What producers do, in any order: each rule is one call, with what it may do to documents beside it."""

import os
from pathlib import Path
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.integration.interleaving import ledger
from tests.integration.interleaving.actors import STORM, vector
from tests.integration.interleaving.ledger import Doc
from tests.integration.interleaving.watched import FILE, SCOPES, Scope, Watched, wanted, when
from worker import Document, GivenChunk, GivenDocument, delete, load, restore, submit
from worker.db.engine import transaction
from worker.producer import cancel, retry
from worker.types import SETTLED, Lane

DONE = ("completed", "duplicate", "skipped", "failed")
SUBMITTED = frozenset({("[*]", "pending"), *((status.value, "pending") for status in SETTLED)})
CANCELLED = frozenset({("pending", "cancelled"), ("processing", "cancelled")})
RETRIED = frozenset({("failed", "pending"), ("cancelled", "pending")})
RESTORED = frozenset((status, "pending") for status in ("processing", *(one.value for one in SETTLED)))
LOADED = frozenset((was, status) for was in ("[*]", "pending", "processing", *SETTLED) for status in DONE)

# Paragraphs, each a chunk of its own. Two contents have nothing to index, two are more than the model takes.
PARAGRAPHS = {letter: f"{letter} tells of ships that sail by night." for letter in "abc"} | {
    "s": f"s tells of a {STORM} that ends it all."
}
CONTENTS = {
    letters: [PARAGRAPHS[one] for one in letters] for letters in ("a", "b", "ab", "ba", "abc", "s", "as")
}
CONTENTS |= {"": [], " ": [" \n"]}

SCOPE = st.sampled_from((*SCOPES[:1] * 3, *SCOPES[1:]))
TEXT = st.sampled_from(("a", "b", "c"))
NAME = TEXT | st.just(FILE)
CONTENT = st.sampled_from(sorted(CONTENTS))
LANE = st.sampled_from((Lane.BULK, Lane.BULK, Lane.INTERACTIVE))
PICK = st.integers(0, 5)


class HeldUpError(Exception):
    """The load would wait."""


def refuse(why: str) -> None:
    raise HeldUpError(why)


class Producers(Watched):
    """Of what there is to choose from, `pick` says which: so the draws are the same whatever there is."""

    @rule(scope=SCOPE, name=NAME, content=CONTENT, lane=LANE, checksum=st.booleans())
    def submit(self, scope: Scope, name: str, content: str, lane: Lane, checksum: bool) -> None:
        whole = "\n\n".join(CONTENTS[content])
        path = self.path_of(scope, name)
        before = self.live(scope, name)
        with self.step(SUBMITTED, lambda doc: doc.key == (*scope, path)):
            document = self._document(path, name, whole)
            receipt = submit([document], tenant=scope[0], project=scope[1], lane=lane, checksum=checksum)
            self.wanted |= dict.fromkeys(receipt.new + receipt.changed, wanted(whole))
        assert (len(receipt.new), len(receipt.changed), receipt.unchanged).count(1) == 1
        assert bool(receipt.new) == (before is None)
        if receipt.unchanged:
            assert before is not None
            assert not checksum
            assert self.wanted[before.document_id] == wanted(whole)

    def _document(self, path: str, name: str, content: str) -> Document:
        if name != FILE:
            return Document.text(content, source_path=path)
        file = Path(path)
        if self.files.get(path) != content or not file.exists():
            self.files[path] = content
            file.parent.mkdir(exist_ok=True)
            file.write_text(content)
            self.moment += 1  # two writes may come within a tick of the file system's clock
            os.utime(file, (self.moment, self.moment))
        return Document.path(path)

    @rule(scope=SCOPE, name=TEXT, content=CONTENT)
    def load(self, scope: Scope, name: str, content: str) -> None:
        chunks = [GivenChunk(part, vector(part).tolist()) for part in CONTENTS[content] if part.strip()]
        whole = wanted("".join(chunk.text for chunk in chunks), loaded=True)
        held, before = self.is_paused(*scope, Lane.BULK), self.live(scope, name)
        with self.step(LOADED, lambda doc: doc.key == (*scope, name), in_one=True):
            try:
                given = GivenDocument(name, chunks)
                done = load([given], tenant=scope[0], project=scope[1], held_up=refuse)
            except HeldUpError:
                assert held
                return
            assert not held
            with transaction(self.mine.engine) as connection:
                there = ledger.read(connection).live()
            self.wanted |= {doc.document_id: whole for doc in there if doc.key == (*scope, name)}
        assert done.completed + done.duplicate + done.skipped + done.unchanged == 1
        assert not done.unchanged or before is not None

    @rule(scope=SCOPE)
    @when(lambda self: self.files)
    def lose_a_file(self, scope: Scope) -> None:
        path = self.path_of(scope, FILE)
        if path in self.files:
            Path(path).unlink(missing_ok=True)

    @rule(scope=SCOPE, name=st.none() | NAME)
    @when(lambda self: any(doc.status not in SETTLED for doc in self.state.live()))
    def cancel(self, scope: Scope, name: str | None) -> None:
        before = self.state
        chosen = self._chosen(scope, name)
        with self.step(CANCELLED, lambda doc: doc.document_id in chosen):
            count = cancel(None if name is None else chosen, tenant=scope[0], project=scope[1])
        cancelled = [one for one in chosen if self.state.documents[one].status == "cancelled"]
        assert count == len([one for one in cancelled if before.documents[one].status != "cancelled"])
        assert not [one for one in chosen if self.state.documents[one].status in {"pending", "processing"}]

    @rule(scope=SCOPE, name=st.none() | NAME)
    @when(lambda self: any(doc.status in {"failed", "cancelled"} for doc in self.state.live()))
    def retry(self, scope: Scope, name: str | None) -> None:
        chosen = self._chosen(scope, name)
        with self.step(RETRIED, lambda doc: doc.document_id in chosen):
            retry(None if name is None else chosen, tenant=scope[0], project=scope[1])
        assert not [one for one in chosen if self.state.documents[one].status in {"failed", "cancelled"}]

    def _chosen(self, scope: Scope, name: str | None) -> list[UUID]:
        if name is not None:
            return [doc.document_id for doc in [self.live(scope, name)] if doc]
        return [doc.document_id for doc in self.state.live() if doc.key[:2] == scope]

    @rule(scope=SCOPE, name=NAME)
    def delete(self, scope: Scope, name: str) -> None:
        chosen = self._chosen(scope, name)
        with self.step():
            assert delete(chosen, tenant=scope[0]) == len(chosen)
        assert all(self.state.documents[one].deleted for one in chosen)

    def _deleted(self) -> list[Doc]:
        return [doc for doc in self.state.documents.values() if doc.deleted]

    @rule(pick=PICK)
    @when(lambda self: self._deleted())
    def restore(self, pick: int) -> None:
        doc = self._deleted()[pick % len(self._deleted())]
        free = not [other for other in self.state.live() if other.key == doc.key]
        with self.step(RESTORED, lambda one: one == doc, restored=doc.document_id):
            assert restore([doc.document_id], tenant=doc.tenant) == free
        assert self.state.documents[doc.document_id].deleted != free
