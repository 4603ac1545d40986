"""Law 2 for bad values: each is refused with the argument, the rule and what was given."""

from __future__ import annotations

import inspect

import pytest
from cases import CASES, REFUSED, public_factories


@pytest.mark.parametrize(
    ("factory", "arguments", "error", "message"),
    REFUSED,
    ids=[f"{factory.__name__}-{'-'.join(arguments)}-{index}" for index, (factory, arguments, *_) in enumerate(REFUSED)],
)
def test_bad_values_are_refused_with_argument_rule_and_value(factory, arguments, error, message):
    usual = next(case.arguments for case in CASES.values() if case.make is factory)
    with pytest.raises(error, match=message):
        factory(**{**usual, **arguments})


@pytest.mark.parametrize("name", sorted(public_factories()))
def test_every_parameter_of_a_factory_has_a_refused_value(name):
    factory = public_factories()[name]
    refused = {parameter for made, arguments, _, _ in REFUSED if made is factory for parameter in arguments}
    assert set(inspect.signature(factory).parameters) <= refused
