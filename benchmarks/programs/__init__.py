"""Programs that run as processes of their own beside a flow: `python -m benchmarks.programs.NAME`."""
