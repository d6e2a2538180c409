"""What turns a Program into something that runs: `base` says what a backend is, each folder holds one."""

if __name__ != "fxpress.backends":
    raise ImportError(
        f"import this package as fxpress.backends, not as {__name__}: a raw import makes a second copy of it"
    )
