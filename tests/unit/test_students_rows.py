"""Rows are found, filled and laid out as described."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_students import make_samples

from flywheel.students.rows import SHORTEST_PREFIX, Sample, Spans, build_row, common_prefix, fill_rows


def ids(*tokens: int) -> np.ndarray:
    return np.array(tokens, np.int32)


def test_the_prefix_is_what_all_prompts_begin_with() -> None:
    head = list(range(30))
    assert common_prefix([ids(*head, 1, 2), ids(*head, 1, 3), ids(*head, 4)]) == 30


def test_a_prompt_that_is_all_prefix_keeps_a_token_of_its_own() -> None:
    head = list(range(30))
    assert common_prefix([ids(*head), ids(*head, 1, 2)]) == 29
    assert common_prefix([ids(*head)]) == 29


def test_a_short_common_beginning_is_no_prefix() -> None:
    head = list(range(SHORTEST_PREFIX - 1))
    assert common_prefix([ids(*head, 1, 2), ids(*head, 3, 4)]) == 0
    assert common_prefix([]) == 0


def test_a_row_holds_the_prefix_once_and_continues_its_positions() -> None:
    head = list(range(100, 120))
    samples = [
        Sample(ids(*head, 1), ids(50, 51)),
        Sample(ids(*head, 2, 3, 4), ids(60)),
        Sample(ids(*head, 5), ids(70, 71, 72, 73)),
    ]
    row = build_row(ids(*head), samples)
    # Longest first; the last token of an answer predicts nothing.
    assert row.tokens.tolist() == [*head, 5, 70, 71, 72, 2, 3, 4, 1, 50]
    assert row.positions.tolist() == [*range(20), 20, 21, 22, 23, 20, 21, 22, 20, 21]
    assert row.samples.tolist() == [0, 4, 7, 9]
    assert row.predicting.tolist() == [20, 21, 22, 23, 26, 27, 28]
    assert row.targets.tolist() == [70, 71, 72, 73, 60, 50, 51]
    assert row.predicted.tolist() == [0, 4, 5, 7]


def test_rows_are_filled_up_to_the_limit_and_keep_all_samples() -> None:
    samples = make_samples(50, 40)
    rows = list(fill_rows(50, samples, 200))
    assert len(rows) > 1
    assert [sample for row in rows for sample in row] == samples
    sizes = [50 + sum(len(sample) - 50 for sample in row) for row in rows]
    assert max(sizes) <= 200
    for size, following in zip(sizes, rows[1:], strict=False):
        assert size + len(following[0]) - 50 > 200


def test_a_sample_longer_than_the_limit_has_a_row_of_its_own() -> None:
    samples = make_samples(30, 3)
    assert [len(row) for row in fill_rows(30, samples, 10)] == [1, 1, 1]


@pytest.mark.parametrize("lengths", [[9, 9, 8], [40, 39, 8, 8, 1], [1, 1]])
def test_groups_hold_every_token_once_and_waste_little(lengths: list[int]) -> None:
    ends = np.cumsum([0, *lengths])
    spans = Spans(ends, ends, causal=True)
    assert sum(group.batch for group in spans.groups) == len(lengths)
    for group in spans.groups:
        tokens = group.queries.stop - group.queries.start
        assert group.query_of_cell[group.query_cells].tolist() == list(range(tokens))
        assert group.batch * group.longest_query <= tokens / 0.75
    assert [group.queries.start for group in spans.groups[1:]] == [
        group.queries.stop for group in spans.groups[:-1]
    ]
