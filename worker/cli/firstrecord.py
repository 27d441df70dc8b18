"""The log of a command: set up when there is something to log, as most commands have nothing."""

import logging

# Until the settings are read, records from here on are looked at.
_LEVELS = {"worker": logging.INFO, "alembic": logging.INFO}


class FirstRecord(logging.Handler):
    """Stands in for the log until its first record: then the settings say what it is like.

    A command writes for people, so it logs warnings only, unless LOG_LEVEL is set.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Set the log up, and have it take the record."""
        from worker import logs
        from worker.errors import SettingsError
        from worker.settings import configured, load_settings
        from worker.types import LogFormat

        try:
            settings = load_settings()
            log_format, level = settings.log_format, settings.log_level
        except SettingsError:  # the command says so
            log_format, level = LogFormat.CONSOLE, "WARNING"
        logging.getLogger("alembic").setLevel(logging.NOTSET)
        logs.set_up(log_format, level if configured("LOG_LEVEL") else "WARNING")
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)


def log_when_needed() -> None:
    """Have records of this process wait for nothing but the first of them."""
    logging.getLogger().handlers[:] = [FirstRecord()]
    for name, level in _LEVELS.items():
        logging.getLogger(name).setLevel(level)
