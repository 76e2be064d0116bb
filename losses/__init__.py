"""Loss heads, by the names that configs use: `losses@ACTLossHead`."""
from losses.classification import ACTLossHead
from losses.lattice import LatticeLossHead
from losses.regression import ACTRegressionLossHead

__all__ = ["ACTLossHead", "ACTRegressionLossHead", "LatticeLossHead"]
