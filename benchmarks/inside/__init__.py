"""Parts of Waxwing in one process beside what else does the same: no flow, no broker in between."""
