"""One party of CrypTen: python crypten_party.py RANK RENDEZVOUS SIZES BATCH SEED, in CrypTen's own environment.

Both parties hold shares of the model and of a batch before the first line on standard input. For each line the model is
evaluated once on shares, which stay shared; rank 0 answers with the seconds between two barriers. The answer to "check"
is the largest difference from plain torch.
"""

from __future__ import annotations

import os
import sys
import time
import warnings


def main() -> None:
    """Serve until standard input ends."""
    rank, rendezvous, sizes, batch, seed = sys.argv[1:]
    os.environ |= {
        "RANK": rank, "WORLD_SIZE": "2", "RENDEZVOUS": f"file://{rendezvous}", "DISTRIBUTED_BACKEND": "gloo",
        "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    warnings.filterwarnings("ignore")
    import crypten
    import torch

    torch.set_num_threads(1)
    crypten.init()
    torch.manual_seed(int(seed))
    widths = [int(size) for size in sizes.split("-")]
    layers: list[torch.nn.Module] = []
    modules = []
    for inputs, outputs in zip(widths, widths[1:], strict=False):
        layers.append(torch.nn.Linear(inputs, outputs))
        own = crypten.nn.Linear(inputs, outputs)
        own.set_parameter("weight", layers[-1].weight.detach())
        own.set_parameter("bias", layers[-1].bias.detach())
        modules.append(own)
        if outputs != widths[-1]:
            layers.append(torch.nn.ReLU())
            modules.append(crypten.nn.ReLU())
    plain = torch.nn.Sequential(*layers)
    shared = crypten.nn.Sequential(*modules)
    images = torch.rand(int(batch), widths[0])
    shared.encrypt(src=0)
    shared.eval()
    x = crypten.cryptensor(images, src=0)
    group = crypten.communicator.get()
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "check":
            opened = shared(x).reveal().double() / x.encoder.scale
            answer = (opened - plain(images)).abs().max().item()
        else:
            group.barrier()
            start = time.perf_counter()
            shared(x)
            group.barrier()
            answer = time.perf_counter() - start
        print(answer, flush=True)


if __name__ == "__main__":
    main()
