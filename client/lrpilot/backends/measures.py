"""The names of what backends can measure at every step besides the loss, and what several ranks make of the values.

Notation: g is the gradient of all weights together, as the optimizer sees it; u is the direction of the update before,
that is what it subtracted from the weights, divided by the LR of the first group.
"""

GRADIENT_NORM = "gradient_norm"
"""The L2 norm of g."""
GRADIENT_L1_NORM = "gradient_l1_norm"
"""The L1 norm of g."""
UPDATE_PRODUCT = "update_product"
"""The inner product of g and u: minus the derivative of the loss by the LR of the step before."""
UPDATE_NORM = "update_norm"
"""The L2 norm of u."""
UPDATE_RATIO = "update_ratio"
"""The root mean square of what this update subtracts over that of the weights, where that is largest."""
GRADIENT_OVER_EPS = "gradient_over_eps"
"""The root mean square of a tensor's gradient over the eps of an optimizer like Adam, in the median over tensors."""

SUMS = frozenset({GRADIENT_L1_NORM, UPDATE_PRODUCT})
"""What is a sum over all weights: over several ranks its mean is taken, and the quadratic mean of all else."""
