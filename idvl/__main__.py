"""python -m idvl, and accelerate launch -m idvl."""

import sys
from importlib.util import find_spec

if __name__ == "__main__":
    if find_spec("idvl.commands") is None:
        sys.stderr.write(
            "idvl: not installed: its commands live beside the package in a clone; "
            "run `make install` there, then .venv/bin/idvl\n"
        )
        sys.exit(2)

    from idvl.commands import main

    sys.exit(main())
