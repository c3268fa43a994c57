"""What benchmarks leave behind."""

import json
import math

from tradewind.bench.report import Report, percentile


def test_a_report_can_be_printed_and_read_back(tmp_path, capsys):
    report = Report("thing", {"seed": 3}, [{"load": 1, "rate": 2.5}, {"load": 8, "rate": 1234.5}])
    report.print()
    assert "1234" in capsys.readouterr().out
    record = json.loads(report.write(tmp_path).read_text())
    assert record["rows"] == report.rows
    assert record["settings"] == {"seed": 3}


def test_a_row_that_is_added_is_told_at_once(capsys):
    report = Report("thing", {})
    report.add({"load": 8, "rate": 1234.5})
    assert capsys.readouterr().out == "load 8, rate 1234\n"
    assert report.rows == [{"load": 8, "rate": 1234.5}]


def test_percentiles():
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile(range(100), 0.99) == 99
    assert math.isnan(percentile([], 0.5))
