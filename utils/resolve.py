"""From a name in a config to a class: `recursive_reasoning.trm@TRM` is `TRM` in that module of a package."""
import importlib
import inspect
import pkgutil


def load_class(name: str, package: str = "") -> type:
    """The class that `module@Class` names, below `package`. Raises ValueError saying what there is instead."""
    module_name, at, class_name = name.partition("@")
    if not at:
        raise ValueError(f"name={name!r} must have the form module@Class")
    full = f"{package}.{module_name}" if package else module_name
    try:
        module = importlib.import_module(full)
    except ModuleNotFoundError as error:
        if error.name is None or not full.startswith(error.name):
            raise  # the module is there, and something it needs is not
        there_are = ", ".join(_modules(package or full))
        raise ValueError(f"name={name!r}: there is no module {full}; there are {there_are}") from error
    if not hasattr(module, class_name):
        raise ValueError(f"name={name!r}: {full} has no {class_name}; it has {', '.join(_classes(module))}")
    return getattr(module, class_name)


def _modules(package: str) -> list[str]:
    try:
        found = importlib.import_module(package)
    except ModuleNotFoundError:
        return []
    walked = pkgutil.walk_packages(getattr(found, "__path__", []), prefix="")
    return [module.name for module in walked if not module.ispkg]


def _classes(module) -> list[str]:
    classes = inspect.getmembers(module, inspect.isclass)
    return [name for name, value in classes if value.__module__.startswith(module.__name__)]
