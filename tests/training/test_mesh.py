"""Runs on a mesh: the numbers of one device, a part of the state on each, and errors before anything is compiled."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from training.linear import SGD, assert_identical, linear
from training.meshes import NETWORK, assert_same_run, require_all_acted, require_success, start_on

import lrx
from lrx._paths import named_leaves
from lrx.training import Batches, Workload, train
from lrx.training.layout import layout_of, split_longest
from lrx.training.step import initial

EIGHT = Mesh(np.array(jax.devices()[:1] * 8).reshape(4, 2), ("data", "model"))  # only to be divided by
ONE = jax.make_mesh((1,), ("data",))


def two_layers(batch_size: int = 8) -> Workload:
    def init(key: jax.Array):
        return {"lin": {"kernel": jnp.ones((8, 6)), "bias": jnp.ones(6)}, "scale": jnp.ones(())}

    return Workload.from_functions(
        lambda params, x, key: jnp.sum(params["scale"] * x), init, Batches(np.ones(32), batch_size)
    )


def test_a_mesh_of_one_device_gives_the_run_without_a_mesh():
    plain = train(linear(), SGD, steps=9)
    assert_identical(train(linear(), SGD, steps=9, mesh=ONE, param_sharding="fsdp"), plain)


@pytest.mark.parametrize(
    ("error", "arguments", "message"),
    [
        (TypeError, {"mesh": 8}, r"^mesh must be a jax.sharding.Mesh, got mesh=8: make one"),
        (ValueError, {"param_sharding": "fsdp"}, r"^param_sharding needs a mesh .* and mesh=None: give mesh="),
        (
            ValueError,
            {"mesh": EIGHT, "param_sharding": "rows"},
            r"^param_sharding must be 'fsdp', a function .*got param_sharding='rows'",
        ),
        (
            ValueError,
            {"mesh": EIGHT, "param_sharding": {"lin": P("data"), "scale": P()}},
            r"^param_sharding of 'lin/bias' must split .*got .*'data'.* for shape \(6,\): 4 devices do not divide 6",
        ),
        (
            ValueError,
            {"mesh": EIGHT, "param_sharding": lambda path, leaf: P("data")},
            r"^param_sharding of 'lin/bias' must split",
        ),
        (
            ValueError,
            {"mesh": EIGHT, "param_sharding": lambda path, leaf: P("rows")},
            r"^param_sharding of 'lin/bias' must name axes of the mesh, \['data', 'model'\], got 'rows'",
        ),
        (
            ValueError,
            {"mesh": EIGHT, "param_sharding": {"lin": P(), "scale": P("model")}},
            r"^param_sharding of 'scale' must have at most 0 entries for a parameter of shape \(\)",
        ),
        (
            TypeError,
            {"mesh": EIGHT, "param_sharding": lambda path, leaf: "data"},
            r"^param_sharding of 'lin/bias' must be a jax.sharding.PartitionSpec, got 'data'",
        ),
        (
            ValueError,
            {"mesh": EIGHT, "param_sharding": {"lin": P()}},
            r"^param_sharding must have the parameters' tree .* it has nothing for \['scale'\]",
        ),
    ],
)
def test_what_does_not_fit_the_mesh_is_refused(error, arguments, message):
    with pytest.raises(error, match=message):
        train(two_layers(), SGD, steps=1, **arguments)


def test_a_batch_that_the_mesh_does_not_divide_is_refused():
    with pytest.raises(
        ValueError,
        match=r"^batch_size must be a multiple of the 4 devices along the first axis of the mesh, 'data', got "
        r"batch_size=6: give 4 or 8, or a mesh whose first axis divides 6\.$",
    ):
        train(two_layers(6), SGD, steps=1, mesh=EIGHT)
    with pytest.raises(ValueError, match=re.escape("got batch_size=3: give 4, or a mesh")):
        train(two_layers(3), SGD, steps=1, mesh=EIGHT)


def test_fsdp_splits_the_longest_dimension_that_the_devices_divide():
    assert split_longest((6, 8, 4), "data", 4) == P(None, "data")
    assert split_longest((8, 8), "data", 4) == P("data")
    assert split_longest((6, 0), "data", 4) == split_longest((), "data", 4) == P()


@pytest.mark.parametrize(
    "tx",
    [
        lrx.adamw(0.1 * lrx.reduce_on_plateau()),
        lrx.rollback_on_divergence(lrx.prodigy(0.1)),
        lrx.schedule_free_adamw(0.1),
        optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation(),
        optax.partition({"a": lrx.adam(0.1), "b": lrx.dog()}, {"lin": "a", "scale": "b"}),
        optax.masked(optax.sgd(0.1, momentum=0.9), {"lin": True, "scale": False}),
        lrx.accumulate(lrx.momo_adam(0.1), 2),
    ],
)
def test_state_lies_where_map_params_finds_its_parameters(tx):
    workload = two_layers()
    specs = {"lin": {"kernel": P("data", "model"), "bias": P("model")}, "scale": P()}
    layout = layout_of(workload, EIGHT, specs)
    shapes = jax.eval_shape(lambda key: initial(workload.init, tx, key), jax.random.key(0))
    found = layout.of_state(shapes)
    of_shape = {(8, 6): P("data", "model"), (6,): P("model")}
    expected = optax.tree.map_params(
        tx,
        lambda leaf: NamedSharding(layout.places.mesh, of_shape.get(leaf.shape, P())),
        shapes.opt_state,
        transform_non_params=lambda leaf: layout.places.everywhere,
    )
    named = dict(named_leaves(expected))
    assert {path: where for path, where in named_leaves(found.opt_state) if named[path] != where} == {}
    assert found.params["lin"]["kernel"].spec == P("data", "model")
    assert any(where.spec == P("data", "model") for where in named.values())


EIGHT_DEVICES = """
from lrx.training.layout import layout_of
from lrx.training.program import program_of
mesh, one = jax.make_mesh((8,), ("data",)), Mesh(jax.devices()[:1], ("data",))
square = jax.make_mesh((4, 2), ("data", "model"))
columns = lambda path, leaf: P(None, "model") if path == "in/w" else P()
ways = {"one": (one, None), "data": (mesh, None), "fsdp": (mesh, "fsdp"), "tensor": (square, columns)}
for name, (on, split) in ways.items():
    history = train(network(), controlled(), steps=80, evaluate_every=20, mesh=on, param_sharding=split)
    np.savez(f"{sys.argv[1]}/{name}", **arrays(history))
large = network(features=512)
initialize = program_of(large, controlled(), stop_on_nonfinite=True, layout=layout_of(large, mesh, "fsdp")).initialize
state = initialize(jax.random.key(0))
whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state) if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))
print("share", 8 * max(bytes_by_device(state).values()) / whole)
# Minibatches that are whole already are split too.
on_one, on_eight = (
    train(network(whole=True, nan_at=-1), lrx.adam(0.03), steps=6, mesh=on, param_sharding="fsdp") for on in (one, mesh)
)
np.testing.assert_allclose(on_one.loss, on_eight.loss, rtol=1e-5)
"""


@pytest.mark.slow
def test_eight_devices_give_the_run_of_one_and_hold_an_eighth_of_the_state_each(tmp_path):
    out = require_success(start_on(8, NETWORK + EIGHT_DEVICES, str(tmp_path)))
    found = {name: dict(np.load(tmp_path / f"{name}.npz")) for name in ("one", "data", "fsdp", "tensor")}
    one = found.pop("one")
    require_all_acted(one)
    for way, other in found.items():
        assert_same_run(other, one, way)
    assert 0.99 < float(out.split()[1]) < 1.05
