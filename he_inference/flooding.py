"""How much noise hides what an answer must not show: the statement of private answers, in numbers.

The evaluators of the batched layout and of the coefficient layout are exact. Let X be what a
query's ciphertexts decrypt to, elements of the ring, and m = f_W(X) mod Q the same for an answer,
f_W the network with integer weights: the client knows X, its own encryption noise included. A
private answer is

    c0 = m + κ + E − c1·s,      c1 = c1' + a·u + e1,      then divided by all primes but the first.

κ is what relinearisation and the encryption of zero add. The former depends on the weights beyond
m, the latter on u and e1, of which whoever knows s would learn something from it. E is drawn
uniformly from F = 2^bits integers for every coefficient. Of c0 a message shows all
coefficients in the batched layout, N for each output, and one for each in the other. It is within

    coefficients shown · B / F  =  2^−statistical_bits               (B ≥ |κ| always)

of one that is made from m + E alone (so two models with the same m are within twice that), for a
message of the batched layout and for a query of the other, of which a message may hold many; plus
the advantage against ring LWE with a fresh ternary secret u for every ciphertext of an answer,
modulo all data primes (c1 is masked by a·u + e1), plus that against AES in counter mode (smudging:
Asharov et al. 2012, Lemma 1; answers re-randomised by an encryption of zero: Gentry 2009, 4.2 in
his thesis).

In the coefficient layout X is modulo the first prime q, and m is W·X times the others, Q/q. Of it
an answer shows one number for each output: Σ over the weights of its ciphertext times coefficients
of X. Where X is an expanded query these are the network's values. Where a client puts something on
coefficients that hold no feature, weights of other outputs in the same ciphertext are added: other
linear forms of the same weights, and never more of them than there are outputs.

What a client learns is m + E: the network at its own query X, with noise about as large as the
answers' resolution. X is an element of the ring, with the encryption noise in it, so in the batched
layout these are N noisy numbers and not N/2, of a query that a client could have chosen. The
network's value at the query *without* that noise need not be hidden, and is not: that is why
nothing but κ is flooded.

B is a worst case, not an estimate: digits are below their primes, SEAL's errors are sums of 42
bits, at most 21, and secrets are ternary.
"""

from collections.abc import Sequence
from math import floor, log2, sqrt

from he_inference.parameters import Parameters

STATISTICAL_BITS = 40
MAX_ERROR = 21
"""Of SEAL's centred binomial errors."""


def largest_noise(degree: int, primes: Sequence[int], components: int) -> int:
    """B: no coefficient of κ is larger.

    primes: of the data. components: polynomials of an answer before it is sanitised.
    Relinearisation adds Σ d·e over powers of the secret and primes, the encryption of zero
    e_pk·u + e1·s + e0.
    """
    switched = (components - 2) * sum(primes) * degree * MAX_ERROR
    return switched + (2 * degree + 1) * MAX_ERROR


def coefficients_hidden(
    degree: int, primes: Sequence[int], components: int, outputs: int, each: int | None = None
) -> int:
    """outputs · each · B: with F times as much flooding, the distance is 1 / F.

    each: coefficients of c0 that a message shows of every output; all N unless given.
    """
    return outputs * (each or degree) * largest_noise(degree, primes, components)


def statistical_bits(
    parameters: Parameters, components: int, outputs: int, bits: int, each: int | None = None
) -> float:
    """−log2 of the distance that a message of `outputs` answers flooded with 2^bits has."""
    degree, primes = parameters.ring_degree, parameters.data_primes
    return bits - log2(coefficients_hidden(degree, primes, components, outputs, each))


def slot_deviation(degree: int, bits: int) -> float:
    """Standard deviation of E in a slot's real part, which is half of the variance."""
    return sqrt(degree / 24) * 2.0**bits


def flooding_bits(degree: int, deviation: float) -> int:
    """The largest flooding whose deviation in a slot is at most this."""
    return floor(log2(deviation / slot_deviation(degree, 0)))


def rounding_deviation(degree: int) -> float:
    """What dividing both polynomials by primes and rounding adds to a slot's real part.

    Dividing by one prime after the other rounds every time, each earlier rounding divided by the
    next prime: 2^-19 of it and less.
    """
    return sqrt(degree / 24 * (1 + 2 * degree / 3))


def response_bits(parameters: Parameters, deviation: float) -> tuple[int, int]:
    """Bits of c0 and c1, modulo the first prime, that are kept for a slot's error to stay below.

    deviation: what leaving off the others may add to a slot's real part. See `NoiseModel.cut`.
    """
    degree, whole = parameters.ring_degree, parameters.data_primes[0].bit_length()
    variance = deviation**2 / 2
    gains = (degree / 24, degree / 24 * 2 * degree / 3)
    cuts = [max(0, floor(log2(variance / gain + 1) / 2)) for gain in gains]
    return whole - cuts[0], whole - cuts[1]
