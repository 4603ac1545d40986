"""The benchmark of diagnoses: faults change what they say, the halves are fixed, and the tables count rightly."""

import jax
import numpy as np
import pytest

from lrx.benchmarks.diagnose import plan
from lrx.benchmarks.diagnose_cases import Case, healthy
from lrx.benchmarks.diagnose_faults import FAULTS, PAIRS, Draw
from lrx.benchmarks.diagnose_kinds import FOUND_ON, KINDS, MEASURED_ON, STEPS
from lrx.benchmarks.diagnose_report import code_table, matrix, plot, summary
from lrx.benchmarks.diagnose_runs import diagnose_two_devices, history_of, run_fully
from lrx.doctor import CODES
from lrx.doctor.diagnose import find
from lrx.doctor.evidence import as_evidence
from lrx.doctor.probe import Start
from lrx.records import Result
from lrx.schedules import cosine_decay


def row(planted, *named, repair=None, kind=MEASURED_ON[0]):
    return {
        "kind": kind,
        "planted": list(planted),
        "family": "sgd",
        "severity": 2.0,
        "named": [list(each) for each in named],
        "harm": 0.5,
        "cost": 0.25,
        "seconds": 1.0,
        "repair": repair,
    }


ROWS = [
    row(["diverges"], ("diverges", "certain"), repair=0.01),
    row(["diverges"], ("rate-too-high", "likely"), ("diverges", "hint"), repair=0.2),
    row(["overfits"]),
    row([], ("batch-too-large", "hint")),
    row([], ("rate-too-low", "likely")),
]


def result(rows=ROWS):
    return Result("diagnose", "cpu", "", [0], {}, {"rows": rows}, 1.0)


def test_no_kind_is_in_both_halves_and_none_is_left_out():
    assert sorted([*FOUND_ON, *MEASURED_ON]) == sorted(KINDS)


def test_tables_count_what_is_named_first_repaired_and_false():
    (line,) = [line for line in summary(result()).splitlines() if line.startswith("| measured")]
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells[1:4] == ["2 of 3 (66.7%)", "1 of 3 (33.3%)", "1 of 3 (33.3%)"]  # one of those named is a hint
    assert cells[4:7] == ["1 of 2 (50.0%)", "2 of 2 (100.0%)", "1 of 2 (50.0%)"]
    assert "| diverges | 2 | 2 to 2 | 2 | 1 | 1 of 2 | rate-too-high 1 |" in code_table(ROWS)
    assert "| overfits | 1 | 2 to 2 | 0 | 0 | words | (nothing) 1 |" in code_table(ROWS)


def test_the_matrix_has_the_shares_of_named_codes_and_draws_them():
    planted, named, shares = matrix(ROWS)
    assert planted == ["diverges", "overfits", "(healthy, hints too)", "(healthy)"]
    assert shares[0, named.index("diverges")] == 1.0
    assert shares[0, named.index("rate-too-high")] == 0.5
    assert (shares[2:, named.index("rate-too-low")] == 0.5).all()
    assert shares[2:, named.index("batch-too-large")].tolist() == [0.5, 0]  # a hint is no false finding
    assert plot(result()).axes[0].get_title().endswith("kinds that were not used")


@pytest.mark.parametrize("code", FAULTS)
def test_a_fault_is_one_of_the_codes_and_changes_the_case_by_its_severity(code):
    assert code in CODES
    kind = "teacher"
    family = next(family for family in ("adamw", "sgd") if FAULTS[code].suits(kind, family))
    sound = Case(kind, family, 0.03, lambda peak: cosine_decay(peak, STEPS))
    faulty = FAULTS[code].plant(sound, Draw(0.03, np.random.default_rng(0), lambda: 0.5))
    assert faulty != sound
    assert faulty.severity > 0
    jax.eval_shape(faulty.tx().init, jax.eval_shape(KINDS[kind].init, jax.random.key(0)))


def test_one_case_in_ten_has_two_faults_and_as_many_cases_are_healthy():
    cases = plan("teacher", range(2))
    planted = [codes for codes, *_ in cases if codes]
    assert len(planted) == sum(not codes for codes, *_ in cases)
    assert 0.05 < np.mean([len(codes) > 1 for codes in planted]) < 0.15
    assert len(set(cases)) == len(cases)
    assert all(code in FAULTS for pair in PAIRS for code in pair)


def test_healthy_cases_of_one_seed_are_the_same_again():
    one, two = (healthy("teacher", "adamw", 0.03, np.random.default_rng(5)) for _ in range(2))
    assert repr(one.tx()) == repr(two.tx())


@pytest.mark.slow
def test_a_run_whose_second_device_has_other_parameters_is_diagnosed_in_a_process_with_two():
    start = Start({"weights": np.ones(2, np.float32)}, (), ())
    run = history_of(np.linspace(1, 0.5, 40), np.linspace(0.1, 0, 40), start)
    found = [diagnose_two_devices(run, {"weights": np.array([1, last], np.float32)}) for last in (1, 1.5)]
    codes = [[each.code for each in find(as_evidence(each["evidence"]))] for each in found]
    assert codes == [[], ["devices-disagree"]]


def test_the_last_steps_of_a_second_device_are_on_other_minibatches():
    case = Case("least-squares", "sgd", 0.03, lambda peak: peak)
    one, same, other = (run_fully(case, 0, alone=alone)[0][-1].params["weights"] for alone in (0, 0, 3))
    np.testing.assert_array_equal(one, same)
    assert np.any(one != other)
    np.testing.assert_allclose(one, other, atol=0.1)
