"""Loss heads, by the names that configs use: `losses@ACTLossHead`."""
from losses.classification import ACTLossHead

__all__ = ["ACTLossHead"]
