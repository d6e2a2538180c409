"""The `fxpress::` ops. Importing this package defines them in `torch.ops.fxpress`.

Every op is a composite of ATen ops: that composite *is* its definition. PyTorch derives from it the fake implementation
(shapes), the meaning on every device and gradients. Convolution and pooling ops carry `channels_last`: if true, inputs
and outputs have their channels in the last dimension, weights keep PyTorch's order.
"""

from . import integer_sums as _integer_sums  # noqa: F401  (defines ops)
from . import low_precision as _low_precision  # noqa: F401  (defines ops)
from . import sparse as _sparse  # noqa: F401  (defines ops)
from .activation import activate, parse_activation
from .library import fxpress
from .quantized import expand_weight
from .quantized_attention import WEIGHT_STEPS

__all__ = ["WEIGHT_STEPS", "activate", "expand_weight", "fxpress", "parse_activation"]
