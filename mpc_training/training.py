"""Stochastic gradient descent with momentum on softmax cross-entropy, on any arithmetic.

    p = softmax(network(x))        v ← μv + (η/n) Xᵀ(p − y)        w ← w − v

v is the velocity times the learning rate, so that one truncation, of the sum of both terms at
`UPDATE_BITS`, serves it and the weights: no gradient is rounded before it is scaled.

What has no place here: clamps that compare every gradient, gradients of inputs, and steps that
leave the interval of the fixed point unnoticed. `Trainer.blown_up` tells whether any logit of the
last batch is beyond `softmax.MAX_LOGIT`: weights that overflow make logits that are uniform in the
ring, each of them inside with probability 2^−3, so it misses a broken batch of n rows of 10 with
probability below 2^(−30n).
"""

from dataclasses import dataclass

from mpc_training import softmax
from mpc_training.arithmetic import Arithmetic, Bits
from mpc_training.errors import SettingsError
from mpc_training.fixed_point import (
    ACTIVATION_BITS,
    GRADIENT_BITS,
    UPDATE_BITS,
    WEIGHT_BITS,
    Array,
)
from mpc_training.layers import backward, forward, settled
from mpc_training.network import Network
from mpc_training.tensor import Product, Tensor, join

MOMENTUM_BITS = UPDATE_BITS - WEIGHT_BITS


@dataclass(frozen=True)
class Recipe:
    """How to train. Raises `SettingsError` for values outside their ranges.

    learning_rate: of the mean gradient of a batch, in (0, 8]. momentum: in [0, 1).
    batch: rows a step, 1 to 4096. epochs: 1 to 1000. decay: factor on the learning rate over each
    epoch, a little of it with every step, in (0, 1].
    """

    learning_rate: float = 0.1
    momentum: float = 0.9
    batch: int = 128
    epochs: int = 1
    decay: float = 1.0

    def __post_init__(self) -> None:
        faults = [
            f"{name} {value}: expected {what}"
            for name, value, holds, what in (
                ("learning_rate", self.learning_rate, 0 < self.learning_rate <= 8, "0 < η ≤ 8"),
                ("momentum", self.momentum, 0 <= self.momentum < 1, "0 ≤ μ < 1"),
                ("batch", self.batch, 1 <= self.batch <= 4096, "1 to 4096"),
                ("epochs", self.epochs, 1 <= self.epochs <= 1000, "1 to 1000"),
                ("decay", self.decay, 0 < self.decay <= 1, "0 < decay ≤ 1"),
            )
            if not holds
        ]
        if faults:
            raise SettingsError("; ".join(faults))

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of step 0, 1, …, for `steps` an epoch."""
        return float(self.learning_rate * self.decay ** (step / steps))


class Trainer:
    """Weights, their velocity, and the step that changes both."""

    def __init__(self, arithmetic: Arithmetic, network: Network, weights: Tensor) -> None:
        """weights: (network.size,) with `WEIGHT_BITS`."""
        self.arithmetic, self.network = arithmetic, network
        self.weights = weights
        self.velocity = weights - weights
        self.outcome: softmax.Outcome | None = None

    @classmethod
    def start(cls, arithmetic: Arithmetic, network: Network, weights: Array) -> "Trainer":
        """From public first weights (network.size,)."""
        return cls(arithmetic, network, arithmetic.public(weights, WEIGHT_BITS))

    def step(self, x: Tensor, y: Tensor, learning_rate: float, momentum: float) -> None:
        """One batch. x: (n, *input_shape) with `ACTIVATION_BITS`; y: one-hot (n, classes) with
        `GRADIENT_BITS`."""
        arithmetic = self.arithmetic
        done = forward(arithmetic, self.network, self.weights, x)
        self.outcome = softmax.softmax(arithmetic, done.answer, GRADIENT_BITS)
        error = self.outcome.probabilities - y
        scale = learning_rate / x.shape[0]
        products = [
            arithmetic.times(product, scale, UPDATE_BITS - product.bits)
            for product in backward(arithmetic, done, error)
        ]
        slowed = arithmetic.times(self.velocity, momentum, MOMENTUM_BITS)
        total: Product = arithmetic.plus(join(products), slowed)
        self.velocity = arithmetic.settle(total, WEIGHT_BITS)
        self.weights = self.weights - self.velocity

    def logits(self, x: Tensor) -> Tensor:
        """What the network answers: (n, classes)."""
        answer = forward(self.arithmetic, self.network, self.weights, x).answer
        return settled(self.arithmetic, answer, ACTIVATION_BITS)

    def loss(self, y: Tensor) -> Tensor:
        """The mean cross-entropy of the last step's batch with these labels, shared: shape (1,)."""
        if self.outcome is None:
            raise SettingsError("no step was made: there is no loss")
        return softmax.cross_entropy(self.arithmetic, self.outcome, y)

    def blown_up(self) -> Bits:
        """Whether the last step's logits left the interval: eight shared bits, each of an eighth of
        the logits."""
        if self.outcome is None:
            raise SettingsError("no step was made: there is nothing to judge")
        return softmax.out_of_range(self.arithmetic, self.outcome.logits)
