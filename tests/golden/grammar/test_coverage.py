"""The table in the guide is what the suite gives, and nothing in it is wrong."""

from pathlib import Path

import schema_suite

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "structured_output.md"


def test_coverage(shared_data: Path) -> None:
    tallies = dict(schema_suite.run(shared_data / "prompts" / "json_schema_test_suite" / "draft2020-12"))
    assert [fault for tally in tallies.values() for fault in tally.faults] == []
    assert schema_suite.table(tallies) in GUIDE.read_text(), schema_suite.table(tallies)
