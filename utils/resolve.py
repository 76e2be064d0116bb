"""From a name in a config to a class: `recursive_reasoning.trm@TRM` is `TRM` in that module of the package `models`.

To import a module is to run it. So a name is looked up in the package of this project that is for its kind, and outside
of it only where `anywhere` says so: for names that the command line gives, or under trust_code=true (docs/security.md).
"""
import importlib
import inspect
import pkgutil
import re
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

# Where HRM's own repository has what its successors, and we, keep elsewhere.
OTHER_MODULES = {"hrm.hrm_act_v1": "recursive_reasoning.hrm"}
IDENTIFIER = r"[^\W\d]\w*"
NAME = re.compile(rf"(?P<module>{IDENTIFIER}(\.{IDENTIFIER})*)@(?P<class>{IDENTIFIER})")
REMEDY = ("if it is in a module of your own, or of someone you trust, name it on the command line "
          "as it stands in the config, or add trust_code=true")


def load_class(name: str, package: str, parts: Sequence[str] = (), anywhere: bool = False) -> type:
    """The class that `module@Class` names, in `package` or, with `anywhere`, else wherever Python finds the module.
    `parts`: attributes that make it one of the right kind. Raises ValueError saying what there is instead."""
    match = NAME.fullmatch(name)
    if not match:
        raise ValueError(f"name={name!r} must have the form module@Class")
    module_name = OTHER_MODULES.get(match["module"], match["module"])
    inside = module_name if f"{module_name}.".startswith(f"{package}.") else f"{package}.{module_name}"
    module = _imported(inside, name) or (_imported(module_name, name) if anywhere else None)
    if module is None:
        raise ValueError(f"name={name!r}: there is no module {inside}; there are "
                         f"{', '.join(_modules(package))}"
                         + ("" if anywhere else f"; {REMEDY}"))
    found, there_are = getattr(module, match["class"], None), ", ".join(_classes(module, parts)) or "none"
    if found is None:
        raise ValueError(f"name={name!r}: {module.__name__} has no "
                         f"{match['class']}; it has {there_are}")
    if not isinstance(found, type) or not all(hasattr(found, part) for part in parts):
        raise ValueError(f"name={name!r} is no class with {' and '.join(parts)}; of those "
                         f"{module.__name__} has {there_are}")
    return found


def load_only_class(module_name: str, package: str, base: type) -> type:
    """The subclass of `base` that stands in a module of `package`, where there is only one. Raises ValueError saying
    what there is instead."""
    inside = f"{package}.{module_name}"
    module = _imported(inside, module_name) if re.fullmatch(IDENTIFIER, module_name) else None
    if module is None:
        there_are = [name for name in _modules(package) if f"{package}.{name}" != base.__module__]
        raise ValueError(f"there is no module {inside}; there are {', '.join(there_are)}")
    found = [value for _, value in inspect.getmembers(module, inspect.isclass)
             if issubclass(value, base) and value is not base and value.__module__ == inside]
    if len(found) != 1:
        raise ValueError(f"{inside} has {', '.join(c.__name__ for c in found) or 'no such class'}; "
                         f"name one of its classes as {module_name}@Class")
    return found[0]


def built(found: type, called: str, options: Mapping[str, Any], **given: Any) -> Any:
    """An object of a class, made of what every such class is `given` and of options that were set.

    `called`: what messages call the class, such as "strategy: my_own@Patient". Raises ValueError for options that the
    class does not take.
    """
    try:
        inspect.signature(found).bind(**given, **options)
    except TypeError as error:
        raise ValueError(f"{called} does not take these options: {error}") from error
    return found(**given, **options)


def is_of(found: type, package: str) -> bool:
    """Does a class stand in this package, so that its name alone leads to it?"""
    return found.__module__.partition(".")[0] == package


def _imported(module_name: str, name: str) -> ModuleType | None:
    """A module; None where there is none of that name."""
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if f"{module_name}.".startswith(f"{error.name}."):
            return None
        raise ValueError(f"name={name!r}: {module_name} needs {error.name}, "
                         "which is not installed") from error


def _modules(package: str) -> list[str]:
    """What can stand before the @: modules of a package, and itself where it has classes."""
    root, prefix = importlib.import_module(package), f"{package}."
    modules = [module.name.removeprefix(prefix)
               for module in pkgutil.walk_packages(root.__path__, prefix)
               if not module.ispkg]
    return [package] * bool(_classes(root, ())) + modules


def _classes(module: ModuleType, parts: Sequence[str]) -> list[str]:
    return [name for name, value in inspect.getmembers(module, inspect.isclass)
            if value.__module__.startswith(module.__name__) and all(hasattr(value, part)
                                                                    for part in parts)]
