"""The command line: workers, their keys, groups for trying out, checks, and requests that wait for an owner.

Every command has ``--json`` for programs. Exit codes: 0 done, 1 failed or something is wrong, 2 wrong use.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sharetorch.cli import doctor, fl, keygen, requests, up, worker
from sharetorch.cli.output import Raw, fail
from sharetorch.mpc.errors import ShareTorchError

_EXAMPLES = """\
examples:
  sharetorch up --parties 2 --demo            two parties and a provider on this machine
  sharetorch keygen --id alice --id bob --id crypto_provider --id me
  sharetorch worker --config /etc/sharetorch/worker.toml
  sharetorch doctor --config /etc/sharetorch/worker.toml
  sharetorch requests list --config /etc/sharetorch/worker.toml
  sharetorch fl simulate --clients 20 --dataset digits --rule median --byzantine 0.3 --attack sign-flip
  sharetorch fl serve --help                  rounds with real clients, who run: sharetorch fl join
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments; those of the process if not given.

    Returns:
        The exit code.
    """
    args = parser().parse_args(argv)
    try:
        return int(args.run(args))
    except ShareTorchError as error:
        return fail(error, args.json)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # Whoever read our output has gone; there is nobody to tell.
        return 1


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    found = argparse.ArgumentParser(
        prog="sharetorch",
        description="Secure multi-party computation for PyTorch: workers on different machines.",
        epilog=_EXAMPLES,
        formatter_class=Raw,
    )
    commands = found.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in (worker, keygen, up, doctor, requests, fl):
        module.add(commands)
    return found
