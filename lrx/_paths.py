"""How leaves are named, and how a tree that says something about each leaf meets the parameters."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import optax

Path: TypeAlias = tuple[str, ...]  # of a leaf, as in `named_leaves`: ("lin", "bias")


def named_leaves(tree: Any, *, is_leaf: Callable[[Any], bool] | None = None) -> list[tuple[Path, Any]]:
    """List the leaves of a tree with their paths, in the order of `jax.tree.leaves`.

    A leaf has the same path whether its tree is made of dicts, of modules or of flax's states, and whether flax has
    wrapped it in a variable (in `init`) or not (in `update`): the `value` of a variable is not a part of a path.
    """
    flax = sys.modules.get("flax.nnx")  # whoever holds a variable has imported it
    variable: Any = () if flax is None else getattr(flax, "Variable", ())

    def stops(node: Any) -> bool:
        return isinstance(node, variable) or (is_leaf is not None and is_leaf(node))

    found: list[tuple[Path, Any]] = []
    for keys, node in jax.tree.leaves_with_path(tree, is_leaf=stops):
        if isinstance(node, variable):
            within = jax.tree.leaves_with_path(node, is_leaf=is_leaf)
            found += [(_parts(keys) + _parts(more[1:]), leaf) for more, leaf in within]
        else:
            found.append((_parts(keys), node))
    return found


def leaves_by_key(tree: Any) -> dict[str, Any]:
    """Return the leaves of a tree by names of which no two are alike: `{"params['w']": leaf}`.

    They serve to store and to compare; users see the paths of `named_leaves`, which do not show the containers.
    """
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _parts(keys: tuple[Any, ...]) -> Path:
    return tuple(map(_part, keys))


def _part(key: Any) -> str:
    if isinstance(key, jax.tree_util.DictKey):  # most are: quicker than to ask for the general case
        return str(key.key)
    return jax.tree_util.keystr((key,), simple=True)


def write_path(path: Path) -> str:
    """Write a path as users see it: "lin/bias"."""
    return "/".join(path)


def is_tree_of(value: Any, kinds: tuple[type, ...]) -> bool:
    """Return whether a specification of leaves is a tree, and not a function that makes one.

    A module can be called and is a tree: one whose leaves are labels, or flags, is not taken for a function.
    """
    if not callable(value):
        return True
    leaves = jax.tree.leaves(value)
    return bool(leaves) and all(isinstance(leaf, kinds) for leaf in leaves)


def spread(name: str, tree: Any, params: Any) -> dict[Path, Any]:
    """Return the entry for each leaf of the parameters, from a tree of the same structure or a prefix of it.

    Trees are compared by their paths, so their containers may differ. Leaves that a wrapper hides, and leaves that are
    not arrays, may have an entry but need none.

    Raises:
      ValueError: if a leaf has no entry, or an entry has no leaf.
    """
    entries = dict(named_leaves(tree))
    branches = {
        path: next((path[:length] for length in range(len(path) + 1) if path[:length] in entries), None)
        for path, _ in named_leaves(params)
    }
    missing = [write_path(path) for path, branch in branches.items() if branch is None]
    used = set(branches.values())
    unused = [path for path in entries if path not in used]
    if unused:
        empty = [path for path, node in named_leaves(params, is_leaf=_is_empty) if _is_empty(node)]
        unused = [path for path in unused if not any(_on_one_line(path, other) for other in empty)]
    if missing or unused:
        fault = f"it has nothing for {missing}" if missing else f"there is no {[write_path(path) for path in unused]}"
        raise ValueError(
            f"{name} must have the parameters' tree or a prefix of it, got {name}={tree!r}: {fault}. A function of the "
            "parameters fits every tree."
        )
    return {path: entries[branch] for path, branch in branches.items() if branch is not None}


def _is_empty(node: Any) -> bool:
    return not jax.tree.leaves(node)


def _on_one_line(path: Path, other: Path) -> bool:
    shorter = min(len(path), len(other))
    return path[:shorter] == other[:shorter]


def hides_leaves(params: Any) -> bool:
    """Return whether a wrapper hides leaves of the parameters from the transformation within it."""
    nodes = jax.tree.leaves(params, is_leaf=lambda node: isinstance(node, optax.MaskedNode))
    return any(isinstance(node, optax.MaskedNode) for node in nodes)


def is_placeholder(params: Any) -> bool:
    """Return whether these are the placeholders by which `optax.tree.map_params` finds parameters in a state."""
    return type(params).__name__ == "_ParamsPlaceholder" and type(params).__module__.startswith("optax.")
