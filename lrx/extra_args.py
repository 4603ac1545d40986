"""Which extra arguments a transformation takes: what calls any of optax's gives it those and no others."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import optax

# Python's words, and those of optax's line searches, which give what they do not know to `value_fn`.
_REFUSED = re.compile(r"unexpected keyword argument '(\w+)'|were not consumed by .*: \['(\w+)'")


def tolerant_update(tx: optax.GradientTransformation) -> Callable[..., Any]:
    """Return the update of a transformation that may be given more extra arguments than it takes.

    A `GradientTransformation` takes none, and most with extra arguments ignore those that they do not know. Some, such
    as `optax.contrib.sam` and the line searches, refuse them, and in a chain that cannot be read from the signature. So
    an argument that is refused is left out and the update is called again, when it is traced.

    Args:
      tx: any optax transformation.

    Raises:
      TypeError: by the update, if one link refuses an argument that another needs.
    """
    update = optax.with_extra_args_support(tx).update

    def tolerant(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        refusal: TypeError | None = None
        left_out: list[str] = []
        while True:
            try:
                return update(updates, state, params, **extra_args)
            except Exception as error:
                found = _REFUSED.search(str(error))
                name = found[1] or found[2] if found is not None else ""
                if isinstance(error, TypeError) and name in extra_args:
                    refusal = error
                    left_out.append(name)
                    del extra_args[name]
                elif refusal is None:
                    raise
                else:
                    raise TypeError(
                        f"tx must take one set of extra arguments, but one link of it refuses {', '.join(left_out)} "
                        f"({refusal}), and without them: {error} Hide them from the link that refuses them, as "
                        "optax.GradientTransformation(link.init, lambda u, s, p=None: link.update(u, s, p))."
                    ) from error

    return tolerant
