"""From a name in a config to a class: `recursive_reasoning.trm@TRM` is `TRM` in that module of a package."""
import importlib
import inspect
import pkgutil


# Where HRM's own repository has what its successors, and we, keep elsewhere.
OTHER_MODULES = {"hrm.hrm_act_v1": "recursive_reasoning.hrm"}


def load_class(name: str, package: str = "") -> type:
    """The class that `module@Class` names, below `package`. Raises ValueError saying what there is instead."""
    module_name, at, class_name = name.partition("@")
    if not at:
        raise ValueError(f"name={name!r} must have the form module@Class")
    module_name = OTHER_MODULES.get(module_name, module_name)
    full = f"{package}.{module_name}" if package else module_name
    try:
        module = importlib.import_module(full)
    except ModuleNotFoundError as error:
        if not f"{full}.".startswith(f"{error.name}."):
            raise  # the module is there, and something it needs is not
        raise ValueError(f"name={name!r}: there is no module {full}{_there_are(package)}") from error
    if not hasattr(module, class_name):
        raise ValueError(f"name={name!r}: {full} has no {class_name}; it has {', '.join(_classes(module))}")
    return getattr(module, class_name)


def _there_are(package: str) -> str:
    """The modules of a package, as the end of a sentence; nothing without a package."""
    if not package:
        return ""
    path, prefix = importlib.import_module(package).__path__, f"{package}."
    modules = [module.name.removeprefix(prefix) for module in pkgutil.walk_packages(path, prefix) if not module.ispkg]
    return f"; there are {', '.join(modules)}"


def _classes(module) -> list[str]:
    classes = inspect.getmembers(module, inspect.isclass)
    return [name for name, value in classes if value.__module__.startswith(module.__name__)]
