"""Methods that take no longer than a test needs."""

from dataclasses import replace

from fastnas.methods.library import METHODS


def quick_method(name, draws=2):
    """The method as it comes, but with fewer samples, and alpha in every step."""
    method = METHODS[name]()
    if name == "parsec":
        few = replace(method.hypergradient, draws=draws)
        method = replace(method, hypergradient=few, weight_average=few)
    if name == "proxyless_nas_r":
        method = replace(method, hypergradient=replace(method.hypergradient, draws=draws))
    if name.startswith("proxyless_nas"):
        method = replace(method, update_schedule=replace(method.update_schedule, alpha_every=1))
    if name == "spos":
        method = replace(method, choice=replace(method.choice, population=4, generations=2))
    return method
