"""The laws hold for every public transformation: each is found by inspection, and each must have cases."""

from __future__ import annotations

import inspect
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import optax
import pytest
from cases import CASES, NOT_TRANSFORMATIONS, PACKAGES, all_cases, public_factories, traceable_parameters
from problems import assert_trees_close

import lrx


def test_every_public_name_is_a_factory_with_a_case_or_is_excluded_with_a_reason():
    public = {name for package in PACKAGES for name in package.__all__}
    factories = public_factories()
    assert public == set(factories) | set(NOT_TRANSFORMATIONS)
    assert all(reason for reason in NOT_TRANSFORMATIONS.values())
    cased = {case.make for case in CASES.values()}
    missing = sorted(name for name, factory in factories.items() if factory not in cased)
    assert not missing, f"no case is written down for {missing}"


def test_packages_export_all_they_define_and_lrx_re_exports_it():
    for package in PACKAGES:
        functions = {
            name for name, member in vars(package).items() if inspect.isfunction(member) and not name.startswith("_")
        }
        assert functions == set(package.__all__)
        for name in package.__all__:
            assert getattr(lrx, name) is getattr(package, name)
            assert name in lrx.__all__


@pytest.mark.parametrize("name", sorted(public_factories()))
def test_every_hyperparameter_of_a_factory_is_swept_by_a_case(name):
    factory = public_factories()[name]
    swept = {parameter for case in CASES.values() if case.make is factory for parameter in case.sweep}
    assert traceable_parameters(factory) <= swept


@all_cases
def test_cases_build_transformations(case):
    tx = case()
    assert isinstance(tx, optax.GradientTransformation)
    assert isinstance(tx, optax.GradientTransformationExtraArgs)


# ------------------------------------------------------------------------------------------------ what building does


BUILT_FRESH = """
import sys

sys.path.insert(0, "tests")
import cases
import jax

transformations = [case() for case in cases.CASES.values()]
jax.config.update("jax_num_cpu_devices", 8)
print(len(transformations), jax.device_count())
"""


@pytest.mark.slow
def test_building_transformations_leaves_the_devices_to_be_chosen():
    root = pathlib.Path(__file__).parent.parent.parent
    command = [sys.executable, "-W", "error", "-c", BUILT_FRESH]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=root, env={**os.environ, "JAX_PLATFORMS": "cpu"}
    )
    assert result.stdout.split() == [str(len(CASES)), "8"], result.stderr


@all_cases
def test_what_is_built_within_a_program_keeps_nothing_of_it(case):
    built = []
    with jax.checking_leaks():
        jax.make_jaxpr(lambda: built.append(case()))()
    assert built


def test_factors_that_are_computed_within_a_program_are_good_after_it():
    params = {"a": jnp.ones(2), "bb": jnp.ones(2)}
    tx = lrx.group_rates(lrx.sgd(1.0), lambda path, leaf: path, lambda label: jnp.exp2(-jnp.float32(len(label))))
    updates, _ = tx.update(params, jax.jit(tx.init)(params))
    assert_trees_close(updates, {"a": -0.5 * params["a"], "bb": -0.25 * params["bb"]})
