"""Which device torch is to use where the user leaves it open."""

import torch

AUTO = "auto"


def device_name(wished: str) -> str:
    """ "auto" is a GPU if there is one, else the CPU; any other name is taken as it is."""
    if wished != AUTO:
        return wished
    return "cuda" if torch.cuda.is_available() else "cpu"
