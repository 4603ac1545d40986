"""Pass any optax transformation the extra arguments that it accepts, and no others."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import optax

# The errors of Python, and of optax's line searches, which pass unknown arguments on to `value_fn`.
_REFUSED = re.compile(r"unexpected keyword argument '(\w+)'|were not consumed by .*: \['(\w+)'")


def tolerant_update(tx: optax.GradientTransformation) -> Callable[..., Any]:
    """Return the update of a transformation that may be given more extra arguments than it takes.

    A `GradientTransformation` takes none, and most transformations with extra arguments ignore unknown ones. Some, such
    as `optax.contrib.sam` and the line searches, refuse them, and the signature of a chain does not show which. So a
    refused argument is left out, and the update is called again; this happens while it is traced.

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
