"""``python -m leaktight`` and the ``leaktight`` script."""

import sys

from leaktight import _core


def main() -> None:
    """Run the command line and exit with its status."""
    # As with `python -m timeit`: modules beside the user are found.
    if "" not in sys.path:
        sys.path.insert(0, "")
    status = _core.main(["leaktight", *sys.argv[1:]])
    sys.stdout.flush()
    sys.exit(status)


if __name__ == "__main__":
    main()
