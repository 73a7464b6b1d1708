from pathlib import Path

from sluice.adapters.kafka.topics import TABLE

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "topics.md"


def test_the_page_names_each_topic_with_key_retention_and_reason():
    page = PAGE.read_text()
    for topic in TABLE:
        [row] = [line for line in page.splitlines() if line.startswith(f"| `{topic.name}`")]
        assert f"`{topic.key}`" in row
        assert f"| {topic.retention_days} days | {topic.reason} |" in row
