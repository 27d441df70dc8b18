"""Put the last figures into the docs, all there are or those named: python -m benchmarks.publish [NAME …].

In docs/benchmarks.md and docs/reliability.md, between `<!-- NAME -->` and `<!-- end -->`, stand the tables of
benchmarks/out/NAME.json and its chart, where it has one, and nothing else. A chart is drawn where the peers
are installed (`make bench NAME=peers` installs them).
"""

import json
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.charts import CAPTIONS, CHARTS
from benchmarks.peer_runs import ROOT, installed, python
from benchmarks.report import OUT

PAGES = [ROOT / "docs" / name for name in ("benchmarks.md", "reliability.md")]
IMAGES = ROOT / "docs" / "images"
PLACE = re.compile(r"(<!-- (?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main(names: Collection[str]) -> None:
    places = {place["name"] for page in PAGES for place in PLACE.finditer(page.read_text())}
    if unknown := set(names) - places:
        sys.exit(
            f"no page has a place for {', '.join(sorted(unknown))}: there are {', '.join(sorted(places))}"
        )
    for page in PAGES:
        page.write_text(filled(page.read_text(), names))


def filled(page: str, names: Collection[str] = ()) -> str:
    """Give a page with the figures of these benchmarks in their places; without names, of all."""
    return PLACE.sub(
        lambda place: _with_figures(place) if place["name"] in names or not names else place[0], page
    )


def _with_figures(place: re.Match[str]) -> str:
    name, path = place["name"], OUT / f"{place['name']}.json"
    if not path.exists():
        return place[0]
    chart = _chart(name, path) if name in CHARTS else ""
    return f"{place[1]}\n{_tables(json.loads(path.read_text()))}{chart}\n{place[3]}"


def _chart(name: str, path: Path) -> str:
    """Draw the chart anew; gives what shows it, or nothing where there is none."""
    target = IMAGES / f"{name}.png"
    if installed():
        IMAGES.mkdir(exist_ok=True)
        python("-m", "benchmarks.charts", str(path.resolve()), str(target))
    else:
        print(f"{target.name} is not drawn anew: matplotlib comes with the peers", file=sys.stderr)
    return f"\n![{CAPTIONS[name]}](images/{target.name})\n" if target.exists() else ""


def _tables(found: Mapping[str, Any]) -> str:
    machine, versions = found["machine"], found["versions"]
    servers = (
        f"PostgreSQL {versions['postgres']}, pgvector {versions['pgvector']}, Valkey {versions['valkey']}"
    )
    parts = [
        (
            f"{machine['cpu']}, {machine['cores']} cores, {machine['ram_gib']} GiB, {machine['os']}; "
            f"Python {versions['python']}, {servers}{_memory(found['settings'])}."
        ),
        *_repeatable(found["settings"]),
        *([_table(found["demands"])] if found["demands"] else []),
    ]
    facts = []
    for title, figure in found["figures"].items():
        if isinstance(figure, list):
            parts += [f"**{title}**", _table(figure)]
        else:
            facts.append(f"{title}: {_shown(figure)}")
    return "\n\n".join([*parts, *(["; ".join(facts) + "."] if facts else [])]) + "\n"


def _memory(settings: Mapping[str, Any]) -> str:
    return f", shared_buffers {settings['SHARED_BUFFERS']}" if "SHARED_BUFFERS" in settings else ""


def _repeatable(settings: Mapping[str, Any]) -> list[str]:
    """Say with what a run is repeated that goes by chance or by time."""
    if settings.keys().isdisjoint({"SEED", "MINUTES"}):
        return []
    return [", ".join(f"{name}={str(value).removesuffix('.0')}" for name, value in settings.items()) + "."]


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        list(rows[0]),
        ["---"] * len(rows[0]),
        *([_shown(cell) for cell in row.values()] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(cell: Any) -> str:
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return f"{cell:,}" if isinstance(cell, int | float) else str(cell)


if __name__ == "__main__":
    main(sys.argv[1:])
