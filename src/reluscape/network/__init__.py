"""Reads an ``nn.Module`` into an immutable chain of affine and rectifier layers.

This is the only module that looks inside PyTorch modules. Reading has four steps:

1. *trace* the forward with ``torch.fx``; a submodule that cannot be traced stays one opaque node;
2. *run* the traced graph once on the inputs to learn every shape;
3. *walk back* from the output over readable nodes, each used once, to the first that is not;
4. *check* that the chain so found reproduces the module's own output.

What lies before the first affine layer of that chain is a black box: it is run once, and its
values are the features that the chain starts from. Where whole networks move, `chain` also reads
convolutions and pooling.
"""

from reluscape.network.layers import Affine, Network, Reading, Rectifier, Scale
from reluscape.network.reading import read_network

__all__ = ["Affine", "Network", "Reading", "Rectifier", "Scale", "read_network"]
