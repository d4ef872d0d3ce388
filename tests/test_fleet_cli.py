"""netfuse-onnx plan-fleet: its file, its mistakes, what it prints and writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import Run, refused
from fleets import table
from schemas import faults
from test_json import SCHEMA

from netfuse_onnx.fleet import reading

FLEET = """
p99 = 0.1
[[machine]]
kind = "small"
memory = "2 GB"
workers = 2
[[family]]
name = "chat"
models = ["a", "b", "c"]
rates = [100, 50, 10.5]
weights = "20 MB"
costs = "costs.json"
overhead = 0
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    (tmp_path / "costs.json").write_text(json.dumps(table("lora").as_dict()))
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET)
    return path


def test_a_plan_is_printed_and_written(run: Run, fleet: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    code, printed, told = run("plan-fleet", fleet, "-o", out)
    assert (code, printed) == (0, "")
    assert "1 machines; proven to be the best" in told and "no merging" in told
    plan = json.loads(out.read_text())
    assert not list(faults(plan, SCHEMA["$defs"]["plan-fleet"], SCHEMA))
    assert [sorted(group["models"]) for group in plan["groups"]] and plan["worst"] <= 1.2
    assert sorted(m for group in plan["groups"] for m in group["models"]) == ["a", "b", "c"]
    code, printed, _ = run("plan-fleet", fleet, "--json", "-o", out)
    assert code == 0 and json.loads(printed) == plan == json.loads(out.read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["costs.json", "fleet.toml", "plan.json"]


def test_a_file_that_is_no_plan_stays(run: Run, fleet: Path) -> None:
    for out in (fleet, fleet.parent / "costs.json"):
        before = out.read_bytes()
        refused(run("plan-fleet", fleet, "-o", out, "--simulate", 0), 3, str(out))
        assert out.read_bytes() == before
    refused(
        run("plan-fleet", fleet, "-o", fleet.parent / "no" / "plan.json", "--simulate", 0),
        3,
        "can't be written",
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("p99 = 0.1", "", "family[0].p99 is missing"),
        ("p99 = 0.1", "p99 = -1", "p99 is -1"),
        ("p99 = 0.1", "p99 = nan", "p99 is nan"),
        ("p99 = 0.1", "p99 = 0", "p99 is 0"),
        ("p99 = 0.1", "p99 = 'x'", "p99 is 'x'"),
        ("p99 = 0.1", "p98 = 0.1", "p98 is no key"),
        ("p99 = 0.1", "p99 = = 1", "is no TOML"),
        ("workers = 2", "workers = 0", "machine[0].workers is 0"),
        ("workers = 2", "workers = 2.5", "machine[0].workers is 2.5"),
        ("workers = 2", f"workers = {'9' * 400}", "machine[0].workers is 999"),
        ("workers = 2", "workers = 100000000", "machine[0].workers is 100000000"),
        ("p99 = 0.1", "p99 = 0.1\nspare = 1000000", "spare is 1000000"),
        ("p99 = 0.1", f"p99 = {'9' * 400}", "p99 is 999"),
        ("p99 = 0.1", f"p99 = -{'9' * 400}", "p99 is -999"),
        ("[100, 50, 10.5]", "1e300", "rates is 1e+300"),
        ("workers = 2", "wrokers = 2", "machine[0].wrokers is no key"),
        ("workers = 2", "workers = 2\ncount = 0", "machine[0].count is 0"),
        ("workers = 2", "workers = 2\nprice = inf", "machine[0].price is inf"),
        ('"2 GB"', '"2 apples"', "machine[0].memory is '2 apples'"),
        ('"2 GB"', "true", "machine[0].memory is True"),
        ('["a", "b", "c"]', '["a", "b", "a"]', "has 'a' twice"),
        ('["a", "b", "c"]', "4", "has 3 numbers for 4 models"),
        ('["a", "b", "c"]', "0", "family[0].models is 0"),
        ("[100, 50, 10.5]", "[100, -50, 1]", "family[0].rates[1] is -50"),
        ("[100, 50, 10.5]", "{a = 1, b = 2}", "lacks model 'c'"),
        ("[100, 50, 10.5]", "{a = 1, b = 2, c = 3, d = 4}", "rates.d is no model"),
        ("[100, 50, 10.5]", '"rates.csv"', "rates.csv does not exist"),
        ("[100, 50, 10.5]", "{total = 5, zip = 1}", "rates.zip is no key"),
        ('"20 MB"', '["1 MB"]', "has 1 amounts for 3 models"),
        ('"20 MB"', "-1", "weights is -1"),
        ('"20 MB"', f'"{"9" * 400} MB"', "weights is '999"),
        ('"costs.json"', '"none.json"', "none.json does not exist"),
        ('"costs.json"', '"fleet.toml"', "fleet.toml is no JSON"),
        ('"costs.json"', "{merged = []}", "costs.merged is an empty list"),
        ('costs = "costs.json"', "", "family[0].bundle is missing"),
        ("[[machine]]", "[machine]", "machine is a table"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(run: Run, fleet: Path, old: str, new: str, said: str) -> None:
    assert old in FLEET
    fleet.write_text(FLEET.replace(old, new))
    refused(run("plan-fleet", fleet), 3, said)


def test_help_has_its_examples_in_lines(run: Run) -> None:
    _, said, _ = run("plan-fleet", "--help")
    assert "  Example:\n    netfuse-onnx plan-fleet fleet.toml\n" in said


def test_a_place_for_the_plan_is_checked_before_planning(
    run: Run, fleet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netfuse_onnx.fleet.planning.plan_fleet", lambda *a, **b: pytest.fail("planned"))
    refused(run("plan-fleet", fleet, "-o", fleet), 3, "is the fleet itself")
    refused(run("plan-fleet", fleet, "-o", fleet.parent / "none" / "plan.json"), 3, "no such folder")


def test_names_are_given_once(run: Run, fleet: Path) -> None:
    again = FLEET[FLEET.index("[[family]]") :]
    fleet.write_text(FLEET + again)
    refused(run("plan-fleet", fleet), 3, "family[1].name is 'chat', as that of family[0] is")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"2 GB"', '"30 MB"', "Model 'a' of family 'chat' fits on no machine"),
        ("p99 = 0.1", "p99 = 0.0001", "can't meet its target"),
        ("workers = 2", "workers = 2\ncount = 1", "The machines are too few"),
        ("overhead = 0", "spare = 1", "needs 2 machines for spare = 1"),
    ],
)
def test_what_can_not_be_served_is_a_no_with_what_would_help(
    run: Run, fleet: Path, old: str, new: str, said: str
) -> None:
    text = FLEET.replace(old, new)
    if "too few" in said:
        text = text.replace("[100, 50, 10.5]", "[9000, 9000, 9000]")
    if "spare" in new:
        text = text.replace("workers = 2", "workers = 2\ncount = 1")
    fleet.write_text(text)
    refused(run("plan-fleet", fleet), 1, said)


def test_rates_come_in_many_forms(fleet: Path) -> None:
    def rates(given: str) -> tuple[float, ...]:
        fleet.write_text(FLEET.replace("[100, 50, 10.5]", given))
        return reading.read(str(fleet)).families[0].rates

    (fleet.parent / "rates.csv").write_text("model,rate\nb,2\na,1\nc,3.5\n")
    assert rates('"rates.csv"') == (1.0, 2.0, 3.5)
    assert rates("{b = 2, a = 1, c = 3}") == (1.0, 2.0, 3.0)
    assert rates("7") == (7.0, 7.0, 7.0)
    assert rates("{total = 12}") == (4.0, 4.0, 4.0)
    assert rates("{total = 11, zipf = 1}") == pytest.approx((6.0, 3.0, 2.0))


@pytest.mark.parametrize("line", ["a", "a,1,2", "a,x", "a,nan", "a,1\na,2", "a,-1\nb,1\nc,1"])
def test_a_wrong_line_of_rates_is_told(run: Run, fleet: Path, line: str) -> None:
    (fleet.parent / "rates.csv").write_text(line + "\n")
    fleet.write_text(FLEET.replace("[100, 50, 10.5]", '"rates.csv"'))
    refused(run("plan-fleet", fleet), 3, "rates.csv")


def test_spare_replicas_are_on_machines_of_their_own(run: Run, fleet: Path) -> None:
    fleet.write_text(FLEET.replace("overhead = 0", "spare = 1"))
    code, printed, _ = run("plan-fleet", fleet, "--json", "--no-compare")
    plan = json.loads(printed)
    assert code == 0 and len(plan["machines"]) == 2
    assert all(len(set(group["machines"])) == 2 for group in plan["groups"])
