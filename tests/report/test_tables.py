"""Markdown tables: their columns in line, numbers to the right."""

from kinembed.report.tables import markdown_table


def test_text_is_left_aligned_and_numbers_right_aligned() -> None:
    rows = [["recipe", "AUC"], ["base", "0.7"], ["regularized", "0.745"]]
    assert markdown_table(rows, text_columns=1).splitlines() == [
        "| recipe      |   AUC |",
        "| ----------- | ----: |",
        "| base        |   0.7 |",
        "| regularized | 0.745 |",
    ]


def test_a_narrow_column_still_has_a_rule() -> None:
    assert markdown_table([["a", "b"]], text_columns=1) == "| a   |   b |\n| --- | --: |\n"
