"""The table of costs says what the scheduler does with the same costs."""

import json

import pytest
from fake_engine import FakeEngine, serving
from hypothesis import given
from hypothesis import strategies as st

from netfuse_onnx.errors import FileFault
from netfuse_onnx.runtime.cost_table import CostTable, cost_table
from netfuse_onnx.runtime.costs import given as given_costs
from netfuse_onnx.runtime.limits import Limits
from netfuse_onnx.runtime.merges import merges_from

LIMITS = Limits(max_rows=4, max_batch=8)
SECONDS = st.floats(1e-6, 1.0)


@given(
    st.sampled_from(["separate", "index", "selected"]), st.integers(1, 9), SECONDS, SECONDS, st.integers(1, 3)
)
def test_the_table_has_the_times_and_the_choice_of_the_scheduler(io, models, own, merged, workers) -> None:
    costs = given_costs(io, models, {1: own, 8: 4 * own}, {1: merged, 4: 3 * merged})
    table = cost_table(costs, (), LIMITS, models=models, workers=workers, threads=1)
    assert [one.rows for one in table.alone] == [1, 2, 4, 8]
    assert table.alone[0].seconds == costs.of(()).alone(1)
    last = table.merged[-1]
    assert (last.models, last.rows) == (models, 4)
    assert last.seconds == costs.merged((), dict.fromkeys(range(models), 4))
    assert table.pays_from == merges_from(costs, models, (), workers, limits=LIMITS)
    assert CostTable.of_dict(json.loads(json.dumps(table.as_dict()))) == table


def test_a_session_tells_its_own_table() -> None:
    with serving(FakeEngine()) as session:
        table = session.cost_table()
        assert table.models == len(session.models) and table.alone and table.merged


@pytest.mark.parametrize("told", [{}, {"netfuse_costs": 2}, {"netfuse_costs": 1, "models": "x"}])
def test_what_is_no_table_is_refused(told: dict[str, object]) -> None:
    with pytest.raises(FileFault):
        CostTable.of_dict(told)
