"""What counted products come to: floating-point operations, and the least time that they can take.

`products` are (operations, bytes, how many of this kind) for each kind of product, as limits.py counts them.
"""
Products = list[tuple[float, float, int]]


def least_seconds(products: Products, flops_a_second: float, bytes_a_second: float) -> float:
    """A limit from below of a step's time."""
    return sum(number * max(flops / flops_a_second, moved / bytes_a_second) for flops, moved, number in products)


def total_flops(products: Products) -> float:
    return sum(number * flops for flops, _, number in products)
