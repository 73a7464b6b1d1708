"""One word, one thing: what the glossary retired does not come back, and what it names is used."""

import re
from pathlib import Path

import pytest

from tests.support import tree

GLOSSARY = Path("docs/reference/glossary.md").read_text()
RETIRED = {
    "door": r"\bdoors?\b|[a-z]_door\b|Door\b",
    "rung": r"\brungs?\b|Rung\b",
    "walk, of the pipeline": r"\bthe walk\b",
    "claim, of an id": r"\bclaim(ed_elsewhere|_ttl)|sluice:claim",
    "meter, of the check": r"\b(truth|the) meter\b|sluice_meter|services[./]meter",
    "journal": r"\b[Jj]ournal",
    "cursed, bury": r"_cursed|_bury\b",
    "in force, of the configuration": r"\bInForce\b",
}
PLACES = (
    "src",
    "services",
    "local",
    "simulator",
    "feature_repo",
    "charts",
    "docs",
    "tests/support",
)


def texts() -> list[Path]:
    return [Path(p) for p in tree.files(*PLACES, kinds={".py", ".md", ".yaml", ".json"})]


@pytest.mark.parametrize("word", RETIRED)
def test_a_retired_word_is_used_nowhere(word: str) -> None:
    pattern = re.compile(RETIRED[word])
    found = [
        f"{path}:{number}"
        for path in texts()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found


def test_each_word_of_the_glossary_is_used_outside_of_it() -> None:
    words = [
        word.lower()
        for row in re.findall(r"^\| \*\*(.+?)\*\*[ ,|]", GLOSSARY, re.MULTILINE)
        for word in row.split(", ")
    ]
    assert len(words) > 30
    everything = "\n".join(p.read_text().lower() for p in texts() if p.name != "glossary.md")
    spoken = re.sub(r"[_\s*`\]\[]+", " ", everything)
    assert [w for w in words if w not in spoken] == []
