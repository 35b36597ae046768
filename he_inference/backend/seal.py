"""Microsoft SEAL through TenSEAL: the only module that imports it.

`KeyHolder` is the client's half, everything that touches the secret; `Evaluator` is the server's,
which sees ciphertexts and evaluation keys alone. Both take and give arrays.

A key that is needed only late in a program is made in a second context on a prefix of the primes:
SEAL names the levels of both contexts alike, so their ciphertexts are interchangeable, and the key
is several times smaller.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import tenseal.sealapi as seal

from he_inference.backend import seal_format
from he_inference.backend.clear import plain_scale
from he_inference.embedding import Complex
from he_inference.errors import KeyFileError, MessageError, ParameterError
from he_inference.nodes import Array
from he_inference.parameters import Parameters
from he_inference.program import Instruction, Program
from he_inference.signature import KeyPlan
from he_inference.wire import Residues, Seeded, SwitchingKey

_GENERATOR = 3


def galois_element(step: int, degree: int) -> int:
    """The automorphism X → X^g that rotates slots to the left by `step`."""
    return pow(_GENERATOR, step % (degree // 2), 2 * degree)


@cache
def _context(parameters: Parameters, level: int) -> Any:
    """A context over the first `level` data primes and the special one."""
    literal = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
    literal.set_poly_modulus_degree(parameters.ring_degree)
    primes = (*parameters.data_primes[:level], parameters.special_prime)
    literal.set_coeff_modulus([seal.Modulus(prime) for prime in primes])
    context = seal.SEALContext(literal, True, seal.SEC_LEVEL_TYPE.TC128)
    if not context.parameters_set():
        raise ParameterError(f"SEAL refuses the parameters: {context.parameters_error_message()}")
    return context


@cache
def _parms_ids(parameters: Parameters) -> tuple[tuple[int, ...], ...]:
    """SEAL's name of every level; entry l − 1 is that of level l."""
    data = _context(parameters, len(parameters.data_primes)).first_context_data()
    names = []
    while data is not None:
        names.append(tuple(data.parms_id()))
        data = data.next_context_data()
    return tuple(reversed(names))


def _saved(thing: Any) -> bytes:
    """What an object saves of itself; through memory where there are memory files."""
    with _nameless_file() as file:
        thing.save(_path(file))
        file.seek(0)
        return bytes(file.read())


def _loaded(thing: Any, context: Any, data: bytes) -> Any:
    with _nameless_file() as file:
        file.write(data)
        file.flush()
        thing.load(context, _path(file))
    return thing


def _nameless_file() -> Any:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("seal"), "w+b")
    return tempfile.NamedTemporaryFile("w+b")  # mode 0600, gone when closed


def _path(file: Any) -> str:
    if hasattr(os, "memfd_create"):
        return f"/proc/self/fd/{file.fileno()}"
    return str(file.name)


class KeyHolder:
    """Everything that touches the secret key."""

    def __init__(self, parameters: Parameters, secret: Residues | None = None) -> None:
        """secret: what `secret` returned earlier; without it a new key is drawn by SEAL.

        Raises `KeyFileError` for residues that cannot be a secret key of these parameters.
        """
        self._parameters = parameters
        self._top = len(parameters.data_primes)
        context = _context(parameters, self._top)
        if secret is None:
            self._secret = seal.KeyGenerator(context).secret_key()
        else:
            _check_secret(parameters, secret)
            data = seal_format.plaintext(context.key_parms_id(), secret)
            self._secret = _loaded(seal.SecretKey(), context, data)
        self._encoder = seal.CKKSEncoder(context)
        self._encryptor = seal.Encryptor(context, self._secret)
        self._decryptor = seal.Decryptor(context, self._secret)
        self._evaluator = seal.Evaluator(context)
        self._generators: dict[int, Any] = {}

    @property
    def secret(self) -> Residues:
        """The secret key as SEAL holds it: transformed, (primes and the special one, N)."""
        return seal_format.read_plaintext(_saved(self._secret), self._top + 1)

    def encrypt(self, slots: Array, scale: float) -> Seeded:
        """(slots,) → a fresh seeded ciphertext."""
        plain = seal.Plaintext()
        self._encoder.encode(slots.tolist(), scale, plain)
        return seal_format.read_seeded(_saved(self._encryptor.encrypt_symmetric(plain)))

    def encrypt_coefficients(self, slots: Complex) -> Iterator[Seeded]:
        """(count, N/2) slot values of polynomials with integer coefficients → a fresh seeded
        ciphertext modulo the first prime for each.

        SEAL's encoder rounds coefficients to integers, so that what it makes of the slots are
        exactly those of the polynomial (`embedding.slots_of`), as long as they are below 2^45.
        """
        name = list(_parms_ids(self._parameters)[0])
        for values in slots:
            plain = seal.Plaintext()
            self._encoder.encode(values.tolist(), name, 1.0, plain)
            yield seal_format.read_seeded(_saved(self._encryptor.encrypt_symmetric(plain)))

    def zero(self) -> Seeded:
        """A fresh encryption of zero: what others make such encryptions from, a public key."""
        slots = np.zeros(self._parameters.slots)
        return self.encrypt(slots, 1.0)

    def power_digits(self, power: int) -> Iterator[Seeded]:
        """For each data prime, an encryption of s^power modulo it and of zero modulo the others.

        SEAL computes the power: it is what (0, …, 0, 1) decrypts to. `evaluation_keys` has no
        such keys above s².
        """
        name, context = _parms_ids(self._parameters)[-1], _context(self._parameters, self._top)
        for prime in range(self._top):
            unit = np.zeros((power + 1, self._top, self._parameters.ring_degree), np.uint64)
            unit[power, prime] = 1  # in the NTT domain a constant is the same everywhere
            data = seal_format.ciphertext(name, unit, 1.0, ntt=True)
            plain = seal.Plaintext()
            self._decryptor.decrypt(_loaded(seal.Ciphertext(), context, data), plain)
            yield seal_format.read_seeded(_saved(self._encryptor.encrypt_symmetric(plain)))

    def decrypt(self, residues: Residues, scale: float) -> Array:
        """(2, N) coefficients modulo the first prime → (slots,).

        Raises `MessageError` for what SEAL does not take as a ciphertext.
        """
        return np.array(self._encoder.decode_double(self._decrypted(residues, scale)))

    def decrypt_complex(self, residues: Residues) -> Complex:
        """As `decrypt`, at scale 1, with the imaginary parts of the slots."""
        return np.array(self._encoder.decode_complex(self._decrypted(residues, 1.0)))

    def _decrypted(self, residues: Residues, scale: float) -> Any:
        name = _parms_ids(self._parameters)[0]
        data = seal_format.ciphertext(name, residues[:, None], scale, ntt=False)
        plain = seal.Plaintext()
        try:
            cipher = _loaded(seal.Ciphertext(), _context(self._parameters, self._top), data)
            self._evaluator.transform_to_ntt_inplace(cipher)
            self._decryptor.decrypt(cipher, plain)
        except (RuntimeError, ValueError) as error:
            raise MessageError(f"the answer is not a ciphertext: {error}") from None
        return plain

    def decrypt_product(self, residues: Residues, scale: float) -> Array:
        """(components, primes, N) in the NTT domain, modulo all data primes → (slots,).

        Component i is the coefficient of s^i: products that were never relinearised have more
        than two. Raises `MessageError` for what SEAL does not take as a ciphertext.
        """
        name = _parms_ids(self._parameters)[-1]
        data = seal_format.ciphertext(name, residues, scale, ntt=True)
        plain = seal.Plaintext()
        try:
            cipher = _loaded(seal.Ciphertext(), _context(self._parameters, self._top), data)
            self._decryptor.decrypt(cipher, plain)
            return np.array(self._encoder.decode_double(plain))
        except (RuntimeError, ValueError) as error:
            raise MessageError(f"the answer is not a ciphertext: {error}") from None

    def evaluation_keys(self, plan: KeyPlan) -> list[SwitchingKey]:
        """Every key of a plan, in the order of `KeyPlan.levels`."""
        keys = []
        if plan.relinearisation:
            keys.append(self._relinearisation_key(plan.relinearisation))
        keys.extend(self._rotation_key(step, level) for step, level in plan.rotations)
        return keys

    def _relinearisation_key(self, level: int) -> SwitchingKey:
        saved = _saved(self._generator(level).create_relin_keys())
        return seal_format.read_switching_key(saved, 0)

    def _rotation_key(self, step: int, level: int) -> SwitchingKey:
        element = galois_element(step, self._parameters.ring_degree)
        saved = _saved(self._generator(level).create_galois_keys([element]))
        return seal_format.read_switching_key(saved, seal.GaloisKeys.get_index(element))

    def _generator(self, level: int) -> Any:
        """A key generator on a prefix of the primes, for the same secret."""
        if level not in self._generators:
            context = _context(self._parameters, level)
            rows = self.secret
            prefix = np.concatenate([rows[:level], rows[-1:]])
            data = seal_format.plaintext(context.key_parms_id(), prefix)
            secret = _loaded(seal.SecretKey(), context, data)
            self._generators[level] = seal.KeyGenerator(context, secret)
        return self._generators[level]


def _check_secret(parameters: Parameters, secret: Residues) -> None:
    shape = (len(parameters.primes), parameters.ring_degree)
    if secret.shape != shape:
        raise KeyFileError(f"a secret key of shape {secret.shape}, expected {shape}")
    for row, prime in zip(secret, parameters.primes, strict=True):
        # One residue in p is zero by chance; a whole row is not.
        if row.max() >= prime or not row.any():
            raise KeyFileError("the file does not hold a secret key: make new keys")


class KeySet:
    """One client's evaluation keys, loaded into SEAL."""

    def __init__(self, parameters: Parameters, plan: KeyPlan, keys: Sequence[SwitchingKey]) -> None:
        remaining = iter(keys)
        self.relinearisation: tuple[int, Any] | None = None
        if plan.relinearisation:
            loaded = self._load(
                parameters, plan.relinearisation, seal.RelinKeys(), {0: next(remaining)}, 1
            )
            self.relinearisation = (plan.relinearisation, loaded)
        self.rotations: dict[int, tuple[int, Any]] = {}
        for step, level in plan.rotations:
            element = galois_element(step, parameters.ring_degree)
            index = seal.GaloisKeys.get_index(element)
            loaded = self._load(
                parameters, level, seal.GaloisKeys(), {index: next(remaining)},
                parameters.ring_degree,
            )  # fmt: skip
            self.rotations[step] = (level, loaded)

    @staticmethod
    def _load(
        parameters: Parameters, level: int, into: Any, keys: dict[int, SwitchingKey], count: int
    ) -> Any:
        context = _context(parameters, level)
        data = seal_format.switching_keys(context.key_parms_id(), keys, count)
        return _loaded(into, context, data)


class Evaluator:
    """Runs a program on ciphertexts. Weights are encoded once, at the level they are used at."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._parameters = program.parameters
        self._top = len(self._parameters.data_primes)
        self._evaluators = {
            level: seal.Evaluator(_context(self._parameters, level))
            for level in {self._top, *program.signature.keys.levels}
        }
        self._plains = self._encode_all()

    def keys(self, keys: Sequence[SwitchingKey]) -> KeySet:
        """Evaluation keys in the order of `KeyPlan.levels`, loaded."""
        return KeySet(self._parameters, self._program.signature.keys, keys)

    def evaluate(self, keys: KeySet, query: Seeded) -> Residues:
        """A fresh query → (2, N) coefficients of the answer modulo the first prime."""
        scale = self._program.signature.input_scale
        name = _parms_ids(self._parameters)[-1]
        data = seal_format.ciphertext(name, query.residues[None], scale, ntt=True, seed=query.seed)
        context = _context(self._parameters, self._top)
        answer = self._run(keys, lambda: _loaded(seal.Ciphertext(), context, data))
        self._evaluators[self._top].transform_from_ntt_inplace(answer)
        return seal_format.read_ciphertext(_saved(answer))[:, 0]

    def _run(self, keys: KeySet, load: Callable[[], Any]) -> Any:
        registers: dict[int, Any] = {}
        program = self._program
        for index, instruction in enumerate(program.instructions):
            if instruction.operation == "input":
                value = load()
            else:
                value = self._apply(instruction, registers, program.last_uses[index], keys)
                value.scale = instruction.scale
            registers[index] = value
            for register in program.last_uses[index]:
                registers.pop(register, None)
        return registers[len(program.instructions) - 1]

    def _apply(
        self,
        i: Instruction,
        registers: dict[int, Any],
        dying: tuple[int, ...],
        keys: KeySet,
    ) -> Any:
        """One instruction; works in place where its first operand is not read again."""
        first = registers[i.sources[0]]
        in_place = i.sources[0] in dying
        evaluator, method, arguments = self._call(i, first, registers, keys)
        if in_place:
            getattr(evaluator, f"{method}_inplace")(first, *arguments)
            return first
        result = seal.Ciphertext()
        getattr(evaluator, method)(first, *arguments, result)
        return result

    def _call(
        self, i: Instruction, first: Any, registers: dict[int, Any], keys: KeySet
    ) -> tuple[Any, str, tuple[Any, ...]]:
        """Which evaluator, which of its methods, and the arguments after the first operand."""
        main = self._evaluators[self._top]
        match i.operation:
            case "rotate":
                level, key = keys.rotations[i.step]
                return self._evaluators[level], "rotate_vector", (i.step, key)
            case "relinearise" if keys.relinearisation:
                level, key = keys.relinearisation
                return self._evaluators[level], "relinearize", (key,)
            case "multiply" if i.sources[0] == i.sources[1]:
                return main, "square", ()
            case "multiply":
                return main, "multiply", (registers[i.sources[1]],)
            case "add":
                return main, "add", (registers[i.sources[1]],)
            case "multiply_plain" | "add_plain":
                return main, i.operation, (self._plains[i.vector],)
            case "rescale":
                return main, "rescale_to_next", ()
            case "drop":
                return main, "mod_switch_to_next", ()
        raise ParameterError(f"the program asks for {i.operation} and has no key for it")

    def _encode_all(self) -> dict[int, Any]:
        encoder = seal.CKKSEncoder(_context(self._parameters, self._top))
        plains = {}
        for i in self._program.instructions:
            if i.vector >= 0:
                scale = plain_scale(self._program, i)
                vector = self._program.vectors[i.vector]
                plains[i.vector] = self._encode(encoder, vector, i.level, scale)
        return plains

    def _encode(
        self, encoder: Any, vector: npt.NDArray[np.float64], level: int, scale: float
    ) -> Any:
        name = list(_parms_ids(self._parameters)[level - 1])
        plain = seal.Plaintext()
        encoder.encode(vector.tolist(), name, scale, plain)
        if plain.is_zero():
            # Weights too small for their scale. SEAL refuses products with zero, so multiply by
            # one unit of the scale, less than what rounding costs every other vector.
            encoder.encode(1 / scale, name, scale, plain)
        return plain
