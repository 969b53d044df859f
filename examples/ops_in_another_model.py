"""Uses the kernels in another model: a small byte-level language model with RMSNorm and SwiGLU blocks.

Importing ``trm_fast.ops`` loads torch and nothing else of trm_fast. Every op has a gradient, a plain PyTorch reference
for machines without its kernel, and works under ``torch.compile``.
"""

import torch
from torch import Tensor, nn

from trm_fast import ops

TEXT = b"the cat sat on the mat. the dog sat on the log. " * 20
WIDTH, CONTEXT = 64, 16


class Layer(nn.Module):
    """A linear mix of the context, then a SwiGLU block; each ends with a residual addition and RMSNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(CONTEXT, CONTEXT).tril() / CONTEXT**0.5)
        self.gate_up = nn.Parameter(torch.randn(4 * WIDTH, WIDTH) / WIDTH**0.5)
        self.down = nn.Parameter(torch.randn(WIDTH, 2 * WIDTH) / (2 * WIDTH) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:  # (B, CONTEXT, WIDTH)
        x = ops.rms_norm(x, torch.einsum("ij,bjd->bid", self.mix.tril(), x))
        return ops.mlp(x, self.gate_up, self.down)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, WIDTH)
        self.layers = nn.Sequential(Layer(), Layer())
        self.output = nn.Linear(WIDTH, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.output(self.layers(self.embedding(tokens)))


torch.manual_seed(0)
model = Model()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
data = torch.tensor(list(TEXT))
for step in range(1, 201):
    start = torch.randint(len(data) - CONTEXT - 1, (32, 1))
    rows = data[start + torch.arange(CONTEXT + 1)]
    loss = ops.stablemax_cross_entropy(model(rows[:, :-1]), rows[:, 1:]).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 50 == 0:
        print(f"step {step}: loss {loss.item():.3f}")
