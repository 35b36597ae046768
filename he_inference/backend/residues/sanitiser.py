"""Private answers: nothing is left in a ciphertext but what it decrypts to, and noise.

The components c_0 … c_d of an answer are known polynomials of the weights at N points for every
prime: whoever has the key of the query can solve for them. Before an answer leaves,

1. components of s², s³ … are switched to s with keys that are encryptions of those powers times
   the elements of the RNS gadget (Bajard et al. 2016): d_i = c_j mod q_i, c0, c1 += Σ d_i · key_i;
2. an encryption of zero is added, made from the client's own by a fresh ternary u and fresh errors,
   so that c1 is uniform to whoever does not know u;
3. c0 is flooded with 2^bits integers drawn uniformly for every coefficient;
4. both are divided by all primes but the first, with rounding: of a message that could be made
   from the answers alone, so could be its quotient.

`flooding` has the statement and its numbers. Its assumptions on the client: keys as `Client` makes
them. A client that makes other keys than it should is **not** kept from the weights; any query is
allowed to be one of its own choosing, and its ciphertexts may be anything.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from he_inference.backend.residues.kernels import Floats, Words, compiled, product, reduced
from he_inference.backend.residues.sampling import Integers, NoiseSource
from he_inference.backend.residues.transforms import Transform, forward_row, inverse_row
from he_inference.errors import InputError
from he_inference.parameters import Parameters
from he_inference.processors import processors
from he_inference.wire import Residues

_PIECE_BITS = 16
"""Flooding is reduced piece by piece: a residue times 2^16 and a piece fit a word."""


class Sanitiser:
    """Sanitises the answers of one program.

    components: polynomials of an answer's ciphertext. bits: of flooding, log2 of F.
    threads: as many as this process may use processors, unless given.
    """

    def __init__(
        self, parameters: Parameters, components: int, bits: int, *, threads: int | None = None
    ) -> None:
        self._shape = components, len(parameters.data_primes), parameters.ring_degree
        self._bits, self._threads = bits, threads or processors()
        self._transform = Transform(parameters.ring_degree, parameters.data_primes)
        self._primes = np.array(parameters.data_primes, np.float64)
        self._inverses = _inverses(parameters.data_primes)

    def prepare(self) -> None:
        """Compile the kernels now, and not when the first answers come."""
        components, primes, degree = self._shape
        keys = np.zeros((1 + (components - 2) * primes, 2, primes, degree), np.uint64)
        self.sanitise(np.zeros((1, *self._shape), np.uint64), keys)

    def sanitise(self, answers: Residues, keys: Residues) -> Residues:
        """Ciphertexts as the evaluator made them → what may be shown to the owner of the keys.

        answers: uint64 (outputs, components, primes, N), in the NTT domain.
        keys: uint64 (1 + (components − 2) · primes, 2, primes, N), as `batch_wire.read_keys`.
        Returns uint64 (outputs, 2, N): coefficients modulo the first prime.
        Raises `InputError` for other shapes.
        """
        components, primes, degree = self._shape
        expected = (1 + (components - 2) * primes, 2, primes, degree)
        if answers.shape[1:] != self._shape or keys.shape != expected:
            raise InputError(
                f"expected answers (outputs, {', '.join(map(str, self._shape))}) and keys "
                f"{expected}, found {answers.shape} and {keys.shape}"
            )
        if self._threads == 1 or len(answers) == 1:
            return np.stack([self._sanitised(answer, keys) for answer in answers])
        with ThreadPoolExecutor(self._threads) as pool:
            return np.stack(list(pool.map(lambda answer: self._sanitised(answer, keys), answers)))

    def _sanitised(self, answer: Residues, keys: Residues) -> Residues:
        _, primes, degree = self._shape
        noise, transform = NoiseSource(), self._transform
        result = np.empty((2, primes, degree), np.uint64)
        _relinearise(
            answer, keys, noise.ternary(degree), transform.tables, transform.inverse_tables,
            self._primes, result,
        )  # fmt: skip
        flooding = noise.words(-(-self._bits // 64), degree)
        errors = np.stack([noise.binomial(degree), noise.binomial(degree)])
        _flood(result, errors, flooding, self._bits, self._primes)
        _divide(result, self._primes, self._inverses)
        return result[:, 0]


def _inverses(primes: tuple[int, ...]) -> Floats:
    """Row l, column k: the inverse of prime l modulo prime k, centred; where l ≠ k."""
    rows = [
        [0 if p == q else (pow(q, -1, p) + p // 2) % p - p // 2 for p in primes] for q in primes
    ]
    return np.array(rows, np.float64)


@compiled
def _accumulate(total: Floats, row: Words, key: Words, p: float) -> None:
    """total (N,) += row · key, each product reduced; fewer than 2^10 of them stay exact."""
    inverse = 1.0 / p
    for k in range(len(total)):
        a = reduced(float(np.int64(row[k])), p, inverse)
        total[k] += product(a, float(np.int64(key[k])), p, inverse)


@compiled
def _relinearise(
    answer: Words,
    keys: Words,
    mask: Integers,
    tables: Floats,
    inverse_tables: Floats,
    primes: Floats,
    result: Words,
) -> None:
    """answer (components, primes, N) → result (2, primes, N): coefficients of a ciphertext of
    degree 1, the client's encryption of zero times `mask` added.
    """
    components, count, degree = answer.shape
    total = np.zeros((2, count, degree))
    digit, row = np.empty(degree, np.uint64), np.empty(degree, np.uint64)
    for power in range(2, components):
        for i in range(count):
            digit[:] = answer[power, i]
            inverse_row(digit, inverse_tables[i], primes[i])
            key = keys[1 + (power - 2) * count + i]
            for modulus in range(count):
                p = primes[modulus]
                if modulus == i:
                    row[:] = answer[power, i]
                else:
                    for k in range(degree):
                        word = reduced(float(np.int64(digit[k])), p, 1.0 / p)
                        row[k] = np.uint64(np.int64(word + p if word < 0 else word))
                    forward_row(row, tables[modulus], p)
                for part in range(2):
                    _accumulate(total[part, modulus], row, key[part, modulus], p)
    for modulus in range(count):
        p = primes[modulus]
        for k in range(degree):
            row[k] = np.uint64(np.int64(mask[k] + p if mask[k] < 0 else mask[k]))
        forward_row(row, tables[modulus], p)
        for part in range(2):
            sums = total[part, modulus]
            _accumulate(sums, row, keys[0, part, modulus], p)
            out = result[part, modulus]
            for k in range(degree):
                x = reduced(sums[k] + float(np.int64(answer[part, modulus, k])), p, 1.0 / p)
                out[k] = np.uint64(np.int64(x + p if x < 0 else x))
            inverse_row(out, inverse_tables[modulus], p)


@compiled
def _flood(result: Words, errors: Integers, flooding: Words, bits: int, primes: Floats) -> None:
    """Add an error to every coefficient, and to those of c0 Σ words·2^64i − 2^(bits − 1).

    flooding: (words, N), of which the lowest `bits` bits are used.
    """
    last = len(flooding) - 1
    top = bits - 64 * last
    mask = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - top)
    piece = np.uint64((1 << _PIECE_BITS) - 1)
    for modulus in range(len(primes)):
        p = np.uint64(np.int64(primes[modulus]))
        half = np.uint64(1)
        for _ in range(bits - 1):
            half = (half << np.uint64(1)) % p
        for k in range(result.shape[2]):
            residue = np.uint64(0)
            for word in range(last, -1, -1):
                value = flooding[word, k] & mask if word == last else flooding[word, k]
                for shift in range(64 - _PIECE_BITS, -1, -_PIECE_BITS):
                    part = (value >> np.uint64(shift)) & piece
                    residue = ((residue << np.uint64(_PIECE_BITS)) | part) % p
            residue += p - half
            for component in range(2):
                sum_ = result[component, modulus, k] + p + np.uint64(np.int64(errors[component, k]))
                if component == 0:
                    sum_ += residue
                result[component, modulus, k] = sum_ % p


@compiled
def _divide(result: Words, primes: Floats, inverses: Floats) -> None:
    """result[:, 0] ← all of it divided by every prime but the first, rounded each time.

    x is the same integer modulo every prime. With r = x mod q_l, centred, (x − r) / q_l is an
    integer, which modulo q_k is (x − r) times the inverse of q_l.
    """
    for part in range(2):
        for last in range(len(primes) - 1, 0, -1):
            q = primes[last]
            for modulus in range(last):
                p, factor = primes[modulus], inverses[last, modulus]
                inverse = 1.0 / p
                for k in range(result.shape[2]):
                    rest = float(np.int64(result[part, last, k]))
                    if rest > 0.5 * q:
                        rest -= q
                    x = float(np.int64(result[part, modulus, k]))
                    difference = reduced(x - rest, p, inverse)
                    y = reduced(product(difference, factor, p, inverse), p, inverse)
                    result[part, modulus, k] = np.uint64(np.int64(y + p if y < 0 else y))
