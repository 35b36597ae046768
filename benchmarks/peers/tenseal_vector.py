"""TenSEAL: `CKKSVector` as its tutorial 4, "Encrypted Convolution on MNIST", uses it.

The image is laid out by `im2col_encoding` on the client, the convolution is `conv2d_im2col`, the
four maps are packed into one vector, dense layers are `mm` and activations `square_`, with the
tutorial's parameters: N = 8192, primes of [31, 26 × 6, 31] bits, scale 2^26.
"""

import numpy as np
import tenseal

from benchmarks import measure
from benchmarks.peers.protocol import System, serve

POLY_MODULUS_DEGREE = 8192
PRIME_BITS = [31, 26, 26, 26, 26, 26, 26, 31]
KERNEL, STRIDE = 7, 3
WINDOWS = 64


class TenSealVector(System):
    """The tutorial's network; the server holds a context without the secret key."""

    def prepare(self, weights):
        context = tenseal.context(
            tenseal.SCHEME_TYPE.CKKS,
            POLY_MODULUS_DEGREE,
            coeff_mod_bit_sizes=PRIME_BITS,
        )
        context.global_scale = 2**26
        context.generate_galois_keys()
        self.client = context
        public = context.serialize(save_secret_key=False)
        self.server = tenseal.context_from(public)
        self.kernels = weights["convolution.weight"][:, 0].tolist()
        self.convolution_bias = weights["convolution.bias"].tolist()
        self.hidden_weight = weights["hidden.weight"].T.tolist()
        self.hidden_bias = weights["hidden.bias"].tolist()
        self.output_weight = weights["output.weight"].T.tolist()
        self.output_bias = weights["output.bias"].tolist()
        return {
            "version": measure.versions(["tenseal"]),
            "settings": (
                f"N = {POLY_MODULUS_DEGREE}, primes {PRIME_BITS} bits, scale 2^26, "
                "public-key encryption"
            ),
            "evaluation_key_bytes": len(public),
            "security_bits": 128,
        }

    def encrypt(self, image):
        vector, _ = tenseal.im2col_encoding(self.client, image.tolist(), KERNEL, KERNEL, STRIDE)
        return vector.serialize()

    def evaluate(self, request):
        vector = tenseal.ckks_vector_from(self.server, request)
        vector = tenseal.CKKSVector.pack_vectors(
            [
                vector.conv2d_im2col(kernel, WINDOWS) + bias
                for kernel, bias in zip(self.kernels, self.convolution_bias, strict=True)
            ]
        )
        vector.square_()
        vector = vector.mm(self.hidden_weight) + self.hidden_bias
        vector.square_()
        vector = vector.mm(self.output_weight) + self.output_bias
        return vector.serialize()

    def decrypt(self, response):
        vector = tenseal.ckks_vector_from(self.client, response)
        return np.array(vector.decrypt(self.client.secret_key()))


if __name__ == "__main__":
    serve(TenSealVector())
