"""Orion 2: its compiler, and Lattigo through its client and evaluator.

Primes are those of Orion's own configuration for LoLa's MNIST networks, with two special primes, in
the standard ring of N = 8192: of what was tried (conjugate-invariant ring, one or three special
primes, smaller scales, other baby-step ratios, square embedding) the fastest and most exact. The
secret is dense: its number of non-zero coefficients is the expected one of a uniform ternary
secret, as the 128-bit tables take.
"""

import contextlib
import io

import numpy as np
import orion_compiler.nn as on
import torch
from lattigo import ckks, rlwe
from orion_compiler import CKKSParams, Compiler, CompilerConfig
from orion_evaluator import Evaluator, Model

from benchmarks import measure
from benchmarks.peers.protocol import System, serve

LOG_DEGREE = 13
PRIME_BITS = (29, 26, 26, 26, 26, 26)
SPECIAL_PRIME_BITS = (29, 29)
LOG_SCALE = 26
NON_ZERO_SECRET_COEFFICIENTS = 2 * 2**LOG_DEGREE // 3
OUTPUTS = 10


class Network(on.Module):
    """Convolution, square, dense, square, dense."""

    def __init__(self, weights):
        super().__init__()
        hidden, features = weights["hidden.weight"].shape
        maps = len(weights["convolution.bias"])
        self.convolution = on.Conv2d(1, maps, 7, stride=3)
        self.first_square = on.Quad()
        self.flatten = on.Flatten()
        self.hidden = on.Linear(features, hidden)
        self.second_square = on.Quad()
        self.output = on.Linear(hidden, OUTPUTS)
        self.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})

    def forward(self, images):
        features = self.flatten(self.first_square(self.convolution(images)))
        return self.output(self.second_square(self.hidden(features)))


class OrionV2(System):
    """Client and evaluator are separate Go libraries: only bytes pass between them."""

    def prepare(self, weights):
        torch.set_num_threads(1)
        torch.manual_seed(0)
        literal = CKKSParams(
            logn=LOG_DEGREE,
            logq=PRIME_BITS,
            logp=SPECIAL_PRIME_BITS,
            log_default_scale=LOG_SCALE,
            h=NON_ZERO_SECRET_COEFFICIENTS,
            ring_type="standard",
        )
        network = Network(weights).eval()
        with contextlib.redirect_stderr(io.StringIO()):
            compiler = Compiler(network, literal, CompilerConfig())
            compiler.fit(torch.rand(1, 1, 28, 28))
            self.model = Model.load(compiler.compile().to_bytes())
        parameters, manifest, self.level = self.model.client_params()
        keys = self._make_keys(parameters, manifest)
        self.evaluator = Evaluator(parameters, keys)
        return {
            "version": measure.versions(
                ["orion-v2-compiler", "orion-v2-evaluator", "orion-v2-lattigo"]
            ),
            "settings": (
                f"N = {2**LOG_DEGREE}, primes {list(PRIME_BITS)} + {list(SPECIAL_PRIME_BITS)} "
                f"bits, scale 2^{LOG_SCALE}, {len(manifest['galois_elements'])} rotations, "
                "public-key encryption"
            ),
            "evaluation_key_bytes": len(keys),
            "security_bits": 128,
        }

    def _make_keys(self, parameters, manifest):
        self.parameters = ckks.Parameters.from_dict(parameters)
        self.scale = self.parameters.default_scale()
        self.encoder = ckks.Encoder(self.parameters)
        generator = rlwe.KeyGenerator(self.parameters)
        secret = generator.gen_secret_key()
        self.encryptor = rlwe.Encryptor(self.parameters, generator.gen_public_key(secret))
        self.decryptor = rlwe.Decryptor(self.parameters, secret)
        rotations = [
            generator.gen_galois_key(secret, element) for element in manifest["galois_elements"]
        ]
        keys = rlwe.MemEvaluationKeySet(generator.gen_relin_key(secret), rotations)
        return keys.marshal_binary()

    def encrypt(self, image):
        plaintext = self.encoder.encode(image.ravel().tolist(), self.level, self.scale)
        return self.encryptor.encrypt_new(plaintext).marshal_binary()

    def evaluate(self, request):
        (response,) = self.evaluator.forward(self.model, [request])
        return response

    def decrypt(self, response):
        plaintext = self.decryptor.decrypt_new(rlwe.Ciphertext.unmarshal_binary(response))
        return np.array(self.encoder.decode(plaintext, OUTPUTS))


if __name__ == "__main__":
    serve(OrionV2())
