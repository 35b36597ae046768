"""What CrypTen 0.4.1 needs to start on today's PyTorch, each repair with its reason.

    from mpc_training.crypten_repairs import crypten

CrypTen is measured beside this package and attacked in its tests; it is **not** on the path of
any secret. That was not the first plan. Its default lets one party read the others' data, its
generator is not cryptographic, its replicated products are not re-randomised, its truncation
wraps, and its wire is pickle; with each of these replaced, what is left, dispatch and
approximations, is where most of its time goes and what leaves the interval in which fixed
point is right. So the protocols are our own, and a step costs less than a tenth of CrypTen's
CPU time (`python -m benchmarks run training --peers`).

It is installed without its declared dependencies (`requirements-crypten.txt`): one of them,
`sklearn`, refuses to install, and `torchvision` is not used by what is imported here.
"""

import functools
import sys

import torch
from torch.onnx._internal.torchscript_exporter import registration

# The module moved; crypten.nn.onnx_converter imports it by its old name.
sys.modules.setdefault("torch.onnx._internal.registration", registration)

# The default became dynamo=True, whose graphs CrypTen's converter does not read.
torch.onnx.export = functools.partial(torch.onnx.export, dynamo=False)

import crypten  # noqa: E402  (only now can it be imported)

__all__ = ["crypten"]
