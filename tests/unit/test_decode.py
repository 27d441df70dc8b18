import codecs
import gzip
import os
import warnings
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.hostile.manifest import NASTY as MANIFEST
from worker.errors import SkipDocument
from worker.steps.decode import HEAD, MARKS, SAMPLE, decode
from worker.types import Decoded

CORPORA = os.environ.get("CORPORA", "")
NASTY = sorted(path for path in Path(CORPORA, "nasty").rglob("*") if path.is_file()) if CORPORA else []

FRENCH = "Le garçon naïf a été reçu à l’école où l’élève préféré mangeait des gâteaux près de la forêt. "  # noqa: RUF001
GERMAN = "Die Straße führt über die Brücke zum größten Bäcker der Stadt, wo es süße Brötchen gibt. "
SWEDISH = "Här går flickan på ängen och plockar blåbär för att göra sylt åt sin mormor på ålderns höst. "
PORTUGUESE = "A situação não é fácil, mas a nação está em transformação. Os cidadãos não têm informações. "
POLISH = (
    "Wczoraj poszliśmy do sklepu, żeby kupić świeże pieczywo i mleko. Książka leży na stole, a dzieci śpią. "
)
CZECH = "Příliš žluťoučký kůň úpěl ďábelské ódy. Včera jsme šli do města koupit čerstvý chléb a mléko. "
HUNGARIAN = (
    "Tegnap elmentünk a boltba, hogy friss kenyeret és tejet vegyünk. Később hazamentünk, és főztünk. "
)
TURKISH = "Bugün hava çok güzel, çocuklar bahçede oynuyor. İş yerim şehir merkezinde, ağaçların gölgesinde. "  # noqa: RUF001
RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему. "  # noqa: RUF001
GREEK = "Χθες πήγαμε στην αγορά για να αγοράσουμε φρέσκο ψωμί και γάλα για τα παιδιά. "  # noqa: RUF001
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗い所で泣いていた。"
SIMPLIFIED = "话说天下大势,分久必合,合久必分。周末七国分争,并入于秦。及秦灭之后,楚、汉分争,又并入于汉。"
TRADITIONAL = "話說天下大勢，分久必合，合久必分。周末七國分爭，並入於秦。及秦滅之後，楚、漢分爭，又並入於漢。"  # noqa: RUF001
KOREAN = "모든 국민은 법 앞에 평등하다. 누구든지 성별 또는 사회적 신분에 의하여 차별을 받지 아니한다. "

LEGACY = [
    *(
        (FRENCH, "cp1252"),
        (GERMAN, "cp1252"),
        (GERMAN, "iso-8859-1"),
        (SWEDISH, "cp1252"),
        (PORTUGUESE, "cp1252"),
    ),
    *(
        (POLISH, "iso-8859-2"),
        (POLISH, "cp1250"),
        (CZECH, "iso-8859-2"),
        (CZECH, "cp1250"),
        (HUNGARIAN, "iso-8859-2"),
    ),
    *(
        (TURKISH, "cp1254"),
        (RUSSIAN, "koi8-r"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "cp866"),
        (GREEK, "iso-8859-7"),
    ),
    *((JAPANESE, "shift_jis"), (JAPANESE, "euc-jp"), (JAPANESE, "iso-2022-jp"), (SIMPLIFIED, "gb18030")),
    *((TRADITIONAL, "big5"), (KOREAN, "euc-kr")),
]
# Encodings that files of the collection say they have, where their name does not end in it.
SAID = {
    "shift_jis-ja.txt": "shift_jis",
    "euc-jp-ja.txt": "euc_jp",
    "iso-2022-jp-ja.txt": "iso2022_jp",
    "gb18030-zh.txt": "gb18030",
    "gb18030-4byte.txt": "gb18030",
    "utf7-fr.txt": "utf-7",
    "esperanto.latin1.txt": "iso8859-1",
    "i_string_UTF-16LE_with_BOM.json": "utf-16-le",
    "i_string_utf16LE_no_BOM.json": "utf-16-le",
    "i_string_utf16BE_no_BOM.json": "utf-16-be",
    "i_string_iso_latin_1.json": "iso8859-1",
    "cesu8-surrogates.txt": "cesu-8",
}
WIDE = ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")


def read(data: bytes) -> Decoded:
    return decode(data, filename="a file")


def code_of(data: bytes) -> str:
    with pytest.raises(SkipDocument) as caught:
        read(data)
    assert "\n" not in caught.value.message
    return caught.value.code


def codec_of(path: Path) -> str | None:
    """The encoding a file has for certain; None of a damaged one."""
    wide = {"utf16": "utf-16", "utf32": "utf-32"}.get(path.stem.rpartition(".")[2])
    if named := SAID.get(path.name, wide):
        return named
    try:
        path.read_bytes().decode()
    except UnicodeDecodeError:
        return None
    return "utf-8"


def truth_of(data: bytes, codec: str) -> str:
    """Decode by Python's codecs; CESU-8, which has none, by joining its pairs (Unicode TR 26)."""
    if codec != "cesu-8":
        return data.decode(codec, "replace")
    return data.decode("utf-8", "surrogatepass").encode("utf-16-le", "surrogatepass").decode("utf-16-le")


def assert_storable(data: bytes) -> None:
    try:
        decoded = read(data)
    except SkipDocument as skipped:
        assert skipped.code in {"empty", "whitespace", "binary"}  # noqa: PT017 -- either outcome is right
        return
    assert decoded.text.encode()
    assert "\0" not in decoded.text
    assert decoded.text.strip()
    assert codecs.lookup(decoded.encoding)
    assert all(count > 0 for count in decoded.cleaned.values())
    assert decoded.cleaned.keys() <= {"nul", "surrogate", "invalid"}


# What the decoder looks for, and what is longer than what it looks at: alone, repeated, one behind the other.
PARTS = [
    *(mark for mark, _ in MARKS),
    *(
        b"",
        b"\0",
        b"\0\0",
        b"\x1b",
        b"\x1b$B",
        b"\x1b(B",
        b"\x01",
        b" \r\n",
        b"word ",
        b"\xe9",
        b"\xff",
        b"\x80",
    ),
    *(
        b"\xed\xa0\xbd\xed\xb8\x80",
        b"\xed\xa0\x80",
        b"\xe6\x97",
        b"\xf0\x9f\x98",
        b"\xef\xbf\xbd",
        b"%PDF-1.7",
    ),
    *(
        b"a\0",
        b"\0a",
        b"\0\xd8",
        b"a\0\0\0",
        b"\0\0\0a",
        b"\0\0\x11\0",
        "ж".encode("utf-16-le"),
        "語 ".encode(),
    ),
    *(RUSSIAN.encode("koi8-r"), JAPANESE.encode("euc-jp"), GERMAN.encode("cp1252"), TURKISH.encode()),
]
TIMES = st.sampled_from([1, 1, 1, 1, 1, 2, 2, 3, 10, 100, HEAD, SAMPLE])
PATCHES = st.lists(
    st.builds(
        lambda part, times: part * min(times, SAMPLE // max(len(part), 1) + 1), st.sampled_from(PARTS), TIMES
    )
    | st.binary(max_size=9),
    max_size=8,
).map(b"".join)


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=300) | PATCHES)
@example(b"\xff\xfe\x00")
@example(b"\xff\xfe\x00\xd8")
@example(b"\x00\x00\xfe\xff\x00\x11\x00\x00")
@example(b"\xff\xfe\x00\x00a\x00\x00\x00\xff")
@example(b"\xed\xa0\x80")
@example(b"\x1b$B\xff")
@example(b"\x1b$B\x01\x01 words")
@example(b"\0\xd8\0\0\0\xd8\0\0")
def test_any_bytes_are_storable_or_skipped(data: bytes) -> None:
    assert_storable(data)


@settings(max_examples=300, deadline=None)
@given(st.text(min_size=1), st.sampled_from([*WIDE, "cp1252", "shift_jis", "gb18030"]), st.binary(max_size=9))
def test_damaged_text_is_storable_or_skipped(text: str, encoding: str, damage: bytes) -> None:
    data = text.encode(encoding, "ignore")
    assert_storable(data[: len(data) // 2] + damage + data[len(data) // 2 :])


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(
        lambda text: text.strip().strip("\ufeff%")
    )
)
def test_utf8_comes_back(text: str) -> None:
    decoded = read(codecs.BOM_UTF8 + text.encode())
    assert decoded == Decoded(text.lstrip("\ufeff"), "utf-8")


@pytest.mark.parametrize("encoding", WIDE)
@pytest.mark.parametrize("text", [FRENCH, RUSSIAN, JAPANESE, "👩‍👩‍👧\r\nx", "a"])
def test_byte_order_marks(text: str, encoding: str) -> None:
    assert read(("\ufeff" + text).encode(encoding)) == Decoded(text, encoding)


@pytest.mark.parametrize("encoding", WIDE)
@pytest.mark.parametrize("text", [FRENCH, RUSSIAN * 3, "ab"])
def test_wide_text_without_a_mark(text: str, encoding: str) -> None:
    assert read(text.encode(encoding)) == Decoded(text, encoding)


@pytest.mark.parametrize(("text", "encoding"), LEGACY)
@pytest.mark.parametrize("times", [3, 2000])
def test_legacy_text(text: str, encoding: str, times: int) -> None:
    decoded = read((text * times).encode(encoding))
    assert decoded.text == text * times
    assert not decoded.cleaned


def test_legacy_text_behind_a_long_ascii_beginning() -> None:
    text = "plain words\n" * 20_000 + RUSSIAN * 20
    assert read(text.encode("koi8-r")).text == text


def test_damaged_legacy_text() -> None:
    decoded = read((JAPANESE * 20).encode("euc-jp") + b"\xff\n" + (JAPANESE * 20).encode("euc-jp"))
    assert decoded == Decoded(JAPANESE * 20 + "�\n" + JAPANESE * 20, "euc_jp", {"invalid": 1})


@pytest.mark.parametrize(
    ("broken", "count"),
    [(b"\xff", 1), (b"\xe6\x97", 1), (b"\xc0\xaf", 2), (b"\xf5\x80", 2), (b"\xe9 \xe9", 2)],
)
def test_broken_sequences_in_utf8_are_counted(broken: bytes, count: int) -> None:
    decoded = read(JAPANESE.encode() + broken + JAPANESE.encode())
    assert (decoded.encoding, decoded.cleaned) == ("utf-8", {"invalid": count})
    assert decoded.text.count("�") == count


@pytest.mark.parametrize("beginning", ["ascii only ", JAPANESE, RUSSIAN * 9000])
def test_a_truncated_last_sequence(beginning: str) -> None:
    assert read(beginning.encode() + b"\xe6\x97") == Decoded(beginning + "�", "utf-8", {"invalid": 1})


@pytest.mark.parametrize("text", [FRENCH * 3, RUSSIAN * 3])
def test_utf7(text: str) -> None:
    assert read(text.encode("utf-7")) == Decoded(text, "utf-7")


@pytest.mark.parametrize(
    "text",
    [
        "C++ and C++ and +49 30 1234 and a+b-c",
        "+AOk-" * 15 + " is too little to tell by",
        "+AOk-" * 20 + " and C++",
        "+2AA-" * 20,
        "+" * 100_000,
    ],
)
def test_what_only_looks_like_utf7(text: str) -> None:
    assert read(text.encode()) == Decoded(text, "utf-8")


def test_genuine_replacement_characters_are_not_damage() -> None:
    assert read("a � b".encode()) == Decoded("a � b", "utf-8")


def test_nuls_are_removed_and_counted() -> None:
    words = b"words\0between\0which\0stand\0NULs"
    assert read(words) == Decoded("wordsbetweenwhichstandNULs", "utf-8", {"nul": 4})


@pytest.mark.parametrize("encoding", WIDE)
def test_lone_surrogates_are_replaced_and_counted(encoding: str) -> None:
    data = f"\ufeff{RUSSIAN}\ud800 and \udc00{RUSSIAN}\udbff".encode(encoding, "surrogatepass")
    assert read(data) == Decoded(f"{RUSSIAN}� and �{RUSSIAN}�", encoding, {"surrogate": 3})


def test_surrogate_pairs_in_utf8_are_characters() -> None:
    data = RUSSIAN.encode() + b"\xed\xa0\xbd\xed\xb8\x80"
    assert read(data) == Decoded(RUSSIAN + "😀", "utf-8")


def test_an_odd_byte_behind_utf16_is_damage() -> None:
    assert read(codecs.BOM_UTF16_LE + "text".encode("utf-16-le") + b"x").cleaned == {"invalid": 1}


def test_line_endings_stay() -> None:
    assert read(b"a\r\nb\rc\nd").text == "a\r\nb\rc\nd"


@pytest.mark.parametrize(
    "data", [b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE]
)
def test_empty(data: bytes) -> None:
    assert code_of(data) == "empty"


@pytest.mark.parametrize("encoding", WIDE)
def test_whitespace(encoding: str) -> None:
    assert code_of("\ufeff \t\r\n\u2003\u00a0".encode(encoding)) == "whitespace"


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        b"\xff\xd8\xff\xe0\0\x10JFIF\0",
        b"GIF89a\x10\0\x10\0\x80\0\0",
        b"%PDF-1.7\nall of it ASCII",
        b"PK\x03\x04\x14\0\x06\0",
        gzip.compress(b"text" * 99, mtime=0),
        b"\x7fELF\x02\x01\x01\0",
        b"MZ\x90\0\x03\0\0\0\x04\0\0\0\xff\xff",
        b"\xca\xfe\xba\xbe\0\0\0\x34",
        b"SQLite format 3\0\x10\0",
        b"\0asm\x01\0\0\0",
        b"ID3\x03\0\0\0",
        b"\xff\xfb\x90\x64",
        b"\0\0\0\x20ftypisom",
        b"OggS\0\x02\0\0",
        bytes(range(256)) * 40,
        b"\0" * 5000,
        b"\x01\x02\x03" * 500,
    ],
)
def test_binary(data: bytes) -> None:
    assert code_of(data) == "binary"


@pytest.mark.parametrize(
    "text", ["MZ is a file format", "GIF89a, a history", "OggS", "ID3 tags", "PKWARE", "BM25 ranks"]
)
def test_prose_that_begins_like_a_signature(text: str) -> None:
    assert read(text.encode()).text == text


if CORPORA:

    @pytest.mark.parametrize("path", NASTY, ids=lambda path: path.name)
    def test_nasty_files(path: Path) -> None:
        assert_storable(path.read_bytes())

    def test_files_of_a_known_encoding_say_what_it_says() -> None:
        known = {path: codec for path in NASTY if (codec := codec_of(path))}
        assert {path.name for path in known} >= SAID.keys()
        for path, codec in known.items():
            data = path.read_bytes()
            truth = truth_of(data, codec).replace("\0", "").lstrip("\ufeff")
            expected = MANIFEST.get(str(path.relative_to(Path(CORPORA, "nasty"))))
            if expected and expected.status == "skipped":
                assert code_of(data) == expected.code, path
            else:
                assert read(data).text == truth, path

    @pytest.mark.parametrize(
        "path",
        [path for path in NASTY if ".utf16" in path.name or ".utf32" in path.name],
        ids=lambda path: path.name,
    )
    def test_wide_files_say_what_their_utf8_twins_say(path: Path) -> None:
        twin = path.with_name(path.name.replace("utf16", "utf8").replace("utf32", "utf8"))
        text, said = read(path.read_bytes()).text, read(twin.read_bytes()).text
        # The collection cuts each file at a number of bytes.
        assert text[:10_000] == said[:10_000]

else:
    warnings.warn("CORPORA is not set: the nasty files are not read", stacklevel=1)
