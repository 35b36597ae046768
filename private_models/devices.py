"""Which device computes: numpy is the CPU's, torch everything else's, loaded only when needed."""

from typing import TYPE_CHECKING

from private_models.arithmetic import Arithmetic, CpuArithmetic
from private_models.errors import OptionError

if TYPE_CHECKING:
    import torch

AUTO = "auto"


def device_name(wished: str) -> str:
    """ "auto" is a GPU if there is one, else the CPU; any other name is taken as it is."""
    if wished != AUTO:
        return wished
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def usable_device(wished: str, dtype: str = "float32") -> "torch.device":
    """The device of a name, or of "auto", once it has held a number of that type.

    Raises `OptionError`.
    """
    import torch

    try:
        chosen = torch.device(device_name(wished))
        float(torch.zeros(1, dtype=getattr(torch, dtype), device=chosen))
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise OptionError(f"device {wished!r} cannot be used ({reason}): try 'cpu'") from None
    return chosen


def choose_arithmetic(device: str) -> Arithmetic:
    """numpy for "cpu", torch for any other device that torch has. Raises `OptionError`."""
    if device == "cpu":
        return CpuArithmetic()
    from private_models.torch_arithmetic import TorchArithmetic

    return TorchArithmetic(usable_device(device, "float64"))
