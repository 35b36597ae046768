"""Which device computes: numpy is the CPU's, torch everything else's, loaded only when needed."""

from private_models.arithmetic import Arithmetic, CpuArithmetic
from private_models.errors import OptionError

AUTO = "auto"


def device_name(wished: str) -> str:
    """ "auto" is a GPU if there is one, else the CPU; any other name is taken as it is."""
    if wished != AUTO:
        return wished
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_arithmetic(device: str) -> Arithmetic:
    """numpy for "cpu", torch for any other device that torch has. Raises `OptionError`."""
    if device == "cpu":
        return CpuArithmetic()
    import torch

    from private_models.torch_arithmetic import TorchArithmetic

    try:
        chosen = torch.device(device)
        float(torch.ones(1, dtype=torch.float64, device=chosen))
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise OptionError(f"device {device!r} cannot be used ({reason}): try 'cpu'") from None
    return TorchArithmetic(chosen)
