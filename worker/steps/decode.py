"""Bytes of any origin to text that PostgreSQL can store.

    byte order mark → signature → UTF-16/32 by their NULs → UTF-8 → damaged UTF-8 → legacy charset

Pure: the same bytes give the same text everywhere, whatever the file calls itself.
"""

import codecs
import re
from collections import Counter
from itertools import islice
from unicodedata import category

from charset_normalizer import from_bytes

from worker.errors import SkipDocument
from worker.types import Decoded

SAMPLE = 64 * 1024  # bytes shown to the charset detector, which tries dozens of codecs on all it is given
CONTEXT = 256  # bytes of plain ASCII shown to it before the first that is not; more would drown a short text
HEAD = 4096  # bytes in which the pattern of NULs is looked for

# The longer marks first: UTF-16's is the beginning of UTF-32's.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

# Magic that is also readable text ("MZ", "GIF89a", "OggS") counts only with the NULs that follow it in
# real files; "%PDF-1.7" is no way to begin prose.
SIGNATURES = {
    "image": rb"\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a.{0,6}\x00|II\*\x00|MM\x00\*|8BPS\x00|\x00\x00\x01\x00"
    rb"|BM.{4}\x00{4}|RIFF.{4}WEBP",
    "PDF": rb"%PDF-\d\.\d",
    "ZIP": rb"PK(?:\x03\x04|\x05\x06|\x07\x08)",
    "compressed": rb"\x1f\x8b|BZh[1-9]1AY&SY|\xfd7zXZ\x00|7z\xbc\xaf\x27\x1c|\x28\xb5\x2f\xfd"
    rb"|\x04\x22\x4d\x18|Rar!\x1a\x07",
    "archive": rb".{257}ustar|!<arch>\n|\xed\xab\xee\xdb|PACK\x00\x00\x00",
    "program": rb"\x7fELF|MZ.{0,58}\x00\x00|\xca\xfe\xba\xbe|[\xce\xcf]\xfa\xed\xfe"
    rb"|\xfe\xed\xfa[\xce\xcf]|\x00asm",
    "database": rb"SQLite format 3\x00|\x89HDF\r\n|PAR1[\x00-\x1f]|Obj\x01|\x93NUMPY",
    "office": rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    "audio": rb"ID3[\x02-\x04]|\xff[\xfb\xf3\xf2]|OggS\x00|fLaC\x00|RIFF.{4}WAVE|MThd\x00",
    "video": rb".{4}ftyp|\x1aE\xdf\xa3|RIFF.{4}AVI |FLV\x01|\x00\x00\x01[\xba\xb3]",
    "font": rb"wOF[F2]\x00|\x00\x01\x00\x00[\x00-\x40]|OTTO\x00",
}
SIGNATURE = re.compile(
    b"|".join(b"(?P<%s>%s)" % (kind.encode(), magic) for kind, magic in SIGNATURES.items()), re.DOTALL
)

# Left out because text files hold them: tab, newlines, VT, form feed (page breaks), escape (terminal logs).
CONTROLS = bytes((*range(0x09), *range(0x0E, 0x1B), *range(0x1C, 0x20), 0x7F))
CONTROLS_IN_UNICODE = 0.30  # the share of perl's -B test; NUL-separated words are text and have 17 %
CONTROLS_IN_LEGACY = 0.05  # every byte is valid in a legacy charset, and noise has 10 %
BLOCK = 1 << 20  # characters looked through at a time
BROKEN_MOST = 0.5  # judged on samples before, so a good beginning may lead here

# Named, because left to itself the detector prefers iso8859-10 for Polish and cp1125 for Russian.
CHARSETS = [
    *("cp1252", "cp1250", "iso8859_2", "cp1251", "koi8_r", "cp866", "iso8859_5", "cp1253", "iso8859_7"),
    *("cp1254", "cp1255", "cp1256", "cp874", "cp932", "euc_jp", "gb18030", "big5", "cp949"),
]
MULTIBYTE = ("cp932", "euc_jp", "gb18030", "big5", "cp949")
MOSTLY_ASCII = 0.7  # readable with cp1252, whatever the rest means
EVIDENCE = 4  # bytes beyond ASCII; from fewer the detector names charsets at random
SHIFT = re.compile(r"\+[A-Za-z0-9+/]{3,60}+(?![A-Za-z0-9+/])")  # a stretch of UTF-7 (RFC 2152)
SHIFTS = 16  # one of six words between a plus and no letter is a whole stretch by accident
ASCII = frozenset(map(chr, range(0x80)))

# The detector knows no Swedish from Slovak. Alphabets do: those who share a codec's bytes share few letters.
# Portuguese goes without its õ, which would make it of Hungarian in ISO 8859-2.
LATIN = {
    "cp1252": "äöüß àâæçéèêëîïôœùûüÿ áéíóúüñçàèòïª·º áâãàçéêíóôúü àèéìíîòóùú åäöæøéü áéíóúýþæöð"
    " äöõüšž ëïéèöüó",
    "cp1250": "ąćęłńóśźż áčďéěíňóřšťúůýž áäčďéíĺľňóôŕšťúýž áéíóöőúüű ăâîşţ čćđšž",
    "iso8859_2": "ąćęłńóśźż áčďéěíňóřšťúůýž áäčďéíĺľňóôŕšťúýž áéíóöőúüű ăâîşţ čćđšž",
    "cp1254": "çğıöşüâîû",
}
TOUCHING = re.compile(r"(?<=[a-z])[^\x00-\x7f]|[^\x00-\x7f](?=[a-z])")
HIGH = bytes(range(0x80, 0x100))
CONTINUATION = bytes(range(0x80, 0xC0))

# No strict decoder yields lone surrogates, so they can stand for damage until it is counted.
BROKEN, LONE = "\udc00", "\ud800"
CESU_PAIR = re.compile(rb"\xed[\xa0-\xaf][\x80-\xbf]\xed[\xb0-\xbf][\x80-\xbf]")
CESU_LONE = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")


def decode(data: bytes, *, filename: str) -> Decoded:
    r"""Decode a whole file. Linear in its size; never raises anything but `SkipDocument`.

    The result has no NUL and no lone surrogate and no leading byte order mark; line endings stay. `encoding`
    is a Python codec name. `cleaned` counts the NULs removed ("nul"), and the lone surrogates ("surrogate")
    and undecodable sequences ("invalid") that became U+FFFD, one each; only kinds that occurred are there.
    Surrogate pairs written as UTF-8 (CESU-8) become the character they mean.

    Raises `SkipDocument` with the code "empty" (no bytes, or only a byte order mark), "whitespace" (as
    `str.isspace`) or "binary". `filename` only goes into its message.
    """
    if not data:
        raise SkipDocument("empty", f"{filename!r} is empty")
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return _finish(_decode_marking(data[len(mark) :], encoding), encoding, filename)
    if signature := SIGNATURE.match(data):
        raise SkipDocument("binary", f"{filename!r} is not text but a binary file ({signature.lastgroup})")
    if wide := _wide_encoding(data[:HEAD]):
        return _finish(_decode_marking(data, wide), wide, filename)
    return _decode_narrow(data, filename)


def _decode_narrow(data: bytes, filename: str) -> Decoded:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        encoding = (
            "utf-8" if _mostly_utf8(data, error.start) else _legacy_charset(data, error.start, filename)
        )
        return _finish(_decode_marking(data, encoding), encoding, filename)
    # only its escape sequences tell: ISO-2022-JP is valid ASCII
    if "\x1b$" in text and (japanese := _strictly(data, "iso2022_jp_2")):
        return _finish(japanese, "iso2022_jp_2", filename)
    if "+" in text and (shifted := _decode_utf7(text)):
        return _finish(shifted, "utf-7", filename)
    return _finish(text, "utf-8", filename)


def _strictly(data: bytes, charset: str) -> str | None:
    """Decode; None where anything is not of this charset."""
    try:
        return data.decode(charset)
    except UnicodeDecodeError:
        return None


def _decode_utf7(text: str) -> str | None:
    """UTF-7 is valid ASCII: what tells is that every plus begins a whole stretch, and that there are many."""
    if not text.isascii() or len(list(islice(SHIFT.finditer(text), SHIFTS))) < SHIFTS:
        return None
    decoded = _strictly(text.encode(), "utf-7") or ""
    beyond = {category(letter) for letter in set(decoded) - ASCII}
    return None if {"Cc", "Cn", "Co", "Cs"} & beyond else decoded


def _finish(text: str, encoding: str, filename: str) -> Decoded:
    text = text.lstrip("\ufeff")  # some writers put two marks
    if not text:
        raise SkipDocument("empty", f"{filename!r} holds nothing but a byte order mark")
    if _control_share(text) > CONTROLS_IN_UNICODE:
        raise SkipDocument("binary", f"{filename!r} is not text: too many control characters")
    if text.count(BROKEN) > BROKEN_MOST * len(text):
        raise SkipDocument("binary", f"{filename!r} is not text: too little of it can be decoded")
    text, cleaned = _clean(text)
    if not text or text.isspace():
        raise SkipDocument("whitespace", f"{filename!r} holds nothing but whitespace")
    return Decoded(text, encoding, cleaned)


def _clean(text: str) -> tuple[str, dict[str, int]]:
    cleaned = {}
    for kind, found, replacement in (("nul", "\0", ""), ("invalid", BROKEN, "�"), ("surrogate", LONE, "�")):
        if count := text.count(found):
            cleaned[kind] = count
            text = text.replace(found, replacement)
    return text, cleaned


def _control_share(text: str) -> float:
    blocks = (text[at : at + BLOCK] for at in range(0, len(text), BLOCK))
    return sum(_controls(block.encode("utf-8", "surrogatepass")) for block in blocks) / len(text)


def _controls(data: bytes) -> int:
    return len(data) - len(data.translate(None, CONTROLS))


def _decode_marking(data: bytes, encoding: str) -> str:
    """Decode, with BROKEN and LONE standing where something could not be decoded."""
    return data.decode(encoding, "ingest.mark")


def _mark(error: UnicodeError) -> tuple[str, int]:
    """Codec error handler: one mark for a broken sequence. It is stateless, as handlers are process-wide."""
    assert isinstance(error, UnicodeDecodeError)
    if error.encoding.lower() in {"utf-8", "utf8"}:
        return _mark_utf8(error)
    # UTF-16 can be broken in one other way, an odd byte at the end ("truncated data").
    lone = "surrogate" in error.reason or error.reason in {"illegal encoding", "unexpected end of data"}
    return (LONE if lone else BROKEN), error.end


def _mark_utf8(error: UnicodeDecodeError) -> tuple[str, int]:
    if pair := CESU_PAIR.match(error.object, error.start):
        utf16 = pair.group().decode("utf-8", "surrogatepass").encode("utf-16-le", "surrogatepass")
        return utf16.decode("utf-16-le"), pair.end()
    if lone := CESU_LONE.match(error.object, error.start):
        return LONE, lone.end()
    return BROKEN, error.end


codecs.register_error("ingest.mark", _mark)


def _wide_encoding(head: bytes) -> str | None:
    """Name UTF-16 or UTF-32 without a byte order mark, by where the NULs stand."""
    if b"\0" not in head:
        return None
    return _utf32_by_nuls(head) or _utf16_by_nuls(head)


def _utf32_by_nuls(head: bytes) -> str | None:
    whole = head[: len(head) // 4 * 4]
    for encoding, top, plane in (("utf-32-le", 3, 2), ("utf-32-be", 0, 1)):
        # Two characters at least: four bytes with a NUL say nothing.
        if len(whole) >= 8 and not any(whole[top::4]) and max(whole[plane::4]) <= 0x10:  # noqa: PLR2004
            return encoding if _is_text(whole, encoding) else None
    return None


def _is_text(sample: bytes, encoding: str) -> bool:
    text = _strictly(sample, encoding)
    return text is not None and _control_share(text) <= CONTROLS_IN_LEGACY


def _utf16_by_nuls(head: bytes) -> str | None:
    """Latin text has a NUL in nearly every unit; other alphabets in each space, beside one high byte."""
    units = len(head) // 2
    for encoding, high, low in (("utf-16-le", head[1::2], head[0::2]), ("utf-16-be", head[0::2], head[1::2])):
        nuls, elsewhere = high.count(0) / max(units, 1), low.count(0) / max(units, 1)
        two_bytes = sum(count for _, count in Counter(high).most_common(2)) / max(units, 1)
        latin = units > 1 and nuls >= 0.7  # noqa: PLR2004
        alphabet = units >= 16 and nuls >= 0.05 and two_bytes >= 0.9  # noqa: PLR2004
        if elsewhere <= 0.02 and (latin or alphabet):  # noqa: PLR2004
            return encoding
    return None


def _mostly_utf8(data: bytes, start: int) -> bool:
    """Tell damaged UTF-8 from a legacy charset, where multi-byte sequences are rare accidents.

    Judged on the beginning and on the surroundings of `start`, the first undecodable byte.
    """
    around = data[max(0, start - SAMPLE // 4) : start + SAMPLE // 2].lstrip(CONTINUATION)
    good = broken = 0
    for sample in (data[: min(start, SAMPLE)], around):
        text, _ = codecs.utf_8_decode(sample, "ingest.mark", False)  # a sequence cut by us is not broken
        marks = text.count(BROKEN)
        broken += marks
        good += len(text) - len(text.encode("ascii", "ignore")) - marks
    if not good:
        # ASCII up to a sequence that the end of the file cuts; one byte alone is rather a Latin letter.
        return not broken and len(data) - start > 1
    return good >= 2 * broken


def _legacy_charset(data: bytes, start: int, filename: str) -> str:
    """Name the charset, or refuse noise. Sampled around `start` when the beginning is pure ASCII."""
    head = data[:SAMPLE]
    sample = data[max(0, start - CONTEXT) :][:SAMPLE] if head.isascii() else head
    if _controls(sample) > CONTROLS_IN_LEGACY * len(sample):
        raise SkipDocument("binary", f"{filename!r} is not text: no encoding fits")
    if len(sample) - len(sample.translate(None, HIGH)) < EVIDENCE:
        return "cp1252"
    found = _detect_charset(sample) or _nearest_multibyte(sample)
    if found == "cp932" and _strictly(data, "shift_jis") is not None:
        return "shift_jis"  # as JIS has it; Windows has other characters for a few, such as the wave dash
    if found in LATIN:
        return max(LATIN, key=lambda charset: _latin_score(sample, charset))
    if found is None and len(sample.translate(None, HIGH)) < len(sample) * MOSTLY_ASCII:
        raise SkipDocument("binary", f"{filename!r} is not text: no encoding fits")
    return found or "cp1252"


def _detect_charset(sample: bytes) -> str | None:
    for cut in range(4):  # the sample may end inside a character, and the detector decodes strictly
        best = from_bytes(
            sample[: len(sample) - cut], cp_isolation=CHARSETS, preemptive_behaviour=False
        ).best()
        if best is not None:
            return best.encoding
    return None


def _nearest_multibyte(sample: bytes) -> str | None:
    """Name the East Asian charset of a damaged text: at most one broken sequence in a hundred characters."""
    damage = {}
    for charset in MULTIBYTE:
        text = _decode_marking(sample, charset)
        damage[charset] = text.count(BROKEN) / len(text)
    nearest = min(MULTIBYTE, key=lambda charset: damage[charset])
    return nearest if damage[nearest] <= 0.01 else None  # noqa: PLR2004


def _latin_score(sample: bytes, charset: str) -> float:
    """Count what lies within one language's alphabet, of the foreign characters that touch a letter."""
    touching = Counter(TOUCHING.findall(sample.decode(charset, "replace").lower()))
    return max(sum(touching[letter] for letter in alphabet) for alphabet in LATIN[charset].split())
