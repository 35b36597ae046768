"""Encrypt and query a model: CKKS inference of networks with polynomial activations.

    network  = he_inference.from_torch(module, example_input)     # nn.Module → Network
    compiled = he_inference.compile(network)                      # → program, parameters, signature
    print(compiled.summary())                                     # bytes, bits, milliseconds

    client   = he_inference.Client(compiled.signature)            # makes and holds the keys
    server   = he_inference.Server(compiled.program)              # sees ciphertexts only
    server.register(client.evaluation_keys())
    scores   = client.decrypt(server.evaluate(client.encrypt(x))) # bytes between them

Who learns what: the server learns nothing of queries and answers; the client learns the answers
and, where they are plain and it takes the trouble, the weights. Private answers, which the packed
layout does not have, show no more than the scores do (see SECURITY.md).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from he_inference import nn as nn
    from he_inference.batch_compiler import CompiledBatch as CompiledBatch
    from he_inference.batch_program import BatchProgram as BatchProgram
    from he_inference.batch_signature import BatchSignature as BatchSignature
    from he_inference.client import Client as Client
    from he_inference.coefficient_compiler import CompiledCoefficients as CompiledCoefficients
    from he_inference.coefficient_program import CoefficientProgram as CoefficientProgram
    from he_inference.coefficient_signature import CoefficientSignature as CoefficientSignature
    from he_inference.compiler import compile as compile
    from he_inference.compiler import plan as plan
    from he_inference.errors import HEError as HEError
    from he_inference.network import Network as Network
    from he_inference.network import load_network as load_network
    from he_inference.packed_compiler import Compiled as Compiled
    from he_inference.parameters import Parameters as Parameters
    from he_inference.precomputed import Precomputed as Precomputed
    from he_inference.precomputed import load_precomputed as load_precomputed
    from he_inference.precomputed import precompute as precompute
    from he_inference.program import Program as Program
    from he_inference.programs import load_program as load_program
    from he_inference.remote import RemoteServer as RemoteServer
    from he_inference.server import Server as Server
    from he_inference.signature import Signature as Signature
    from he_inference.signatures import load_signature as load_signature
    from he_inference.torch_modules import from_torch as from_torch

_HOMES = {
    "Client": "client",
    "BatchProgram": "batch_program",
    "BatchSignature": "batch_signature",
    "CoefficientProgram": "coefficient_program",
    "CoefficientSignature": "coefficient_signature",
    "CompiledBatch": "batch_compiler",
    "CompiledCoefficients": "coefficient_compiler",
    "Compiled": "packed_compiler",
    "HEError": "errors",
    "Network": "network",
    "Parameters": "parameters",
    "Precomputed": "precomputed",
    "Program": "program",
    "RemoteServer": "remote",
    "Server": "server",
    "Signature": "signature",
    "compile": "compiler",
    "from_torch": "torch_modules",
    "load_network": "network",
    "load_precomputed": "precomputed",
    "plan": "compiler",
    "precompute": "precomputed",
    "load_program": "programs",
    "load_signature": "signatures",
}
__all__ = [*sorted(_HOMES), "nn"]


def __getattr__(name: str) -> Any:
    """Load what is asked for and nothing else: torch and SEAL are heavy."""
    if name == "nn":
        return import_module("he_inference.nn")
    if name in _HOMES:
        value = getattr(import_module(f"he_inference.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'he_inference' has no attribute {name!r}")
