"""Functions of the user, named in a configuration as `path/to/file.py:function` or `package.module:function`.

A message about one names the file and the line of the user's code, never a traceback through this package.
"""

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from tiny_math_solver.support.errors import UserError

SHOWN = 120  # characters of a completion in a message


class OwnCodeError(UserError):
    """The user's code raised an exception, or returned something that cannot be used."""


class OwnFunction:
    """The function that `place` names in `setting`. Raises UserError if it cannot be loaded."""

    def __init__(self, place: str, setting: str):
        self.place, self.setting = place, setting
        where, _, self.name = place.rpartition(":")
        if not where or not self.name.isidentifier():
            raise UserError(f"{setting}: {place!r} is unknown; write an own function as file.py:function")
        self.module = _from_file(where, setting) if where.endswith(".py") else _from_package(where, setting)
        function = getattr(self.module, self.name, None)
        if not callable(function):
            functions = [name for name, value in vars(self.module).items() if inspect.isfunction(value)]
            there = f"its functions: {', '.join(functions)}" if functions else "it has no functions"
            raise UserError(f"{setting}: no function {self.name} in {self.file}; {there}")
        self.function: Callable[..., Any] = function
        self.is_async = inspect.iscoroutinefunction(function)
        parameters = inspect.signature(function).parameters.values()
        self.takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        self.named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        self.required = [p.name for p in parameters if p.name in self.named and p.default is p.empty]
        if unnamed := [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL)]:
            raise UserError(f"{setting}: {place}: everything is passed by name, so {unnamed[0]} gets nothing; name it")

    @property
    def file(self) -> str:
        return str(self.module.__file__)

    @property
    def digest(self) -> str:
        """A hash of the file."""
        return hashlib.sha256(Path(self.file).read_bytes()).hexdigest()

    def check_parameters(self, given: Collection[str], what: str = "what is passed") -> None:
        """Raise UserError if the function wants a parameter that is not among `given`."""
        for name in self.required:
            if name not in given:
                there = ", ".join(given) or "nothing"
                raise UserError(f"{self.setting}: {self.place} wants {name!r}, which is not in {what} ({there})")

    def accepted(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the arguments that the function has parameters for."""
        return dict(given) if self.takes_all else {name: given[name] for name in self.named if name in given}

    def call(self, given: Mapping[str, Any], completion: str) -> Any:
        """The result for what the function accepts of `given`. Raises OwnCodeError for whatever the function raises."""
        try:
            return self.function(**self.accepted(given))
        except Exception as error:
            raise self.error(error, completion) from error

    def error(self, error: BaseException, completion: str) -> OwnCodeError:
        """The exception as a message: where in the user's code it was raised, and on which completion."""
        frames = self.frames(error)
        line = f"{self.file}:{frames[-1][1]}" if frames else self.file
        text = " ".join(str(error).split())
        on = f"on the completion {shortened(completion)!r}"
        return OwnCodeError(f"{self.place}: {line}: {type(error).__name__}: {text}, {on}")

    def frames(self, error: BaseException) -> list[tuple[dict[str, Any], int]]:
        """The variables and the line of each frame of the user's file that an exception came through."""
        file = Path(self.file).resolve()
        frames = traceback.walk_tb(error.__traceback__)
        return [(frame.f_locals, line) for frame, line in frames if Path(frame.f_code.co_filename).resolve() == file]


def shortened(completion: str) -> str:
    """A completion for a message: its two ends if it is long."""
    half = SHOWN // 2
    return completion if len(completion) <= SHOWN else f"{completion[:half]} … {completion[-half:]}"


@cache
def _from_file(name: str, setting: str) -> ModuleType:
    path = Path(name).expanduser().absolute()
    if not path.is_file():
        raise UserError(f"{setting}: no such file: {name}")
    spec = importlib.util.spec_from_file_location(f"own_{path.stem}_{abs(hash(str(path))):x}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with _import_errors(name, setting, path), _searched(path.parent):
        spec.loader.exec_module(module)
    return module


@cache
def _from_package(name: str, setting: str) -> ModuleType:
    with _import_errors(name, setting, None), _searched(Path.cwd()):
        return importlib.import_module(name)


@contextmanager
def _searched(folder: Path) -> Iterator[None]:
    """Have imports found in `folder` too, after everything that is installed."""
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextmanager
def _import_errors(name: str, setting: str, path: Path | None) -> Iterator[None]:
    try:
        yield
    except SyntaxError as error:
        raise UserError(f"{setting}: {error.filename}:{error.lineno}: SyntaxError: {error.msg}") from None
    except Exception as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if path and Path(f.filename) == path]
        where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else name
        raise UserError(f"{setting}: {where}: {type(error).__name__}: {' '.join(str(error).split())}") from None
