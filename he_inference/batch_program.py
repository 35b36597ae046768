"""What a server of the batched layout does, as frozen data: a signature and a plan of integers.

A file of it holds the weights, for the server only. Integers that a float64 cannot hold (offsets
reach the size of the modulus) are written in hexadecimal.
"""

import json
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from he_inference.backend.residues.schedule import schedule
from he_inference.batch_signature import MAX_COMPONENTS, BatchSignature
from he_inference.errors import HEError, ModelFileError
from he_inference.flooding import STATISTICAL_BITS, statistical_bits
from he_inference.layouts.batched import BatchedPlan, IntegerStage, Term
from he_inference.parameters import Parameters
from he_inference.tensor_file import MALFORMED, read_tensors, write_tensors

FORMAT = "sottovoce-batch-program"
VERSION = 1
_MAX_WEIGHT = 1 << 52


@dataclass(frozen=True, eq=False)
class BatchProgram:
    """A plan for the server, which holds the weights, and the signature that clients get."""

    signature: BatchSignature
    plan: BatchedPlan

    @property
    def parameters(self) -> Parameters:
        return self.signature.parameters

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, for the server only: it holds the weights."""
        plan = self.plan
        tensors: dict[str, npt.NDArray[Any]] = {}
        stages = []
        for number, stage in enumerate(plan.stages):
            terms = []
            for index, ((source, power), term) in enumerate(stage.terms.items()):
                name = f"{number}.{index}"
                for part in ("data", "indices", "indptr"):
                    tensors[f"{name}.{part}"] = getattr(term.weights, part).astype(np.float64)
                shape = [int(n) for n in term.weights.shape]
                terms.append([source, power, hex(term.multiplier), shape])
            stages.append(
                {
                    "terms": terms,
                    "offset": [hex(value) for value in stage.offset],
                    "scale": stage.scale,
                    "secret_degree": stage.secret_degree,
                }
            )
        described = {
            "stages": stages,
            "weight_bits": list(plan.weight_bits),
            "largest_answer": plan.largest_answer,
            "flooding_bits": plan.flooding_bits,
        }
        metadata = {
            "format": FORMAT,
            "version": str(VERSION),
            "signature": self.signature.to_bytes().decode(),
            "plan": json.dumps(described),
        }
        write_tensors(path, tensors, metadata)


def load_batch_program(path: str | Path) -> BatchProgram:
    """Read and check a saved program. Raises `ModelFileError` for anything but a sound one."""
    metadata, tensors = read_tensors(path, FORMAT, VERSION)
    try:
        signature = BatchSignature.from_bytes(metadata["signature"].encode())
        described = json.loads(metadata["plan"])
        stages = tuple(
            _stage(number, value, tensors) for number, value in enumerate(described["stages"])
        )
        plan = BatchedPlan(
            signature.parameters,
            signature.input_shape,
            signature.input_range,
            signature.input_scale,
            stages,
            tuple(int(bits) for bits in described["weight_bits"]),
            float(described["largest_answer"]),
            signature.precision_bits,
            int(described["flooding_bits"]),
        )
        program = BatchProgram(signature, plan)
        check(program)
        return program
    except MALFORMED as error:
        raise ModelFileError(f"{path}: the program is malformed: {error!r:.120}") from None
    except HEError as error:
        raise ModelFileError(f"{path}: {error}") from None


def _stage(number: int, value: Any, tensors: dict[str, Any]) -> IntegerStage:
    terms = {}
    for index, (source, power, multiplier, shape) in enumerate(value["terms"]):
        data, indices, indptr = (
            _whole(tensors[f"{number}.{index}.{part}"]) for part in ("data", "indices", "indptr")
        )
        if (np.diff(indptr) < 0).any():  # scipy looks at that only where the last one is not 0
            raise ValueError("rows of weights that end before they begin")
        weights = sp.csr_array((data, indices, indptr), shape=tuple(shape))
        weights.check_format(full_check=True)
        terms[int(source), int(power)] = Term(int(multiplier, 16), weights)
    offset = tuple(int(text, 16) for text in value["offset"])
    return IntegerStage(terms, offset, float(value["scale"]), int(value["secret_degree"]))


def _whole(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    if values.ndim != 1 or not (np.abs(values) <= _MAX_WEIGHT).all():  # which NaN is not
        raise ValueError("weights that are not integers of at most 52 bits")
    whole = values.astype(np.int64)
    if not np.array_equal(whole, values):
        raise ValueError("weights that are not whole")
    return whole


def check(program: BatchProgram) -> None:
    """Whether plan and signature belong together, and the plan is exact and floods enough.

    Raises `ModelFileError`, or `CompileError` as `schedule` does.
    """
    signature, plan = program.signature, program.plan
    if not plan.stages or not all(stage.size for stage in plan.stages):
        raise ModelFileError("a program without layers, or with an empty one")
    if not all(isfinite(stage.scale) and stage.scale >= 1 for stage in plan.stages):
        raise ModelFileError("scales that are not numbers of at least 1")
    if any(not 1 <= stage.secret_degree < MAX_COMPONENTS for stage in plan.stages):
        raise ModelFileError(f"secret degrees, expected 1 to {MAX_COMPONENTS - 1}")
    if not isfinite(plan.largest_answer):
        raise ModelFileError("a largest answer that is not a number")
    if any(term.multiplier < 1 for stage in plan.stages for term in stage.terms.values()):
        raise ModelFileError("multipliers that are not at least 1")
    schedule(plan)
    found = plan.outputs, plan.components
    if found != (signature.outputs, signature.components):
        raise ModelFileError(
            f"{found} outputs and components, where the signature promises "
            f"{(signature.outputs, signature.components)}"
        )
    if (plan.flooding_bits != 0) != (signature.response == "private"):
        raise ModelFileError(
            f"flooding of {plan.flooding_bits} bits, where the signature promises "
            f"{signature.response} answers"
        )
    scale = plan.output_scale
    if signature.response == "private":
        for prime in plan.parameters.data_primes[1:]:
            scale /= prime
    if scale != signature.output_scale:
        raise ModelFileError(
            f"answers of scale {scale:.9g}, where the signature promises "
            f"{signature.output_scale:.9g}"
        )
    if signature.response == "private":
        if plan.flooding_bits > plan.parameters.total_bits:
            raise ModelFileError(
                f"flooding of {plan.flooding_bits} bits is larger than the modulus"
            )
        hidden = statistical_bits(plan.parameters, *found[::-1], plan.flooding_bits)
        if hidden < max(STATISTICAL_BITS, signature.statistical_bits - 1e-6):
            raise ModelFileError(
                f"flooding hides {hidden:.1f} bits, expected at least {STATISTICAL_BITS} and the "
                f"{signature.statistical_bits:.1f} of the signature: compile the network again"
            )
