"""Run by Python at the start of every program under ``bitfusion run``: makes ``numba.cuda`` be ``bitfusion.cuda`` there.

It only adds finders for a few names to ``sys.meta_path`` and goes on with the program's own ``sitecustomize``, if there is one; all else
happens when a program imports one of those names. It runs in any Python a program may start, so it imports nothing by itself and keeps
to old syntax. A process that compiles kernels itself needs the real numba.cuda and gets it: an appliance because the compiler was
imported there, a program with ``--in-process`` because there it counts who imports.
"""

import builtins
import os
import sys

MYPY = False
if MYPY:
    from collections.abc import Callable, Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
COMPILER = "bitfusion.kernels.compiler"
REAL_NUMBA_FOR = ("numba", "numba_cuda", "bitfusion", "llvmlite")


class Replacing:
    """A loader that puts a module that exists already under another name."""

    def create_module(self, spec: "ModuleSpec") -> "ModuleType | None":
        return None

    def exec_module(self, module: "ModuleType") -> None:
        sys.modules[module.__name__] = replacement(module.__name__)


def replaced(name: str) -> "ModuleSpec":
    """The spec of a module that ``replacement`` knows."""
    from importlib.machinery import ModuleSpec

    return ModuleSpec(name, Replacing(), origin="bitfusion run")  # type: ignore[arg-type]  # not made from importlib.abc: costs


class First:
    """Before every other finder: ``numba.cuda`` and all below it."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> "ModuleSpec | None":
        if (name == "numba.cuda" or name.startswith("numba.cuda.")) and COMPILER not in sys.modules:
            return replaced(name)
        return None


class Last:
    """After every other finder: ``numba`` where there is none, and ``bitfusion`` in a Python it is not installed in."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> "ModuleSpec | None":
        if name == "bitfusion":
            from importlib.machinery import PathFinder

            return PathFinder.find_spec(name, [ROOT])
        if name == "numba" or (name.startswith("numba.") and hasattr(sys.modules.get("numba"), "__bitfusion__")):
            return replaced(name)
        return None


def replacement(name: str) -> "ModuleType":
    """The module that stands for ``name``, which is ``numba`` or below it."""
    if sys.version_info < (3, 11):  # noqa: UP036  # not ours: the program's Python
        raise ImportError(
            f"numba.cuda under `bitfusion run` needs Python 3.11 or newer, this is {sys.version.split()[0]}"
        )
    try:
        from bitfusion.cuda import hooked
    except ModuleNotFoundError as error:
        raise ImportError(
            f"numba.cuda under `bitfusion run` needs the package {error.name} in the program's Python:"
            f" {sys.executable} -m pip install numpy msgpack"
        ) from error
    return hooked.module(name)


def selective_import(real: "Callable[..., ModuleType]") -> "Callable[..., ModuleType]":
    """An ``__import__`` that gives the program our ``numba.cuda``, and Numba and bitfusion themselves the real one.

    Before the program gets ``numba`` or ``bitfusion``, it is settled that sessions are opened in this process.
    """

    def import_(
        name: str,
        globals: "Mapping[str, object] | None" = None,
        locals: "Mapping[str, object] | None" = None,
        fromlist: "Sequence[str] | None" = (),
        level: int = 0,
    ) -> "ModuleType":
        package = name.partition(".")[0]
        if level == 0 and package in ("numba", "bitfusion"):
            importer = str((globals or {}).get("__name__"))
            if importer.partition(".")[0] not in REAL_NUMBA_FOR:
                in_process = real("bitfusion.cli.in_process", None, None, ("module",))
                if package == "numba":
                    found: ModuleType = in_process.module(name, bool(fromlist))
                    return found
        return real(name, globals, locals, fromlist, level)

    return import_


def install() -> None:
    """Take our places among the finders."""
    sys.meta_path.append(Last())
    if os.environ.get("BITFUSION_IN_PROCESS"):
        builtins.__import__ = selective_import(builtins.__import__)
    else:
        sys.meta_path.insert(0, First())


def go_on() -> None:
    """Run the sitecustomize that Python would have found without us, and leave its path as it would have been."""
    sys.path[:] = [place for place in sys.path if os.path.abspath(place) != HERE]
    ours = sys.modules.pop("sitecustomize")
    try:
        import sitecustomize  # type: ignore[import-not-found]  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "sitecustomize":
            raise
    finally:
        sys.modules.setdefault("sitecustomize", ours)


if __name__ == "sitecustomize":
    if os.environ.get("BITFUSION_HOOK"):
        install()
    go_on()
