"""Kafka and SQL, streamed exactly once."""


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(name)
    # Asked for seldom, and every process would wait for it at its start.
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    try:
        return version("waxwing-streams")
    except PackageNotFoundError:  # not installed, but run from the folder that it lies in
        return "unknown"
