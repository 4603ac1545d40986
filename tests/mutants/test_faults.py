"""The faults that `run.py` draws: the same for a seed, one statement each, and found again where the code has moved."""

import ast
import random

import pytest
from mutants.faults import draw, faults_of, find

SOURCE = '''
"""A module. 1 + 1."""

def halve(x: "1 + 1", *, least=0.0):
    """Return x / 2, at least `least`."""
    if x < least:
        raise ValueError(f"x must be at least {least + 0.0}, got {x - 0.0}.")
    x = max(x / 2, least)
    print("halved", x + 1)
    return x


class State:
    def __repr__(self):
        return f"{1 + 1}" if self is None else "2" * 3
'''


def test_each_fault_changes_one_statement_and_no_text():
    found = faults_of("room", "a.py", SOURCE)
    expected = {
        ("def halve(x, *, least=0.0):\n    pass", "def halve(x, *, least=1.0):\n    pass"),
        ("if x < least:\n    pass", "if x <= least:\n    pass"),
        ("if x < least:\n    pass", "if x > least:\n    pass"),
        ("if x < least:\n    pass", "if not x < least:\n    pass"),
        ("x = max(x / 2, least)", "pass"),
        ("x = max(x / 2, least)", "x = max(x * 2, least)"),
        ("x = max(x / 2, least)", "x = max(x / 3, least)"),
        ("x = max(x / 2, least)", "x = max(least, x / 2)"),
        ("x = max(x / 2, least)", "x = min(x / 2, least)"),
        ("x = max(x / 2, least)", "x = x / 2"),
    }
    changes = {(fault.before, fault.after) for fault in found if not fault.before.startswith("raise")}
    assert changes == expected
    assert [fault.after for fault in found if fault.before.startswith("raise")] == ["pass"]
    for fault in found:
        _, mutated = find(fault, {"a.py": SOURCE})
        assert ast.dump(ast.parse(mutated)) != ast.dump(ast.parse(SOURCE))
        assert len(mutated.splitlines()) == len(SOURCE.splitlines())


def test_a_seed_draws_the_same_faults_of_several_files_and_kinds():
    sources = {"a.py": SOURCE, "b.py": SOURCE.replace("halve", "other")}
    first, second = (draw("room", sources, 8, random.Random(7), set()) for _ in range(2))
    assert first == second
    assert len(set(first)) == 8
    assert {fault.file for fault in first} == {"a.py", "b.py"}
    assert len({fault.kind for fault in first}) >= 6


@pytest.mark.parametrize(
    "moved",
    [
        {"room/new.py": SOURCE},
        {"a.py": SOURCE.replace("halve", "half"), "b.py": ""},
        {"a.py": SOURCE.replace("max(x / 2, least)", "max(x / 2, least_value)")},
    ],
    ids=["moved", "renamed", "with other names"],
)
def test_a_fault_is_found_after_its_function_was_moved_or_renamed(moved):
    (fault,) = [fault for fault in faults_of("room", "a.py", SOURCE) if fault.after == "x = min(x / 2, least)"]
    file, mutated = find(fault, {"x.py": "y = 1\n"} | moved)
    assert file in moved
    assert "x = (min(x / 2, least" in mutated


def test_a_fault_whose_statement_is_gone_is_not_found():
    (fault,) = [fault for fault in faults_of("room", "a.py", SOURCE) if fault.after == "x = min(x / 2, least)"]
    assert find(fault, {"a.py": SOURCE.replace("max(x / 2, least)", "jnp.where(x > least, 0.5 * x, least)")}) is None
