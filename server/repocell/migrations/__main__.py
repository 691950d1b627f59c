"""Brings a store to the newest schema: `python -m repocell.migrations FILE`. Several processes may try at once."""

import fcntl
import sys
from pathlib import Path

from alembic import command
from alembic.config import Config


def main() -> None:
    file = Path(sys.argv[1])
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("sqlalchemy.url", f"sqlite:///{file}".replace("%", "%%"))
    with Path(f"{file}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command.upgrade(config, "head")


main()
