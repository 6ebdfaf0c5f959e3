"""A small fully connected network in plain NumPy; without hidden layers it is a linear model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .losses_numpy import Floats


@dataclass(frozen=True)
class Layer:
    """One affine map with the velocities of its momentum.

    Attributes
    ----------
    weights, weight_velocity : ndarray, shape (inputs, outputs)
        The matrix and its running step.
    bias, bias_velocity : ndarray, shape (outputs,)
        The offset and its running step.
    """

    weights: Floats
    bias: Floats
    weight_velocity: Floats
    bias_velocity: Floats

    def output(self, inputs: Floats) -> Floats:
        """Apply the map to each row."""
        return inputs @ self.weights + self.bias

    def step(self, inputs: Floats, output_gradient: Floats, rate: float, momentum: float) -> None:
        """Move the parameters, in place, one step of gradient descent with momentum."""
        self.weight_velocity[...] = momentum * self.weight_velocity - rate * (inputs.T @ output_gradient)
        self.bias_velocity[...] = momentum * self.bias_velocity - rate * output_gradient.sum(axis=0)
        self.weights[...] += self.weight_velocity
        self.bias[...] += self.bias_velocity


def random_layer(inputs: int, outputs: int, generator: np.random.Generator) -> Layer:
    """Make a layer with the weights He et al. 2015 (arXiv:1502.01852) propose for ReLU."""
    weights = generator.normal(0.0, np.sqrt(2.0 / inputs), (inputs, outputs))
    return Layer(weights, np.zeros(outputs), np.zeros_like(weights), np.zeros(outputs))


class Network:
    """Affine layers with ReLU in between.

    Parameters
    ----------
    sizes : sequence of int
        Width of the input, of each hidden layer and of the output.
    generator : numpy.random.Generator
        Draws the first weights.
    """

    def __init__(self, sizes: Sequence[int], generator: np.random.Generator) -> None:
        self.layers = [random_layer(inputs, outputs, generator) for inputs, outputs in pairwise(sizes)]

    def forward(self, inputs: Floats) -> list[Floats]:
        """Compute what enters each layer, and last what leaves the network."""
        signals = [inputs]
        for layer in self.layers[:-1]:
            signals.append(np.maximum(layer.output(signals[-1]), 0.0))
        signals.append(self.layers[-1].output(signals[-1]))
        return signals

    def descend(self, signals: list[Floats], output_gradient: Floats, rate: float, momentum: float) -> None:
        """Carry the loss' gradient back through the layers and move each of them one step.

        Parameters
        ----------
        signals : list of ndarray
            What `forward` returned; its last entry is not read.
        output_gradient : ndarray, shape (rows, outputs)
            Gradient of the loss in the network's output.
        rate, momentum : float
            Step length and momentum of gradient descent.
        """
        gradient = output_gradient
        for index in reversed(range(len(self.layers))):
            layer, inputs, layer_gradient = self.layers[index], signals[index], gradient
            if index > 0:
                gradient = (layer_gradient @ layer.weights.T) * (inputs > 0.0)
            layer.step(inputs, layer_gradient, rate, momentum)
