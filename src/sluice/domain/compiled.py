"""The two decorators of the kernel: numba, without the GIL, the same bits on every machine.

Numba's own cache does not fit: it looks at one function's file alone, so a change in a function
that it calls, or in a number of the catalogue that it froze, is served the old code; and it refuses
to start where it cannot write, even if all it needs lies there. Ours stamps each function with the
digest of all that its machine code is made of, reads wherever it may, and compiles in memory where
nothing may be written. Divisors are never zero by construction, so they go unchecked.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba import config, njit
from numba.core import caching

from sluice.errors import Misconfigured

_HERE = Path(__file__).parent
SOURCES = (
    "clock",
    "compiled",
    "features/cardstate",
    "features/catalogue",
    "features/codec",
    "features/distance",
    "features/events",
    "features/kernel",
    "features/stateformat",
    "features/tilestate",
    "records/codes",
    "records/countries",
    "records/entity",
)
"""Modules of the domain whose code or numbers end up in the machine code."""
_DIGEST = hashlib.sha256(b"".join((_HERE / f"{s}.py").read_bytes() for s in SOURCES)).hexdigest()
FOLDER = _HERE / "__pycache__" / f"kernel-{_DIGEST[:12]}"
"""Where the machine code lies, unless NUMBA_CACHE_DIR says otherwise."""
USES = {
    "caching": ("FunctionCache", "CompileResultCacheImpl", "_CacheLocator"),
    "caching.FunctionCache": ("_impl_class", "load_overload", "save_overload"),
    "caching.CompileResultCacheImpl": ("_locator_classes", "check_cachable", "reduce"),
    "caching._CacheLocator": (
        *("from_function", "ensure_cache_path", "get_cache_path"),
        *("get_source_stamp", "get_disambiguator"),
    ),
}
"""What this module needs of numba that numba does not promise to keep."""

_log = logging.getLogger("sluice")
Function = Callable[..., Any]


def check_numba(module: Any = caching) -> None:
    """Raises Misconfigured, naming what is missing, if numba's cache is not as this build knows it.

    module: ``numba.core.caching``.
    """
    for owner, names in USES.items():
        held: Any = module
        for step in owner.split(".")[1:]:
            held = getattr(held, step, None)
        for name in names:
            if not hasattr(held, name):
                raise Misconfigured(
                    f"numba {numba.__version__} has no {owner}.{name}, on which the kernel's cache "
                    "leans",
                    where="numba.core.caching",
                    fix="install the numba that requirements.lock names",
                )


check_numba()


_CUT_OFF = (EOFError, pickle.UnpicklingError)
"""What reading half a file raises."""


class _Locator(caching._CacheLocator):
    """Where a function's machine code lies, and what it is made of. Asks for no right to write."""

    def __init__(self, function: Function, file: str) -> None:
        self._line = function.__code__.co_firstlineno
        shared = any(Path(file) == _HERE / f"{source}.py" for source in SOURCES)
        own = b"" if shared else Path(file).read_bytes()
        self._stamp = hashlib.sha256(_DIGEST.encode() + own).hexdigest()

    @classmethod
    def from_function(cls, function: Function, file: str) -> _Locator:
        return cls(function, file)

    def get_cache_path(self) -> str:
        return str(Path(config.CACHE_DIR) / FOLDER.name if config.CACHE_DIR else FOLDER)

    def get_source_stamp(self) -> str:
        return self._stamp

    def get_disambiguator(self) -> str:
        return str(self._line)

    def ensure_cache_path(self) -> None:
        Path(self.get_cache_path()).mkdir(parents=True, exist_ok=True)


class _Files(caching.CompileResultCacheImpl):
    _locator_classes = (_Locator,)

    def reduce(self, cres: Any) -> Any:
        """What is kept of a function: all but its source with notes of each variable's type. Their
        order is another with each compilation, and an image must be the same when built again."""
        return super().reduce(cres._replace(type_annotation=""))


class _Cache(caching.FunctionCache):
    """Numba's cache of one function that takes "not readable" and "not writable" for an answer."""

    _impl_class = _Files
    warned = False
    """Whether this process has already said that it keeps nothing."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The machine code, or None: it is not there, not readable, or cut off."""
        try:
            return super().load_overload(sig, target_context)
        except (OSError, *_CUT_OFF):
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the machine code where it may be kept."""
        try:
            try:
                super().save_overload(sig, data)
            except _CUT_OFF:
                self.flush()
                super().save_overload(sig, data)
        except OSError as error:
            if not _Cache.warned:
                _Cache.warned = True
                _log.warning(
                    "kernel_compiled_in_memory",
                    extra={
                        "fields": {
                            "function": self._py_func.__qualname__,
                            "folder": self.cache_path,
                            "reason": error.strerror or str(error),
                            "fix": "run python -m services.warm where the folder can be written, "
                            "or name another in NUMBA_CACHE_DIR",
                        }
                    },
                )


def part(function: Function) -> Function:
    """Compile a function that only compiled functions call; it is cached inside of them."""
    return njit(nogil=True, error_model="numpy")(function)


def entry(function: Function) -> Function:
    """Compile a function that Python calls, and keep it on disk (where NUMBA_CACHE_DIR says).

    Its machine code must be made of SOURCES and its own module's file alone.
    """
    compiled = part(function)
    if not config.DISABLE_JIT:
        compiled._cache = _Cache(function)  # type: ignore[attr-defined]
    return compiled
