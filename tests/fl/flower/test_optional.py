"""Without Flower everything else works, and this package says what to install."""

import subprocess
import sys

_PROGRAM = """
import sys
sys.modules["flwr"] = None
import sharetorch
try:
    import sharetorch.fl.flower
except sharetorch.mpc.errors.ShareTorchError as error:
    print(error)
"""


def test_without_flower_the_remedy_is_named() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", _PROGRAM], capture_output=True, text=True, check=True)
    assert "pip install 'sharetorch[flower]'" in done.stdout
