"""A runbook as a person follows it: the commands of its sections are run, and say what the page says."""

import re
import textwrap
from pathlib import Path

from tests.operations.stack import Stack

ROOT = Path(__file__).parents[2]
SECTIONS = (
    "What you see",
    "Why",
    "What to do now",
    "How you know it is over",
    "How to keep it from coming back",
)


class Page:
    """A page of docs/operations, played on a stack. Its tenant `acme` is one of its own there: `tenant`."""

    def __init__(self, name: str, stack: Stack, **settings: str) -> None:
        self.tenant = name
        text = (ROOT / "docs/operations" / f"{name}.md").read_text()
        self._text = text.replace("--tenant acme", f"--tenant {name}")
        self._stack, self._settings = stack, settings

    def run(self, section: str, block: int = 0) -> str:
        """Run the commands of a section's block, one by one; give all they said.

        Raises AssertionError where a command does not say the lines that stand below it, in their order. Of
        numbers it is compared whether they are zero, and … stands for anything.
        """
        said = ""
        for command, expected in _commands(self._block(section, block)):
            output = self._stack.shell(command, **self._settings)
            _compare(command, expected, output)
            said += output
        return said

    def _block(self, section: str, block: int) -> str:
        _, _, after = self._text.partition(f"\n## {section}\n")
        assert after, f"there is no section {section!r}"
        blocks = re.findall(
            r"^ *```console\n(.*?)^ *```", after.partition("\n## ")[0], re.MULTILINE | re.DOTALL
        )
        return textwrap.dedent(blocks[block])


def _commands(block: str) -> list[tuple[str, list[str]]]:
    found: list[tuple[str, list[str]]] = []
    for line in block.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            found.append((line.removeprefix("$ "), []))
        elif line.strip() not in {"", "…"}:
            found[-1][1].append(line.strip())
    return found


def _compare(command: str, expected: list[str], output: str) -> None:
    rest = _plain(output)
    for line in expected:
        pattern = ".*".join(re.escape(part) for part in _plain(line).split("…"))
        match = re.search(pattern, rest)
        assert match, f"$ {command}\nis to say: {line}\nbut says:\n{output}"
        rest = rest[match.end() :]


def _plain(text: str) -> str:
    """Take away what differs from run to run: numbers that are not zero, and how wide a column is."""
    return re.sub(r" +", " ", re.sub(r"\d[\d,.]*", lambda found: "1" if found[0].strip("0,.") else "0", text))
