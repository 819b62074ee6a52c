"""The one check that numbers are finite, against numpy's own on whole arrays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinembed import arrays
from kinembed.arrays import finite_or_raise, rows_not_finite
from kinembed.errors import DataError

BAD = st.sampled_from([np.nan, np.inf, -np.inf])


@given(
    st.sampled_from([(0, 3), (1,), (7,), (9, 2), (12, 2, 3)]),
    st.lists(st.tuples(st.integers(0, 200), BAD), max_size=4),
    st.sampled_from([np.float16, np.float32, np.float64]),
    st.sampled_from([1, 4, 4096]),
)
def test_rows_are_found_block_by_block_as_at_once(
    shape: tuple[int, ...], bad: list[tuple[int, float]], kind: type, block: int
) -> None:
    values = np.ones(shape, kind)
    for index, value in bad if values.size else []:
        values.reshape(-1)[index % values.size] = value
    wanted = [row for row in range(len(values)) if not np.isfinite(values[row]).all()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "BLOCK", block)
        assert rows_not_finite(values).tolist() == wanted
        if wanted:
            with pytest.raises(DataError, match=f"^row {wanted[0]}$"):
                finite_or_raise(values, lambda row: DataError(f"row {row}"))
        else:
            assert finite_or_raise(values, lambda row: DataError(f"row {row}")) is values
