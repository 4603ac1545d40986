"""The training step of a CIFAR ResNet in PyTorch, which `lrx.benchmarks.resnet_step` times.

It is a program of its own, so that it can run in another environment. For each line of input, a number of steps, it
takes these steps and prints the seconds that they took.
"""

from __future__ import annotations

import sys
import time
from typing import Any


def residual_network(depth: int) -> Any:
    """Build the network of `lrx.workloads.resnet.ResNet`, with 10 classes."""
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self, before: int, after: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
            self.norm1 = nn.BatchNorm2d(after)
            self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
            self.norm2 = nn.BatchNorm2d(after)
            self.stride, self.new = stride, after - before

        def forward(self, x: Any) -> Any:
            residual = functional.relu(self.norm1(self.conv1(x)))
            residual = self.norm2(self.conv2(residual))
            shortcut = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new))
            return functional.relu(residual + (shortcut if self.new else x))

    layers: list[Any] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    before = 16
    for after in (16, 32, 64):
        for _ in range(depth // 6):
            layers.append(Block(before, after, 1 if before == after else 2))
            before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def main() -> None:
    """Print the seconds of as many steps as each line of input asks for."""
    import torch

    depth, batch_size = map(int, sys.argv[1:])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = residual_network(depth).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(batch_size, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch_size,), device=device)
    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(network(images), labels)
            loss.backward()
            optimizer.step()
        loss.item()  # waits for an accelerator
        print(time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    main()
