"""HElayers: its neural network compiler over SEAL, free for non-commercial use. Compared only.

The network goes in as ONNX, unencrypted weights, one image a batch. Settings: the optimiser's own
tile layout, which is also the fastest of those tried by hand; 26 fractional and 5 integer bits in
4096 slots (N = 8192), 1.7 times as fast as its default of 50 bits at N = 16384.
"""

import numpy as np
import pyhelayers
from onnx import TensorProto, helper, numpy_helper

from benchmarks import measure
from benchmarks.peers.protocol import System, serve

FRACTIONAL_BITS, INTEGER_BITS = 26, 5
SLOTS = 4096
POSITIONS = (8, 8)
OUTPUTS = 10


def onnx_network(weights):
    """The network as ONNX bytes.

    HElayers flattens a convolution's output in the order height, width, channel: the columns of
    the dense layer after it are permuted to match.
    """
    maps = len(weights["convolution.bias"])
    hidden = weights["hidden.weight"].reshape(-1, maps, *POSITIONS)
    tensors = {
        **weights,
        "hidden.weight": hidden.transpose(0, 2, 3, 1).reshape(len(hidden), -1),
    }

    def layer(operation, source, name, target, **attributes):
        inputs = [source, f"{name}.weight", f"{name}.bias"]
        return helper.make_node(operation, inputs, [target], **attributes)

    nodes = [
        layer("Conv", "image", "convolution", "maps", kernel_shape=[7, 7], strides=[3, 3]),
        helper.make_node("Mul", ["maps", "maps"], ["squared_maps"]),
        helper.make_node("Flatten", ["squared_maps"], ["features"], axis=1),
        layer("Gemm", "features", "hidden", "hidden", transB=1),
        helper.make_node("Mul", ["hidden", "hidden"], ["squared_hidden"]),
        layer("Gemm", "squared_hidden", "output", "logits", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 28, 28])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, OUTPUTS])],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    return model.SerializeToString()


def requirements():
    """What is asked of the compiler."""
    wishes = pyhelayers.HeRunRequirements()
    wishes.set_he_context_options([pyhelayers.SealCkksContext()])
    wishes.set_model_encrypted(False)
    wishes.set_security_level(128)
    wishes.optimize_for_batch_size(1)
    wishes.set_fixed_num_slots(SLOTS)
    wishes.set_fractional_part_precision(FRACTIONAL_BITS)
    wishes.set_integer_part_precision(INTEGER_BITS)
    return wishes


class HelayersSeal(System):
    """The server works in a context that was read from bytes without the secret key."""

    def prepare(self, weights):
        plain = pyhelayers.NeuralNetPlain()
        plain.init(
            pyhelayers.PlainModelHyperParams(),
            [onnx_network(weights)],
            ["network.onnx"],
        )
        profile = pyhelayers.HeModel.compile(plain, requirements())
        self.client = pyhelayers.HeModel.create_context(profile)
        public = self.client.save_to_buffer()
        self.server = pyhelayers.load_he_context(public)
        assert not self.server.has_secret_key()
        self.network = pyhelayers.NeuralNet(self.server)
        self.network.encode(plain, profile)
        layout = pyhelayers.ModelIoEncoder(self.network).save_to_buffer()
        self.encoder = pyhelayers.load_io_encoder(self.client, layout)
        chain = [int(prime).bit_length() for prime in self.client.get_modulus_chain()]
        return {
            "version": measure.versions(["pyhelayers"]),
            "settings": (
                f"SEAL, N = {2 * self.client.slot_count()}, primes {chain} bits, "
                f"{FRACTIONAL_BITS} + {INTEGER_BITS} bits of precision, "
                "public-key encryption"
            ),
            "evaluation_key_bytes": len(public),
            "security_bits": int(self.client.get_security_level()),
        }

    def encrypt(self, image):
        request = pyhelayers.EncryptedData(self.client)
        self.encoder.encode_encrypt(request, [image.reshape(1, 1, 28, 28)])
        return request.save_to_buffer()

    def evaluate(self, request):
        response = pyhelayers.EncryptedData(self.server)
        self.network.predict(response, pyhelayers.load_encrypted_data(self.server, request))
        return response.save_to_buffer()

    def decrypt(self, response):
        encrypted = pyhelayers.load_encrypted_data(self.client, response)
        return np.ravel(self.encoder.decrypt_decode_output(encrypted))[:OUTPUTS]


if __name__ == "__main__":
    serve(HelayersSeal())
