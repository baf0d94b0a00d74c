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
OUTPUT_LOGIT = "output_logit"
"""The largest absolute output of the modules that the user named, over all forward calls that train in a step."""

SUMS = frozenset({GRADIENT_L1_NORM, UPDATE_PRODUCT})
"""What is a sum over all weights: over several ranks its mean is taken."""
MAXIMA = frozenset({OUTPUT_LOGIT})
"""What is a maximum over the examples of a step: over several ranks it is taken again. Of all else it is the quadratic
mean."""

ROUND_NORM = "round_norm"
"""In a federation, at the last step of a round: |D_t|, the norm of the global update."""
ROUND_PRODUCT = "round_product"
"""<D_t, D_(t-1)>: the product with the global update of the round before."""
ROUND_MOMENTUM_NORM = "round_momentum_norm"
"""|M_(t-1)|: the norm of the sum of the global updates before, each lessened to 0.9 by every round."""
ROUND_MOMENTUM_PRODUCT = "round_momentum_product"
"""<D_t, M_(t-1)>."""
LOCAL_NORM = "local_norm"
"""In a federation, at every step: |d_k|, the norm of what the local step k of a round changes."""
LOCAL_BEFORE_NORM = "local_before_norm"
"""The norm of what takes the place of d_(k-1): at the second step of a round that is D_(t-1)."""
LOCAL_PRODUCT = "local_product"
"""<d_k, d_(k-1)>, with the same in its place."""
LOCAL_ROUND_PRODUCT = "local_round_product"
"""<d_k, D_(t-1)>, from the second step of a round on."""

ROUND_MEASURES = (ROUND_NORM, ROUND_PRODUCT, ROUND_MOMENTUM_NORM, ROUND_MOMENTUM_PRODUCT)
"""What is known once a round."""
LOCAL_MEASURES = (LOCAL_NORM, LOCAL_BEFORE_NORM, LOCAL_PRODUCT, LOCAL_ROUND_PRODUCT)
"""What is known at every step of a federation's client."""
