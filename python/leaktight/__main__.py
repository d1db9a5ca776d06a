"""``python -m leaktight`` and the ``leaktight`` script."""

import sys

from leaktight import ExitStatus, _core


def main() -> None:
    """Run the command line and exit with its status."""
    # As with `python -m timeit`: modules beside the user are found.
    if "" not in sys.path:
        sys.path.insert(0, "")
    arguments = ["leaktight", *sys.argv[1:]]
    try:
        " ".join(arguments).encode()
    except UnicodeEncodeError:
        sys.exit(_usage("the arguments are not valid UTF-8"))
    sys.exit(_core.main(arguments))


def _usage(message: str) -> ExitStatus:
    if sys.stderr is not None:
        print(f"leaktight: {message}", file=sys.stderr)
    return ExitStatus.USAGE


if __name__ == "__main__":
    main()
