"""Compiled programs that know why they were compiled again."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import jax

from metarec.errors import LearnerError

_guarded = False


class RecompilationError(LearnerError):
    """A program was compiled a second time for the same static arguments."""


@contextlib.contextmanager
def no_recompilation() -> Iterator[None]:
    """Within it, a second compilation of a program is an error that names the argument at fault.

    Raises:
        RecompilationError: naming the program and each argument whose shape or dtype is another
            than when it was first compiled. A program that is asked for with other static
            arguments is another program.
    """
    global _guarded
    before, _guarded = _guarded, True
    try:
        yield
    finally:
        _guarded = before


def compiled(
    function: Callable[..., Any], *, static: tuple[str, ...] = (), donate: tuple[str, ...] = ()
) -> Any:
    """`jax.jit` of a function that remembers the arguments for which it was traced.

    Args:
        function: pure, of arrays in trees, and of hashable static arguments.
        static: names of the static arguments.
        donate: names of the arguments whose memory the results may take over; they must not be
            used again.

    Returns:
        The jitted function.
    """
    seen: dict[Any, dict[str, str]] = {}
    signature = inspect.signature(function)

    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        # runs when JAX traces, which is once for each program
        given = signature.bind(*args, **kwargs).arguments
        key = tuple(given.get(name) for name in static)
        now = {
            f"{name}{jax.tree_util.keystr(path)}".replace("'", ""): jax.typeof(leaf).str_short()
            for name, value in given.items()
            if name not in static
            for path, leaf in jax.tree_util.tree_leaves_with_path(value)
        }
        first = seen.setdefault(key, now)
        if _guarded and first is not now:
            changed = [
                f"{name} was {first.get(name, 'absent')} and is {now.get(name, 'absent')}"
                for name in sorted({*first, *now})
                if first.get(name) != now.get(name)
            ]
            raise RecompilationError(
                f"{function.__qualname__} is compiled again: "
                + ("; ".join(changed) or "its arguments lie on other devices or in another layout")
            )
        # full float32, as PyTorch computes; a GPU would take fewer digits by itself
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return jax.jit(traced, static_argnames=static, donate_argnames=donate)


@dataclass(frozen=True)
class Bound:
    """A function with some of its arguments, as `functools.partial`, but equal to its like."""

    function: Callable[..., Any]
    settings: tuple[tuple[str, Hashable], ...]

    def __call__(self, *arguments: Any) -> Any:
        """Calls the function."""
        return self.function(*arguments, **dict(self.settings))


def bound(function: Callable[..., Any], **settings: Hashable) -> Bound:
    """Binds arguments by name."""
    return Bound(function, tuple(sorted(settings.items())))
