"""ShareTorch: secure multi-party computation for PyTorch.

import torch, sharetorch as st
alice, bob, cp = (st.VirtualWorker(id=name) for name in ("alice", "bob", "crypto_provider"))
x = torch.tensor([1.5, -2.0]).share(alice, bob, crypto_provider=cp)
(x * x).relu().get()          # tensor([2.2500, 4.0000])
"""

from sharetorch import autograd, fl, nn, tutorial_names
from sharetorch.fl import BaseDataset, FederatedDataLoader, FederatedDataset, TrainConfig
from sharetorch.hooking import TorchHook, install
from sharetorch.mpc import errors as exceptions
from sharetorch.mpc.errors import ShareTorchError
from sharetorch.mpc.paillier import PaillierTensor, keygen
from sharetorch.mpc.tensor.fixed_precision import FixedPrecisionTensor
from sharetorch.mpc.tensor.preparing import Prepared, PreparedUnusedWarning
from sharetorch.mpc.tensor.shared import SharedTensor
from sharetorch.mpc.tensor.sharing import DriverIsProviderWarning
from sharetorch.mpc.tensor.traced import NotTracedWarning, Traced, traced
from sharetorch.nn.linalg import DASH, EncryptedLinearRegression
from sharetorch.options import local_worker
from sharetorch.profiling import Profile, debug, profile
from sharetorch.remote import MultiPointerTensor, PointerTensor, VirtualWorker, combine_pointers, serde
from sharetorch.remote.arrays import NumpyTensor
from sharetorch.remote.custom import AbstractTensor
from sharetorch.remote.grid import PrivateGridNetwork, PublicGridNetwork
from sharetorch.remote.ids import ID_PROVIDER
from sharetorch.remote.labels import PrivateTensor
from sharetorch.remote.logging_tensor import LoggingTensor
from sharetorch.remote.network.client import NetworkedWorker, connect, sync
from sharetorch.remote.network.group import load_group
from sharetorch.remote.overload import overloaded
from sharetorch.remote.plans import (
    Plan,
    PointerPlan,
    PointerProtocol,
    Protocol,
    func2plan,
    func2protocol,
    plan_of,
)
from sharetorch.remote.sandbox import create_sandbox, make_hook
from sharetorch.remote.sessions.checkpointing import load_checkpoint, save_checkpoint
from sharetorch.remote.sessions.lanes import DataParallel, Lanes
from sharetorch.tutorial_names import hook as hook
from sharetorch.tutorial_names import torch as torch

AdditiveSharingTensor = SharedTensor
AutogradTensor = SharedTensor

__version__ = "0.1.0"

__all__ = [
    "AbstractTensor",
    "AdditiveSharingTensor",
    "AutogradTensor",
    "BaseDataset",
    "DASH",
    "DataParallel",
    "DriverIsProviderWarning",
    "EncryptedLinearRegression",
    "FederatedDataLoader",
    "FederatedDataset",
    "FixedPrecisionTensor",
    "ID_PROVIDER",
    "Lanes",
    "LoggingTensor",
    "MultiPointerTensor",
    "NetworkedWorker",
    "NotTracedWarning",
    "NumpyTensor",
    "PaillierTensor",
    "Plan",
    "PointerPlan",
    "PointerProtocol",
    "PointerTensor",
    "Prepared",
    "PreparedUnusedWarning",
    "PrivateGridNetwork",
    "PrivateTensor",
    "Profile",
    "Protocol",
    "PublicGridNetwork",
    "ShareTorchError",
    "SharedTensor",
    "TorchHook",
    "Traced",
    "TrainConfig",
    "VirtualWorker",
    "autograd",
    "combine_pointers",
    "connect",
    "create_sandbox",
    "debug",
    "exceptions",
    "fl",
    "func2plan",
    "func2protocol",
    "install",
    "local_worker",
    "keygen",
    "load_checkpoint",
    "load_group",
    "make_hook",
    "nn",
    "overloaded",
    "plan_of",
    "profile",
    "save_checkpoint",
    "serde",
    "sync",
    "traced",
]

install()
tutorial_names.enter()
